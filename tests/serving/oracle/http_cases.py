"""HTTP/1.1 whose framing is odd: chunks, lengths, headers, lines, pipelines; and HTTP/2 frames in any order."""

import random
import struct
import zlib

from tests.serving.oracle import http2
from tests.serving.oracle.case import Case, damage
from tests.serving.oracle.http2 import frame, literal

_POST = b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: localhost\r\n"
_GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
_BODY = b'{"instances": [[1, 2]]}'


def _chunks(chance: random.Random, size: int) -> tuple[str, bytes]:
    head = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)
    kinds = {
        "of a byte": head + b"1\r\n[\r\n" * (size // 6) + b"0\r\n\r\n",
        "with extensions": head + b"1;" + b"a=b;" * (size // 4) + b"\r\n[\r\n0\r\n\r\n",
        "with small extensions": head + b"1;a=b\r\n[\r\n" * (size // 10) + b"0\r\n\r\n",
        "of leading zeros": head + b"0" * size + b"1\r\n[\r\n0\r\n\r\n",
        "of a huge size": head + b"f" * chance.choice([8, 16, 17, 400]) + b"\r\n" + b"[" * size,
        "of a wrong size": head
        + chance.choice([b"-1", b"0x1", b"+1", b" 1", b"1_0", b"\xb2", b""])
        + b"\r\n[\r\n0\r\n\r\n",
        "with trailers": head + whole[:-2] + b"X: y\r\n" * (size // 6) + b"\r\n",
        "with one trailer": head + whole[:-2] + b"X: " + b"y" * size + b"\r\n\r\n",
        "by bare newlines": head + whole.replace(b"\r\n", b"\n"),
        "twice": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + whole,
        "and a length": _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + whole,
        "in capitals": _POST + b"transfer-encoding: CHUNKED\r\n\r\n" + whole,
        "and gzip": _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + whole,
    }
    name = chance.choice([*kinds])
    return f"chunks {name}", kinds[name]


def _heads(chance: random.Random, size: int) -> tuple[str, bytes]:
    length = b"Content-Length: %d\r\n" % len(_BODY)
    many = b"".join(b"X-%d: y\r\n" % number for number in range(size // 12))
    kinds = {
        "the same header": _GET + b"X: y\r\n" * (size // 6) + b"\r\n",
        "other headers": _GET + many + b"\r\n",
        "a long header": _GET + b"X: " + b"y" * size + b"\r\n\r\n",
        "a long name": _GET + b"X" * size + b": y\r\n\r\n",
        "empty headers": _GET + b"X:\r\n" * (size // 4) + b"\r\n",
        "folded lines": _GET + b"X: y\r\n" + b" z\r\n" * (size // 4) + b"\r\n",
        "a folded length": _POST + b"Content-Length:\r\n 23\r\n\r\n" + _BODY,
        "a long target": b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "a long query": b"GET /healthz?" + b"a=b&" * (size // 4) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "a quoted name": b"GET /v1/models/" + b"%00" * (size // 3) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "a long method": b"G" * size + b" / HTTP/1.1\r\n\r\n",
        "a long version": b"GET / HTTP/" + b"1" * size + b"\r\n\r\n",
        "empty lines": b"\r\n" * (size // 2) + _GET + b"\r\n",
        "no end of a line": b"\0" * size,
        "many lengths": _POST + length * (size // len(length)) + b"\r\n" + _BODY,
        "two lengths": _POST + length + b"Content-Length: 5\r\n\r\n" + _BODY,
        "a list of lengths": _POST + b"Content-Length: " + b"23," * (size // 3) + b"23\r\n\r\n" + _BODY,
        "a long length": _POST + b"Content-Length: " + b"0" * size + b"23\r\n\r\n" + _BODY,
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "many hosts": b"GET /healthz HTTP/1.1\r\n" + b"Host: localhost\r\n" * (size // 17) + b"\r\n",
        "many versions": b"POST /v1/models/numbers/versions/" + b"9" * size + b":predict HTTP/1.1\r\nHost: x\r\n\r\n",
        "an expectation": _POST + b"Expect: 100-continue\r\n" * max(1, size // 22) + length + b"\r\n" + _BODY,
        "many encodings": _POST + length + b"Content-Encoding: gzip\r\n" * (size // 24) + b"\r\n" + _BODY,
        "an upgrade": _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "HTTP/2 itself": http2.PREFACE + frame(http2.SETTINGS, 0, 0) * (size // 9),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(size),
    }
    name = chance.choice([*kinds])
    return name, kinds[name]


def _pipelines(chance: random.Random, size: int) -> tuple[str, bytes]:
    whole = _POST + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
    wrong = _POST + b"Content-Length: 1\r\n\r\n["
    one = chance.choice([_GET + b"\r\n", whole, wrong, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    count = min(400, max(1, size // len(one)))
    return f"{count} requests at once", one * count


def make(chance: random.Random, most: int) -> Case:
    """Return raw bytes for the REST port."""
    size = int(most ** chance.uniform(0.2, 1.0))
    name, data = chance.choice([_chunks, _heads, _heads, _pipelines])(chance, size)
    if chance.random() < 0.3:
        name, data = f"{name}, damaged", damage(data, chance)
    return Case(f"HTTP/1.1: {name}, {size:,} bytes", "http", data, framed=True)


def _settings(chance: random.Random) -> bytes:
    numbers = [0, 1, 4096, (1 << 31) - 1, (1 << 32) - 1]
    pairs = b"".join(
        struct.pack(">HI", chance.randint(0, 9), chance.choice(numbers)) for _ in range(chance.randint(0, 9))
    )
    return frame(http2.SETTINGS, chance.choice([0, 0, 1]), chance.choice([0, 0, 1]), pairs)


def _message(content: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(content)) + content


def _gzip_bomb(size: int) -> tuple[bytes, int]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(bytes(size)) + packer.flush(), size


def _floods(chance: random.Random, size: int) -> tuple[str, bytes, int]:
    """Return frames of one kind, again and again, and how many bytes they unpack to."""
    headers = http2.call_headers()
    opened = frame(http2.HEADERS, http2.END_HEADERS, 1, headers)
    stored = b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000  # into the dynamic table; each \xbe is all of it again
    streams = range(1, 2 * (size // (len(headers) + 9)) + 1, 2)
    ended = http2.END_HEADERS | http2.END_STREAM
    packed, unpacked = _gzip_bomb(min(64 << 20, 400 * size))
    encoding = headers + literal("grpc-encoding", "gzip")
    one = {
        "settings": _settings(chance),
        "pings": frame(http2.PING, 0, 0, bytes(8)),
        "ping answers": frame(http2.PING, 1, 0, bytes(8)),
        "priorities": frame(http2.PRIORITY, 0, chance.choice([0, 1, 3]), bytes(5)),
        "windows": frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", chance.choice([0, 1, (1 << 31) - 1]))),
        "resets": frame(http2.RST_STREAM, 0, chance.choice([1, 3, 2]), bytes(4)),
        "empty data": opened + frame(http2.DATA, 0, 1),
        "padded data": opened + frame(http2.DATA, 8, 1, b"\xff" + bytes(255)),
        "unknown frames": frame(chance.randint(10, 255), 255, 0, bytes(chance.randint(0, 100))),
        "promises": frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, struct.pack(">I", 2) + headers),
        "goodbyes": frame(http2.GOAWAY, 0, 0, bytes(8)),
        "same stream": opened,
    }
    whole = {
        "streams": b"".join(frame(http2.HEADERS, http2.END_HEADERS, stream, headers) for stream in streams),
        "ended streams": b"".join(frame(http2.HEADERS, ended, stream, headers) for stream in streams),
        "continuations": frame(http2.HEADERS, 0, 1, headers)
        + frame(http2.CONTINUATION, 0, 1, literal("a", "b" * 100)) * (size // 113),
        "empty continuations": frame(http2.HEADERS, 0, 1, headers) + frame(http2.CONTINUATION, 0, 1) * (size // 9),
        "a table": frame(http2.HEADERS, http2.END_HEADERS, 1, headers + stored + b"\xbe" * min(size, 12_000)),
        "tables": frame(http2.HEADERS, http2.END_HEADERS, 1, headers + stored)
        + b"".join(frame(http2.HEADERS, http2.END_HEADERS, n, headers + b"\xbe" * 3) for n in streams[1:]),
        "a long header": frame(http2.HEADERS, http2.END_HEADERS, 1, headers + literal("a", "b" * 16_000)),
        "a large frame": struct.pack(">I", min(size, 0xFFFFFF))[1:] + b"\0\0\0\0\0\1" + bytes(size),
        "a message of 4 GB": opened + frame(http2.DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000)),
        "messages": opened + frame(http2.DATA, 0, 1, _message(b"") * 2000),
        "a gzip bomb": frame(http2.HEADERS, http2.END_HEADERS, 1, encoding)
        + frame(http2.DATA, http2.END_STREAM, 1, _message(packed[:16_000], 1)),
    }
    name = chance.choice([*one, *whole])
    data = whole[name] if name in whole else one[name] * (size // len(one[name]))
    return name, data, unpacked if name == "a gzip bomb" else 0


def make_http2(chance: random.Random, most: int) -> Case:
    """Return raw bytes for the gRPC port: a flood, or a few frames in any order."""
    size = int(most ** chance.uniform(0.3, 1.0))
    unpacked = 0
    if chance.random() < 0.7:
        name, data, unpacked = _floods(chance, size)
    else:
        headers = http2.call_headers(chance.choice([http2.PREDICT, "/grpc.health.v1.Health/Check", "/x", ""]))
        payloads = [b"", bytes(4), bytes(5), bytes(8), headers, _message(b""), chance.randbytes(30)]
        frames = [
            frame(chance.randint(0, 10), chance.choice([0, 1, 4, 5, 8, 32, 255]), chance.randint(0, 9), payload)
            for payload in chance.choices(payloads, k=chance.randint(1, 60))
        ]
        name, data = "frames in any order", b"".join(frames)
    if chance.random() < 0.2:
        name, data = f"{name}, damaged", damage(data, chance)
    start = http2.PREFACE + frame(http2.SETTINGS, 0, 0) if chance.random() < 0.95 else b""
    return Case(f"HTTP/2: {name}, {size:,} bytes", "http2", start + data, unpacked=unpacked)
