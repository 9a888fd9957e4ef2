"""ImageExampleGen: a folder of labelled images becomes checked, split, sharded tf.Examples, and a list of the refused.

`layouts` and `splits` are light and may be imported anywhere; `ingest` holds the Beam stages and imports TensorFlow
but no TFX; `component` and `executor` import TFX. Import what you need from its module: this file imports nothing.
"""
