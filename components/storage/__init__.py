"""Files on disk and at URIs. This is the only room that knows Beam's file systems; it imports no node.

Three file APIs meet in Graftline, each for its own files:
- Beam's, through this package: the user's files, and rows that a Beam stage wrote. `files` reads them and refuses pipes
  and devices, `listing` lists folders, `versions` pushes models. Credentials and endpoints come from `beam.options`.
- `tf.io.gfile`: what a node writes for itself and for later runs, such as reports, shards, state and checkpoints.
  TensorFlow opens the same files as TFRecords and SavedModels, so both must reach the same places.
- TFX's (`tfx.utils.io_utils`, readers and writers): artifacts whose file names TFX chooses, such as the schema, the
  anomalies and the blessing.
"""
