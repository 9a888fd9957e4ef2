"""Package metadata.

`pip install graftline` installs the client and `graftline predict --server`.
`pip install 'graftline[serve]'` adds TensorFlow, for `graftline serve` and `graftline predict --model`.
`pip install 'graftline[pipeline]'` adds TFX, for the pipeline and `graftline bulk`.
"""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "graftline" / "__init__.py").read_text()).group(1)  # type: ignore[union-attr]

# The command line, the config and the client. They install in seconds and need no TensorFlow. Upper bounds are few,
# because an application has requirements of its own. httpx has one API for blocking and for asynchronous callers.
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

# The model server needs these, too.
SERVE = [
    "tensorflow>=2.16,<2.17",
    "tensorflow-serving-api==2.16.1",
    "numpy<2",
    "protobuf<5",
    "python-rapidjson>=1.20",
    "grpcio-health-checking>=1.48",
    "h11>=0.16,<1",  # 0.16.0 refuses a chunk with a wrong end: CVE-2025-43859
]

# The newest TFX that installs on glibc < 2.39. TFX's own metadata leaves these bounds out:
# Beam 2.68 drops `dill`, which tfx-bsl imports; an open range for kfp resolves to 1.4;
# setuptools 81 drops pkg_resources, which tensorflow_hub imports.
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

# HEIC photos, the format of many phones.
HEIF = ["pillow-heif>=1"]

# Images at s3://. Beam brings the packages for gs://.
S3 = ["boto3>=1.9,<2"]

# The documentation's site. mkdocstrings reads docstrings from the sources and imports nothing.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2", "pymdown-extensions<11"]

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
    *DOCS,
]

setup(
    name="graftline",
    version=VERSION,
    description="From a folder of labelled images to a served classifier: transfer learning on TFX",
    license="Apache-2.0",
    keywords=["transfer learning", "image classification", "TFX", "Keras", "TensorFlow Serving", "MLOps"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",  # for the client; TFX 1.16 itself requires less than 3.11
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
