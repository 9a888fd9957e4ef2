"""Where real weights and photos lie, for tests and benchmarks; they are not part of the repository."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ASSETS = pathlib.Path(os.environ.get("GRAFTLINE_ASSETS", ROOT.parent / "shared" / "assets"))

needs_assets = pytest.mark.skipif(
    not ASSETS.is_dir(), reason=f"no real weights and photos at {ASSETS}; set GRAFTLINE_ASSETS"
)

MOBILENET_V2_035 = ASSETS / "weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
MOBILENET_V2_100 = ASSETS / "weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
FLOWERS = ASSETS / "images/flowers"
EUROSAT = ASSETS / "images/eurosat"
