"""Image files before a decoder of TensorFlow sees them: formats, headers, and conversion to what serving decodes.

ImageExampleGen and the clients share this room, so that a WebP or a rotated PNG is classified as the model was trained.
Import from its modules: this file imports nothing.
"""
