"""ServingValidator: serves the candidate as TFX's InfraValidator does, without docker.

`component` is the node and `executor` runs it. `validation` sends the requests, `server_process` is the server.
"""
