"""Responses of the server: JSON, text, a stream, or an error as a Status object."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_CODES = {
    "BadRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Expired": 410,
    "Invalid": 422,
    "InternalError": 500,
    "ServiceUnavailable": 503,
}


@dataclass(frozen=True, kw_only=True)
class Response:
    """HTTP status, body and content type."""

    status: int
    body: bytes
    kind: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class StreamResponse(Response):
    """A response whose body is sent in chunks; `body` is not used."""

    chunks: Iterable[bytes]


class ApiError(Exception):
    """An error of the API: one of its reasons, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message

    def response(self) -> Response:
        """Return the Status object."""
        code = _CODES[self.reason]
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return json_response(
            status | {"message": self.message, "reason": self.reason, "code": code}, status=code
        )


def json_response(value: Any, *, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(status=status, body=json.dumps(value).encode())


def plain(text: str, *, status: int = 200) -> Response:
    """Return a plain-text response."""
    return Response(status=status, body=text.encode(), kind="text/plain")
