"""The HTTP server alone, in a thread, and raw connections to it. Used by the tests of its port."""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

from graftline.serving.server.http.messages import Answer, Message, Receive, Send, read_body, send_answer
from graftline.serving.server.http.server import HttpServer
from graftline.serving.server.limits import ByteBudget
from graftline.serving.server.threads import LoopThread

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Requests = list[tuple[str, str, bytes]]


@contextlib.contextmanager
def running(
    answered: Callable[[], Awaitable[object]] | None = None,
    seconds: float = 10,
    loop: LoopThread | None = None,
    answer: bytes = b"answered",
    max_body: int = 1000,
    budget: ByteBudget | None = None,
) -> Iterator[tuple[HttpServer, Requests]]:
    """A server that records its requests; `answered` is awaited after each answer has left."""
    requests: Requests = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        requests.append((scope["method"], scope["path"], await read_body(receive)))
        await send_answer(send, Answer(200, answer))
        if answered:
            await answered()

    server = HttpServer(application, "127.0.0.1", 0, max_body, seconds, budget)
    loop = loop or LoopThread("http")
    loop.run(server.start())
    try:
        yield server, requests
    finally:
        loop.run(server.close())
        loop.stop()


def connected(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def is_open(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def exchange(server: HttpServer, request: bytes) -> bytes:
    """Send these bytes, and return everything that the server sends until it closes the connection."""
    with connected(server) as client:
        client.sendall(request)
        said = b""
        while part := client.recv(65536):
            said += part
        return said


def post(server: HttpServer, size: int) -> bytes:
    return exchange(server, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
