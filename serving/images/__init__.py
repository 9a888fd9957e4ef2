"""Image files on their way to the model: what ingest stores of a file, and so what a client sends of it. Pillow only.

ImageExampleGen and the client share it, so that a WebP or a turned PNG is classified as it would have been trained on.
Import what you need from its module: this file imports nothing.
"""
