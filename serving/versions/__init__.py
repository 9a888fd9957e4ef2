"""Versions of a model under a TF Serving base path: find, push, label, roll back and withdraw them. No TensorFlow."""
