"""Requests and answers of the HTTP port, as the rooms of this folder pass them on. Standard library only."""

import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from graftline.serving.server.errors import Code, ServingError

Message = MutableMapping[str, Any]  # ASGI's types
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """One HTTP request that matched a route."""

    method: str
    path: str  # as it was sent: quoted, without the query
    parts: Mapping[str, str | None]  # what the named groups of the route's pattern matched
    body: bytes
    gzipped: bool = False

    def part(self, name: str) -> str | None:
        """Return a part of the path without its quoting; None when the path lacks it."""
        text = self.parts[name]
        return None if text is None else urllib.parse.unquote(text)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)  # in addition to Content-Type and Content-Length


class RefusedError(ServingError):
    """A request that is not accepted as it was sent; the client gets the HTTP status and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)  # the metrics know gRPC's codes only
        self.answer = error_answer(status, message)


def error_answer(status: int, message: str) -> Answer:
    """Return an error in TF Serving's form. A 503 (a full queue, for example) tells the client when to try again."""
    body = json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Answer(status, body, headers=headers)


def text_answer(status: int, text: str) -> Answer:
    """Return one line of plain text."""
    return Answer(status, (text + "\n").encode("utf-8", "replace"), "text/plain; charset=utf-8")


def too_large(limit: int) -> RefusedError:
    """Return the error of a body of more than `limit` bytes."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB" if limit >= 1 << 10 else f"{limit} bytes"
    return RefusedError(413, f"request body is larger than {size}: send fewer or smaller images at once")


async def read_body(receive: Receive) -> bytes:
    """Return the whole body of a request from ASGI's messages."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer as ASGI's two messages."""
    headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": lines})
    await send({"type": "http.response.body", "body": answer.body})
