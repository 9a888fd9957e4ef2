"""Classify and regress: signatures that take serialized tf.Examples and return classes and scores, or values.

Both ports use them. Source: TF Serving's servables/tensorflow/{classifier,regressor,util}.cc.
"""

from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2

from graftline.serving.server.errors import invalid
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.tensors import dtype_of, shape_text
from graftline.signatures import SERVING_DEFAULT

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_MAX_COPIES = 16 << 20  # bytes of an ExampleListWithContext's context, once for each example
_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def examples_of(request_input: Any) -> list[bytes]:
    """Return the serialized tf.Examples of a `tensorflow.serving.Input`, each with its context; [] for an empty one."""
    if request_input.WhichOneof("kind") == "example_list_with_context":
        listed = request_input.example_list_with_context
        # Protobuf reads two concatenated messages as one with the fields of both.
        context = listed.context.SerializeToString()
        copies = len(context) * len(listed.examples)
        if copies > _MAX_COPIES + listed.ByteSize():
            raise invalid(
                f"the context takes {copies} bytes in the {len(listed.examples)} examples, more than {_MAX_COPIES}: "
                "send fewer examples in a request, or put into each what it needs"
            )
        return [context + example.SerializeToString() for example in listed.examples]
    return [example.SerializeToString() for example in request_input.example_list.examples]


def signature_of(model: LoadedModel, name: str, method: str) -> Any:
    """Return the SignatureDef `name` (`serving_default` for ""), checked against `method`. Raises INVALID_ARGUMENT."""
    signature = model.signatures.get(name or SERVING_DEFAULT)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name or SERVING_DEFAULT}")
    check_signature(signature, method)
    return signature


def check_signature(signature: Any, method: str) -> None:
    """Raise INVALID_ARGUMENT unless a SignatureDef has the inputs and outputs of CLASSIFY or REGRESS."""
    kind = "classification" if method == CLASSIFY else "regression"
    if signature.method_name != method:
        raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if method == CLASSIFY and len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if method == REGRESS and len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if _INPUTS not in signature.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {signature}")
    if method == REGRESS and _OUTPUTS not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature}")
    if method == CLASSIFY and not {_CLASSES, _SCORES} & set(signature.outputs):
        raise invalid(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {signature}"
        )


def _run(
    model: LoadedModel, name: str, examples: list[bytes], outputs: list[str], timeout: float | None
) -> dict[str, np.ndarray]:
    if not examples:
        raise invalid("Input is empty.")
    return model.predict(name, {_INPUTS: np.array(examples, object)}, outputs, timeout)


def classify(
    model: LoadedModel, name: str, examples: list[bytes], timeout: float | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the labels (bytes [N, C]) and scores (float32 [N, C]) of N examples; None for a missing output.

    Raises INVALID_ARGUMENT for a signature that does not classify, no examples, or outputs of another shape or type.
    Raises the errors of the run too.
    """
    signature = signature_of(model, name, CLASSIFY)
    names = [output for output in (_CLASSES, _SCORES) if output in signature.outputs]
    outputs = _run(model, name, examples, names, timeout)
    labels, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    if labels is not None:
        _check_matrix(labels, len(examples), _CLASSES, object, "DT_STRING")
    if scores is not None:
        _check_matrix(scores, len(examples), _SCORES, np.float32, "DT_FLOAT")
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return labels, scores


def _datatype(values: np.ndarray) -> str:
    return str(types_pb2.DataType.Name(dtype_of(values).as_datatype_enum))


def _check_matrix(values: np.ndarray, examples: int, name: str, dtype: Any, datatype: str) -> None:
    if values.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(values)}")
    if values.dtype != dtype:
        raise invalid(f"Expected {name} Tensor of {datatype}. Got: {_datatype(values)}")
    if len(values) != examples:
        raise invalid(f"Expected {name} output batch size of {examples}. Got: {len(values)}")


def regress(model: LoadedModel, name: str, examples: list[bytes], timeout: float | None = None) -> np.ndarray:
    """Return one float32 for each of N examples: [N]. Raises ServingError as `classify` does."""
    signature_of(model, name, REGRESS)
    values = _run(model, name, examples, [_OUTPUTS], timeout)[_OUTPUTS]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {shape_text(values)}"
        )
    if len(values) != len(examples):
        raise invalid(f"Input batch size did not match output batch size: {len(examples)} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_datatype(values)}")
    return values.ravel()
