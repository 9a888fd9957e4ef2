"""Everything after the push: versions, the model server, its client, and TensorFlow Serving. No TFX, no Keras."""
