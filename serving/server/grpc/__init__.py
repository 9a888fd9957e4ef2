"""The gRPC port of the model server."""
