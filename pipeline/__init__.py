"""What runs, in what order, and where: the command line, the config, the DAG and its runners."""

from graftline import own_keras

own_keras.set_environment()
