"""Responses of the server: JSON, text, a stream, or an error as a Status object."""

import json
from typing import Any

from tests.integration.http_api import Answer

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


class ApiError(Exception):
    """An error of the API: one of its reasons, and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message

    def response(self) -> Answer:
        """Return the Status object."""
        code = _CODES[self.reason]
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return json_response(
            status | {"message": self.message, "reason": self.reason, "code": code}, status=code
        )


def json_response(value: Any, *, status: int = 200) -> Answer:
    """Return a JSON response."""
    return Answer(status=status, body=json.dumps(value).encode())


def plain(text: str, *, status: int = 200) -> Answer:
    """Return a plain-text response."""
    return Answer(status=status, body=text.encode(), kind="text/plain")
