"""Names of the files in an InfraBlessing: the contract of ServingValidator, Evaluator, Pusher and a run's summary."""

# The marks of TFX's own InfraValidator, which TFX's Pusher reads.
INFRA_BLESSED, INFRA_NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"
SERVING_VALIDATION_FILE = "serving_validation.json"  # what Graftline's ServingValidator measured
