"""The nodes of the pipeline, a folder each, and `storage`, which they share.

The face of a node is its package: `from graftline.components.pusher import PushSettings, make_pusher`. The package
offers the node's component and settings and, for some nodes, what reads its inputs or its outputs outside of a run. The
names are imported when they are first used: the config imports settings, and must not import TFX, as components do. The
other modules of a node are its own; import-linter forbids them to the other nodes and rooms.
"""

from graftline import own_keras

own_keras.set_environment()
