"""HTTP answers of the server: JSON, text, and errors of its gateway, upload handlers and proxy."""

import json
from typing import Any

from tests.integration.http_api import Answer

_CODES = {  # gRPC code and HTTP status
    "invalid": (3, 400),
    "missing": (5, 404),
    "taken": (6, 409),
    "denied": (7, 403),
    "internal": (13, 500),
    "unauthenticated": (16, 401),
}


class ApiError(Exception):
    """A gRPC error, which the gateway converts to HTTP.

    Args:
        kind: A key of _CODES.
        message: The error message.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = _CODES[kind]
        self.message = message

    def answer(self) -> Answer:
        """Return the gateway's answer; for a 500 the inner message hides the reason."""
        detail = {
            "@type": "type.googleapis.com/google.rpc.Status",
            "code": self.code,
            "message": "Internal Server Error" if self.status == 500 else self.message,
        }
        content = {
            "code": self.code,
            "message": f"Failed to do it: {self.message}",
            "details": [detail],
        }
        return json_answer(content, status=self.status)


def json_answer(content: Any, *, status: int = 200) -> Answer:
    """Return JSON; fields that are None or "" are left out, as protobuf does."""
    return Answer(status=status, body=json.dumps(_without_empty_fields(content)).encode())


def upload_error(message: str, *, status: int) -> Answer:
    """Return an error of the upload handlers, which do not use gRPC."""
    content = {"error_message": message, "error_details": message}
    return Answer(status=status, body=json.dumps(content).encode())


def web_page() -> Answer:
    """Return the answer of a login page in front of the server, status 200."""
    return Answer(
        status=200,
        body=b"<!DOCTYPE html><html><title>Log in</title></html>",
        kind="text/html; charset=utf-8",
    )


def plain(text: str, *, status: int = 200) -> Answer:
    """Return plain text."""
    return Answer(status=status, body=text.encode(), kind="text/plain")


def _without_empty_fields(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            name: _without_empty_fields(value)
            for name, value in content.items()
            if value not in (None, "")
        }
    return (
        [_without_empty_fields(item) for item in content] if isinstance(content, list) else content
    )
