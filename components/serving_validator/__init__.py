"""ServingValidator: what TFX's InfraValidator answers, without docker.

`component` is the node, `executor` its shell; `validation` asks the questions, `server_process` is the server asked.
"""
