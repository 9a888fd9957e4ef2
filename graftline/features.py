"""Names of the features in every tf.Example that Graftline writes, and of what the Transform makes of them."""

IMAGE = "image/encoded"  # bytes of the file as it was found (or transcoded)
FORMAT = "image/format"  # "jpeg", "png", "gif", "bmp"
FILENAME = "image/filename"  # relative to the root of the images, with "/" between parts
SHA256 = "image/key/sha256"  # hex digest of IMAGE
HEIGHT = "image/height"  # pixels, as a viewer shows it (after EXIF orientation)
WIDTH = "image/width"
LABEL = "image/class/text"  # the class: the folder's name
BRIGHTNESS = "image/quality/brightness"  # mean luma, 0..1
CONTRAST = "image/quality/contrast"  # standard deviation of luma, 0..1
SHARPNESS = "image/quality/sharpness"  # standard deviation of luma's Laplacian

# What the Transform gives.
PIXELS = "pixels"  # float32 [N, height, width, 3], preprocessed for the backbone
LABEL_INDEX = "label_index"  # int64 [N], index into LABELS_FILE

LABELS_FILE = "labels.txt"  # asset of the Transform and of the SavedModel: sorted class names, one a line


def parse_labels(data: bytes) -> list[str]:
    """The class names in the order of the model's outputs, from the bytes of a LABELS_FILE.

    By newline alone: `str.splitlines` would also cut at U+2028 and its like, which a class name may hold.
    """
    return data.decode().removesuffix("\n").split("\n")


TRAIN = "train"
EVAL = "eval"
SPLITS = (TRAIN, EVAL)
TEST = "test"  # where the images come split in three: the gate judges by it, and training never sees it
