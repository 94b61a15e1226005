"""What the server answers: JSON, or one of the errors of its gRPC gateway, its upload handlers, or a proxy."""

import json
from dataclasses import dataclass
from typing import Any

_CODES = {
    "invalid": (3, 400),
    "missing": (5, 404),
    "taken": (6, 409),
    "denied": (7, 403),
    "internal": (13, 500),
}
_CODES["unauthenticated"] = (16, 401)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A status, a body and what the body is."""

    status: int
    body: bytes
    kind: str = "application/json"


class Refusal(Exception):  # noqa: N818 - it is an answer
    """An error as gRPC has it; the gateway turns it into HTTP."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = _CODES[kind]
        self.message = message

    def answer(self) -> Answer:
        """Return what the gateway makes of it: a 500 hides its reason from the inner message."""
        told = "Internal Server Error" if self.status == 500 else self.message
        detail = {
            "@type": "type.googleapis.com/google.rpc.Status",
            "code": self.code,
            "message": told,
        }
        facts = {
            "code": self.code,
            "message": f"Failed to do it: {self.message}",
            "details": [detail],
        }
        return json_answer(facts, status=self.status)


def json_answer(facts: Any, *, status: int = 200) -> Answer:
    """Return JSON; members that are None, "" or empty are left out, as protobuf does."""
    return Answer(status=status, body=json.dumps(_pruned(facts)).encode())


def upload_refusal(message: str, *, status: int) -> Answer:
    """Return an error of the upload handlers, which are no gRPC."""
    return Answer(
        status=status,
        body=json.dumps({"error_message": message, "error_details": message}).encode(),
    )


def web_page() -> Answer:
    """Return what a login page in front of the server answers: 200."""
    return Answer(
        status=200,
        body=b"<!DOCTYPE html><html><title>Log in</title></html>",
        kind="text/html; charset=utf-8",
    )


def plain(text: str, *, status: int = 200) -> Answer:
    """Return text."""
    return Answer(status=status, body=text.encode(), kind="text/plain")


def _pruned(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {name: _pruned(value) for name, value in facts.items() if value not in (None, "")}
    return [_pruned(value) for value in facts] if isinstance(facts, list) else facts
