"""What the server answers: JSON, or the Status object of a refusal."""

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
class Answer:
    """A status, a body and what the body is."""

    status: int
    body: bytes
    kind: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Stream(Answer):
    """An answer whose body comes bit by bit, instead of `body`."""

    chunks: Iterable[bytes]


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A failure as the API tells it: a reason of its list, and a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message

    def answer(self) -> Answer:
        """Return the Status object."""
        code = _CODES[self.reason]
        facts = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return json_answer(
            facts | {"message": self.message, "reason": self.reason, "code": code}, status=code
        )


def json_answer(facts: Any, *, status: int = 200) -> Answer:
    """Return JSON."""
    return Answer(status=status, body=json.dumps(facts).encode())


def plain(text: str, *, status: int = 200) -> Answer:
    """Return text."""
    return Answer(status=status, body=text.encode(), kind="text/plain")
