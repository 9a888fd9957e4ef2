"""One malformed case, and what all makers of cases share."""

import random
import struct
import zlib
from dataclasses import dataclass

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Case:
    """What is sent to the server, and how much it weighs."""

    name: str  # how it was made
    kind: str  # "http": raw bytes to the REST port; "http2": raw bytes to the gRPC port; "grpc": a message
    data: bytes
    unpacked: int = 0  # bytes after decompression; 0: those of `data`
    pixels: int = 0  # that its images declare
    method: str = PREDICT
    framed: bool = False  # whether the framing of HTTP/1.1 is what is tried

    @property
    def weight(self) -> int:
        """The bytes n that the limits of memory and time are made from."""
        return max(self.unpacked, len(self.data))


def damage(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut out, put in or moved."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(6)
        if kind == 0 and changed:
            changed[at % len(changed)] = chance.randrange(256)
        elif kind == 1:
            del changed[at : at + chance.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 40))
        elif kind == 3:
            changed[at:at] = changed[: chance.randint(0, 60)]
        elif kind == 4:
            changed[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        elif chance.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def post(body: bytes, path: str = "/v1/models/colours:predict", headers: bytes = b"") -> bytes:
    """Return a whole POST; the server closes after it."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + headers + b"\r\n" + body


def gzipped(name: str, text: bytes, path: str, chance: random.Random) -> Case:
    """Return a POST of a body in gzip: whole, in two members, cut off, or damaged."""
    packer = zlib.compressobj(chance.choice([1, 6, 9]), zlib.DEFLATED, 31)
    body = packer.compress(text) + packer.flush()
    how = chance.choice(["whole", "whole", "whole", "cut off", "damaged", "two members", "a wrong length"])
    if how == "cut off":
        body = body[: chance.randrange(len(body))]
    elif how == "damaged":
        body = damage(body, chance)
    elif how == "two members":
        body += body
    elif how == "a wrong length":
        body = body[:-4] + struct.pack("<I", chance.getrandbits(32))
    return Case(f"{name}, gzip {how}", "http", post(body, path, b"Content-Encoding: gzip\r\n"), unpacked=len(text))
