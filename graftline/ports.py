"""The default ports of a model server, which are those of TensorFlow Serving: the contract of server and clients."""

GRPC_PORT = 8500
REST_PORT = 8501
