"""Names of the features in the tf.Examples that Graftline writes, and of the tensors that the Transform outputs."""

IMAGE = "image/encoded"  # bytes of the image file, transcoded if serving cannot decode it
FORMAT = "image/format"  # "jpeg", "png", "gif", "bmp"
FILENAME = "image/filename"  # relative to the root of the images, with "/" between parts
SHA256 = "image/key/sha256"  # hex digest of IMAGE
HEIGHT = "image/height"  # pixels, after EXIF orientation, as a viewer shows the image
WIDTH = "image/width"
LABEL = "image/class/text"  # the class, for example the name of the folder
BRIGHTNESS = "image/quality/brightness"  # mean luma, 0..1
CONTRAST = "image/quality/contrast"  # standard deviation of luma, 0..1
SHARPNESS = "image/quality/sharpness"  # standard deviation of luma's Laplacian

# Outputs of the Transform.
PIXELS = "pixels"  # float32 [N, height, width, 3], preprocessed for the backbone
LABEL_INDEX = "label_index"  # int64 [N], index into LABELS_FILE

LABELS_FILE = "labels.txt"  # asset of the Transform and of the SavedModel: sorted class names, one per line


def parse_labels(data: bytes) -> list[str]:
    """Return the class names of a LABELS_FILE, in the order of the model's outputs.

    Only newlines end a name: `str.splitlines` would also cut at U+2028 and similar characters in a class name.
    """
    return data.decode().removesuffix("\n").split("\n")


TRAIN = "train"
EVAL = "eval"
SPLITS = (TRAIN, EVAL)
TEST = "test"  # only if the user's images have this split: the gate judges by it, training never reads it
