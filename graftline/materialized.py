"""Names of what the Transform writes with `data.materialize`, the contract of Transform and trainer.

Resized images as tf.Examples: `IMAGE`, and the features SHA256 (of the image's file) and LABEL_INDEX.
"""

IMAGE = "image/resized"  # uint8 [size, size, 3], RGB, upright, before the backbone's preprocessing; zlib (RFC 1950)

POINTER = "materialized.txt"  # in the Transform's output, beside its graph: the URI of the transformed examples
