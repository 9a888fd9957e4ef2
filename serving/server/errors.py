"""The errors of requests: gRPC's status codes, and the HTTP status of each. Standard library only.

Source: the table of `ToHTTPStatusCode` in TF Serving's model_servers/http_server.cc.
"""

import enum


class Code(enum.Enum):
    """gRPC's status codes: the value is gRPC's number, and `http_status` is the status of the REST API."""

    http_status: int

    def __new__(cls, number: int, http_status: int = 500) -> "Code":
        """Make the number the value, and keep the status beside it."""
        code = object.__new__(cls)
        code._value_, code.http_status = number, http_status
        return code

    OK = 0, 200
    CANCELLED = 1, 499
    UNKNOWN = 2, 500
    INVALID_ARGUMENT = 3, 400
    DEADLINE_EXCEEDED = 4, 504
    NOT_FOUND = 5, 404
    ALREADY_EXISTS = 6, 409
    PERMISSION_DENIED = 7, 403
    RESOURCE_EXHAUSTED = 8, 429
    FAILED_PRECONDITION = 9, 400
    ABORTED = 10, 409
    OUT_OF_RANGE = 11, 400
    UNIMPLEMENTED = 12, 501
    INTERNAL = 13, 500
    UNAVAILABLE = 14, 503
    DATA_LOSS = 15, 500
    UNAUTHENTICATED = 16, 401


class ServingError(Exception):
    """A request cannot be answered; the client gets the code and the message."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> ServingError:
    """Return INVALID_ARGUMENT: the request itself is at fault."""
    return ServingError(Code.INVALID_ARGUMENT, message)
