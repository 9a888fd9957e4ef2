"""Messages of the gRPC API in which one field is repeated, nested, or lies about another; written by hand.

Field numbers: tensorflow_serving/apis/*.proto and tensorflow/core/{framework/tensor,example/*}.proto.
"""

import random
import struct

from tests.images import image_of
from tests.serving.oracle.case import Case, damage

_SERVICE = "/tensorflow.serving.PredictionService/"
_WEIRD = (0, 1, 2, 5, 127, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 62), (1 << 64) - 1)


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def scalar(number: int, value: int) -> bytes:
    """Return a field that holds a number."""
    return varint(number << 3) + varint(value)


def sub(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def _shape(*sizes: int) -> bytes:
    return sub(2, b"".join(sub(2, scalar(1, size)) for size in sizes))


def _repeated(one: bytes, size: int) -> bytes:
    return one * max(1, size // len(one))


def _tensor(chance: random.Random, size: int) -> tuple[str, bytes]:
    """Return a TensorProto, one of whose fields is filled."""
    dtype = chance.choice([*range(1, 24), 101, 99])
    field = chance.choice([4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17])
    packed = chance.random() < 0.5
    if field == 8:
        content = _repeated(sub(8, chance.choice([b"", b"a", b"x" * 300])), size)
        packed = False
    elif packed or field == 4:
        content = sub(field, chance.choice([b"\0", b"\x7f", b"\xff"]) * size)
    elif field in (5, 9):
        content = _repeated(varint(field << 3 | 5) + bytes(4), size)
    elif field in (6, 12):
        content = _repeated(varint(field << 3 | 1) + bytes(8), size)
    else:
        content = _repeated(scalar(field, chance.choice([0, 1, 255])), size)
    sizes = chance.choice([[], [1], [size], [size, 0], [2, size // 8], [0, 1 << 62], [1 << 40], [1] * 300])
    head = scalar(1, dtype) + _shape(*sizes)
    return f"dtype {dtype}, field {field}{' packed' * packed}, shape {str(sizes)[:30]}", head + content


def _dims(size: int) -> bytes:
    return scalar(1, 1) + sub(2, _repeated(sub(2, scalar(1, 1)), size))


def _predict(chance: random.Random, size: int) -> tuple[str, bytes]:
    model = chance.choice(["numbers", "numbers", "colours", "nobody"])
    key = chance.choice(["x", "x", "image_bytes", "other"])
    signature = chance.choice(["", "", "mixed", "narrow", "nothing"])
    spec = sub(1, sub(1, model.encode()) + (sub(3, signature.encode()) if signature else b""))
    kind = chance.choice(
        ["tensor"] * 6 + ["dims", "inputs", "same input", "filter", "spec", "name", "unknown", "groups"]
    )
    if kind == "tensor":
        name, tensor = _tensor(chance, size)
        return f"{model} {key}: {name}", spec + sub(2, sub(1, key.encode()) + sub(2, tensor))
    if kind == "inputs":  # each with a name of its own
        entries = (sub(2, sub(1, b"%d" % number) + sub(2, b"")) for number in range(size // 9))
        return "many inputs", spec + b"".join(entries)
    repeated = {
        "dims": lambda: sub(2, sub(1, key.encode()) + sub(2, _dims(size))),
        "same input": lambda: _repeated(sub(2, sub(1, b"x") + sub(2, scalar(1, 1))), size),
        "filter": lambda: _repeated(sub(3, chance.choice([b"", b"y", b"z"])), size),
        "spec": lambda: _repeated(spec, size),
        "name": lambda: sub(1, sub(1, b"x" * size)),
        "unknown": lambda: _repeated(chance.choice([scalar(99, 1), sub(99, b""), sub(1000, b"abc")]), size),
        "groups": lambda: b"\xa3\x06" * (size // 4) + b"\xa4\x06" * (size // 4),
    }
    return f"{kind} repeated", spec + repeated[kind]()


def _example(chance: random.Random, size: int) -> bytes:
    values = chance.choice([sub(1, sub(1, b"")), sub(1, sub(1, b"\xff\xd8\xff")), sub(2, sub(1, bytes(4)))])
    kind = chance.randrange(4)
    if kind == 0:
        feature = sub(3, sub(1, b"\0" * size))  # int64s, packed: a byte each
    elif kind == 1:
        feature = sub(1, _repeated(sub(1, b""), size))
    elif kind == 2:
        feature = sub(2, sub(1, bytes(size // 4 * 4)))
    else:
        entry = sub(1, sub(1, b"%d" % chance.randrange(100)) + sub(2, values))
        return sub(1, _repeated(entry, size))
    return sub(1, sub(1, sub(1, b"x") + sub(2, feature)))


def _by_examples(chance: random.Random, size: int, api: str) -> tuple[str, bytes]:
    examples = sub(1, _example(chance, size)) if chance.random() < 0.5 else _repeated(sub(1, _example(chance, 8)), size)
    container = sub(1, examples) if chance.random() < 0.7 else sub(2, examples + sub(2, _example(chance, size // 4)))
    spec = sub(1, sub(1, chance.choice([b"numbers", b"colours"])))
    if api == "MultiInference":
        task = sub(1, spec + sub(2, chance.choice([b"tensorflow/serving/classify", b"", b"x"])))
        return api, chance.choice([task, _repeated(task, size)]) + sub(2, container)
    return api, spec + sub(2, container)


def make(chance: random.Random, most: int) -> Case:
    """Return a call of at most about `most` bytes."""
    size = int(most ** chance.uniform(0.3, 1.0))
    api = chance.choice(["Predict"] * 5 + ["Classify", "Regress", "MultiInference", "GetModelMetadata"])
    if api == "Predict":
        name, data = _predict(chance, size)
    elif api == "GetModelMetadata":
        name, data = api, sub(1, sub(1, b"numbers")) + _repeated(sub(2, chance.choice([b"", b"signature_def"])), size)
    else:
        name, data = _by_examples(chance, size, api)
    if chance.random() < 0.3:
        name, data = f"{name}, damaged", damage(data, chance)
    return Case(f"{api}: {name}, {size:,} bytes", "grpc", data, method=_SERVICE + api)


def make_small(chance: random.Random, _most: int) -> Case:
    """Return a good request with an image, of which a few bytes are damaged."""
    image = damage(image_of("red"), chance) if chance.random() < 0.5 else image_of("red")
    version = sub(2, scalar(1, chance.choice([1, 3, *_WEIRD]))) if chance.random() < 0.3 else b""
    tensor = scalar(1, 7) + _shape(1) + sub(8, image)
    data = sub(1, sub(1, b"colours") + version) + sub(2, sub(1, b"image_bytes") + sub(2, tensor))
    if chance.random() < 0.6:
        data = damage(data, chance)
    if chance.random() < 0.1:
        data += struct.pack("<Q", chance.getrandbits(64))
    return Case("a small Predict", "grpc", data)
