"""What tells an image file: its name's end, the same for ingest and for `graftline predict`."""

import pytest
from PIL import Image

from graftline.serving.images import formats

_NOT_PILLOWS = {".heic", ".heif", ".hif"}  # pillow-heif's, which may not be installed


def test_every_suffix_is_of_a_format_that_ingest_stores() -> None:
    plugins = Image.registered_extensions()
    read = {plugins[suffix].lower() for suffix in formats.SUFFIXES if suffix not in _NOT_PILLOWS}
    assert read | {"heic"} == set(formats.READABLE)


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_a_name_that_ends_so_is_an_image_in_either_case(suffix: str) -> None:
    assert formats.is_image_name(f"a{suffix}") and formats.is_image_name(f"a{suffix.upper()}")
    assert not formats.is_image_name(f"a{suffix}.txt")
