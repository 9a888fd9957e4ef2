"""Package metadata. `pip install graftline` gives the serving client and the command;
`pip install 'graftline[pipeline]'` adds TFX and TensorFlow, which every stage of the pipeline needs."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "graftline" / "__init__.py").read_text()).group(1)  # type: ignore[union-attr]

# What the command line, the config and the client need: seconds to install, no TensorFlow.
LIGHT = [
    "click>=8.1",
    "pydantic>=2.7,<3",
    "PyYAML>=6",
    "rich>=13",
    "numpy>=1.23,<2",
    "pillow>=12.1",
    "grpcio>=1.60",
    "protobuf>=3.20,<4",
]

# The newest TFX that installs on glibc < 2.39, with the bounds that its own metadata leaves out:
# Beam 2.68 drops `dill` (tfx-bsl imports it), an open kfp range resolves to 1.4,
# and setuptools 81 drops pkg_resources (tensorflow_hub imports it).
PIPELINE = [
    "tfx==1.16.0",
    "apache-beam[gcp]<2.68",
    "kfp>=2,<2.6",
    "setuptools<81",
    "tensorflow-serving-api==2.16.1",
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
    "hypothesis>=6.100",
    "ruff",
    "mypy",
    "import-linter",
    "types-PyYAML",
    "requests",
]

setup(
    name="graftline",
    version=VERSION,
    description="From a folder of labelled images to a served classifier: transfer learning on TFX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.11",
    packages=find_packages(
        include=[
            f"{room}{tail}"
            for room in ("graftline", "serving", "trainer", "components", "pipeline")
            for tail in ("", ".*")
        ]
    ),
    install_requires=LIGHT,
    extras_require={"pipeline": PIPELINE, "heif": HEIF, "s3": S3, "dev": DEV},
    entry_points={"console_scripts": ["graftline=pipeline.cli:main"]},
)
