"""JSON by depth, width and kind of leaf, in every place of a request; plain, damaged and in gzip."""

import base64
import json
import random

from tests.images import image_of
from tests.serving.oracle.case import Case, damage, gzipped, post

_LEAVES = {
    "arrays": b"[]",
    "objects": b"{}",
    "members": b'{"a":0}',
    "digits": b"0",
    "floats": b"-1.2345678901234567e+300",
    "tiny floats": b"1e-400",
    "huge integers": b"9" * 400,
    "literals": b"null",
    "booleans": b"true",
    "not numbers": b"NaN",
    "strings": b'"a"',
    "empty strings": b'""',
    "escapes": rb'"\u0000\ud83d\ude00\ud800"',
    "long strings": b'"' + b"x" * 5000 + b'"',
    "base64": b'{"b64":"AAAA"}',
    "empty base64": b'{"b64":""}',
    "wrong base64": b'{"b64":3}',
    "pairs": b"[1,2]",
    "wrong pairs": b'[1,"a"]',
    "vectors": b'{"x":[1,2]}',
    "features": b'{"a":[1,2.5],"b":"text"}',
    "same keys": b'{"a":0,"a":0,"a":0}',
    "rubbish": b"]",
}
# Where the value stands in the request. `%` is it.
_PLACES = {
    "alone": b"%",
    "instances": b'{"instances":%}',
    "in instances": b'{"instances":[%]}',
    "inputs": b'{"inputs":%}',
    "inputs.x": b'{"inputs":{"x":%}}',
    "inputs.image_bytes": b'{"inputs":{"image_bytes":%}}',
    "examples": b'{"examples":%}',
    "in examples": b'{"examples":[{"x":%}]}',
    "context": b'{"context":%,"examples":[{"x":1}]}',
    "signature_name": b'{"signature_name":%,"instances":[[1,2]]}',
    "another key": b'{"other":%,"instances":[[1,2]]}',
    "twice": b'{"instances":%,"instances":%}',
    "both": b'{"instances":[[1,2]],"inputs":%}',
    "cut off": b'{"instances":%',
    "behind": b'{"instances":[[1,2]]}%',
}
_TARGETS = [
    *["numbers:predict", "colours:predict", "numbers:classify", "colours:regress", "nobody:predict"],
    *[
        "numbers/versions/1:predict",
        "numbers/versions/9:predict",
        "numbers/labels/x:predict",
        "%00:predict",
        ":predict",
    ],
]
_DEPTHS = [1, 1, 1, 2, 3, 60, 64, 65, 900, 1100, 20_000]
_BASE64 = base64.b64encode(image_of("red")).decode()


def value(leaf: bytes, depth: int, size: int) -> bytes:
    """Return JSON of about `size` bytes: arrays `depth` deep around the leaf, again and again."""
    width = max(1, (size - 2 * depth) // (len(leaf) + 1))
    return b"[" * depth + b",".join([leaf] * width) + b"]" * depth


def _deep_objects(depth: int) -> bytes:
    return b'{"a":' * depth + b"0" + b"}" * depth


def make(chance: random.Random, most: int) -> Case:
    """Return a case of at most about `most` bytes."""
    size = int(most ** chance.uniform(0.3, 1.0))
    leaf, place = chance.choice([*_LEAVES]), chance.choice([*_PLACES])
    target = chance.choice(_TARGETS)
    depth = chance.choice(_DEPTHS)
    if place == "twice":
        size //= 2
    kind = chance.randrange(8)
    if kind == 0:
        depth = size // 6
        text, name = _deep_objects(depth), f"objects {depth} deep"
    elif kind == 1:  # every array holds the next and a leaf
        depth = max(1, min(depth, size // (len(_LEAVES[leaf]) + 3)))
        text, name = (b"[" + _LEAVES[leaf] + b",") * depth + b"0" + b"]" * depth, f"{leaf} at each of {depth} levels"
    else:
        text, name = value(_LEAVES[leaf], depth, size), f"{size:,} bytes of {leaf}, {depth} deep"
    text = _PLACES[place].replace(b"%", text)
    path = f"/v1/models/{target}"
    name = f"JSON {place}: {name}, to {target}"
    how = chance.randrange(4)
    if how == 0:
        return Case(f"{name}, damaged", "http", post(damage(text, chance), path))
    if how == 1:
        return Case(name, "http", post(text, path))
    return gzipped(name, text, path, chance)


def make_small(chance: random.Random, _most: int) -> Case:
    """Return a small request that is damaged a little, or that is whole and odd."""
    good: dict[str, object] = {"instances": [{"b64": _BASE64}] * chance.randint(1, 3)}
    if chance.random() < 0.5:
        good = {chance.choice(["instances", "inputs", "examples"]): _odd(chance)}
    body = json.dumps(good).encode("utf-8", "surrogatepass")
    if chance.random() < 0.5:
        body = damage(body, chance)
    return Case("a small JSON", "http", post(body, f"/v1/models/{chance.choice(_TARGETS)}"))


def _odd(chance: random.Random, depth: int = 0) -> object:
    if depth < 4 and chance.random() < 0.6:
        parts = [_odd(chance, depth + 1) for _ in range(chance.randint(0, 4))]
        keys = ["signature_name", "image_bytes", "x", "b64", "é"]
        return parts if chance.random() < 0.5 else dict(zip(chance.sample(keys, len(parts)), parts, strict=True))
    scalars: list[object] = [None, True, False, 0, -1, 1 << 70, 1e308, float("nan"), float("inf"), "", "x", "b64"]
    scalars += [{"b64": _BASE64}, {"b64": "%%%"}, {"b64": "AAA"}, {"b64": 3}]
    return chance.choice(scalars)
