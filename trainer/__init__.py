"""Training: transfer learning in two phases, and the export of the model. Everything that knows Keras."""
