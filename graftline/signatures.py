"""Names of the SavedModel's signatures, inputs and outputs: the contract of trainer, Evaluator, server and client."""

SERVING_DEFAULT = "serving_default"  # image_bytes string [N] -> the PREDICTION outputs
SERVING_EXAMPLES = "serving_examples"  # serialized tf.Examples string [N] -> the same outputs
TRANSFORM_FEATURES = "transform_features"  # serialized tf.Examples string [N] -> label_index int64 [N]
EMBEDDING = "embedding"  # image_bytes string [N] -> embedding float32 [N, D]

IMAGE_BYTES = "image_bytes"
EXAMPLES = "examples"

PROBABILITIES = "probabilities"  # float32 [N, C], in the order of assets/labels.txt
LABEL = "label"  # string [N]
SCORE = "score"  # float32 [N], the probability of `label`
TOP_K_LABELS = "top_k_labels"  # string [N, k], best first
TOP_K_SCORES = "top_k_scores"  # float32 [N, k]

CLASSIFICATION = (LABEL, SCORE, TOP_K_LABELS, TOP_K_SCORES)  # the outputs that Graftline's client requests

TOP_K = 5  # k = min(TOP_K, C)

EMBEDDING_OUTPUT = "embedding"

# gRPC trailing metadata of NOT_FOUND: the server's models, %-encoded, separated by commas.
MODELS_METADATA = "graftline-models"

WARMUP_FILE = "tf_serving_warmup_requests"  # a TFRecord of PredictionLog in assets.extra/
REFERENCES_FILE = "reference_predictions.tfrecord"  # lies next to the SavedModel: see `graftline.references`
