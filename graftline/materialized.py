"""Names in the output of the Transform with `data.materialize`: the contract of Transform and trainer.

The output is a tf.Example for each image: the resized image IMAGE, SHA256 (of the image file) and LABEL_INDEX.
"""

IMAGE = "image/resized"  # uint8 [size, size, 3], RGB, upright, before the backbone's preprocessing; zlib (RFC 1950)

POINTER = "materialized.txt"  # in the folder of the Transform's graph; holds the URI of the transformed examples
