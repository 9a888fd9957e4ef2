"""Package metadata. `pip install graftline` gives the client and the command `predict --server`, in seconds and MBs;
`pip install 'graftline[serve]'` adds TensorFlow, for `serve` and `predict --model`; `pip install 'graftline[pipeline]'`
adds TFX, which every stage of the pipeline and `bulk` need."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "graftline" / "__init__.py").read_text()).group(1)  # type: ignore[union-attr]

# What the command line, the config and the client need: seconds to install, no TensorFlow, no upper bounds that an
# application's own requirements could clash with. httpx, because it has one API for callers that block and for those
# that don't.
LIGHT = [
    "click>=8.1",
    "pydantic>=2.7,<3",
    "PyYAML>=6",
    "rich>=13",
    "numpy>=1.23",
    "pillow>=12.1",
    "grpcio>=1.60",
    "protobuf>=3.20.2",
    "httpx>=0.27,<1",
]

# What the local model server needs beside.
SERVE = [
    "tensorflow>=2.16,<2.17",
    "tensorflow-serving-api==2.16.1",
    "numpy<2",
    "protobuf<5",
    "python-rapidjson>=1.20",
    "grpcio-health-checking>=1.48",
]

# The newest TFX that installs on glibc < 2.39, with the bounds that its own metadata leaves out:
# Beam 2.68 drops `dill` (tfx-bsl imports it), an open kfp range resolves to 1.4,
# and setuptools 81 drops pkg_resources (tensorflow_hub imports it).
PIPELINE = [
    *SERVE,
    "tfx==1.16.0",
    "apache-beam[gcp]<2.68",
    "kfp>=2,<2.6",
    "setuptools<81",
    "scikit-learn>=1.5,<1.6",
    "matplotlib>=3.10,<3.11",
    "scipy>=1.11,<2",
]

# HEIC photos, as phones write them.
HEIF = ["pillow-heif>=1"]

# Images at s3:// (Beam brings what gs:// needs).
S3 = ["boto3>=1.9,<2"]

DEV = [
    *HEIF,
    *S3,
    "moto[s3]",
    "flask",
    "flask-cors",
    "gcp-storage-emulator",
    "imagehash>=4.3.2,<5",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "prometheus-client>=0.20",
    "hypothesis>=6.100",
    "ruff",
    "mypy",
    "import-linter",
    "types-PyYAML",
    "requests",
    "selenium>=4.20,<5",
]

setup(
    name="graftline",
    version=VERSION,
    description="From a folder of labelled images to a served classifier: transfer learning on TFX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",  # of the client; TFX 1.16 asks for less than 3.11 itself
    packages=find_packages(include=["graftline", "graftline.*"]),  # the rooms are links in graftline/
    package_data={
        "graftline": ["py.typed"],
        "graftline.serving.server.http": ["page.html", "page.css", "page.js", "page.svg"],
        "graftline.serving.tf_serving": ["files/*"],
        "graftline.trainer": ["weights/*.weights.h5"],
    },
    install_requires=LIGHT,
    extras_require={"serve": SERVE, "pipeline": PIPELINE, "heif": HEIF, "s3": S3, "dev": DEV},
    entry_points={"console_scripts": ["graftline=graftline.pipeline.cli:main"]},
)
