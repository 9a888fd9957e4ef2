"""Names of files and properties by which ServingValidator, Evaluator, Pusher and the readers of their runs agree."""

# The marks of TFX's own InfraValidator, which TFX's Pusher reads.
INFRA_BLESSED, INFRA_NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"
SERVING_VALIDATION_FILE = "serving_validation.json"  # what Graftline's ServingValidator measured

# Properties of both blessings and of the PushedModel. All but the last two are TFX's.
BLESSED, CURRENT_MODEL = "blessed", "current_model_id"
PUSHED, PUSHED_DESTINATION, PUSHED_VERSION = "pushed", "pushed_destination", "pushed_version"
NEW_VERSION = "new_version"  # 1 when this push added the version
REFUSED = "refused"  # why a blessed model was not pushed
