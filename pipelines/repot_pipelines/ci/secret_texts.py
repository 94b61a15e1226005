"""Keeps secrets out of what a CI job shows: known values, and what looks like a credential."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

MASK = "***"
_SHORTEST = 8
"""Characters; a shorter value is in too many innocent words."""

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|COOKIE|PRIVATE_KEY|ACCESS_KEY|API_KEY", re.IGNORECASE
)
_INNOCENT_NAME = re.compile(r"_(PATH|FILE|DIR|URL|ENDPOINT|NAME)$", re.IGNORECASE)

_PATTERNS = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        MASK,
    ),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),
    (
        re.compile(
            r"\b(?:ya29\.[\w.-]{10,}|AIza[\w-]{30,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"
        ),
        MASK,
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), f"://{MASK}@"),
    (
        re.compile(
            r"(?i)([?&](?:x-(?:goog|amz)-(?:signature|credential|security-token)|signature|sig|(?:\w+_)?token|key)=)"
            r"[^&\s\"'`)>]+"
        ),
        rf"\1{MASK}",
    ),
)


def read_secrets(environment: Mapping[str, str], paths: Iterable[Path | None]) -> frozenset[str]:
    """Return the values that must not be shown.

    Args:
        environment: Variables by name; those whose names say so are secret.
        paths: Files that hold a token or a session; None and what cannot be read are skipped.
    """
    named = [
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not _INNOCENT_NAME.search(name)
    ]
    kept = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path is not None and path.is_file()
    ]
    stripped = [value.strip() for value in (*named, *kept)]
    # Of a session `name=value` the value alone is as good as both.
    parts = [part.strip() for value in stripped for part in (value, value.partition("=")[2])]
    return frozenset(part for part in parts if len(part) >= _SHORTEST)


def mask(text: str, secrets: frozenset[str]) -> str:
    """Return the text without the secrets, and without what looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


class MaskedStream:
    """A text stream that masks what is written to it; the rest of a TextIO that rich asks for is the stream's own."""

    def __init__(self, stream: TextIO, secrets: frozenset[str]) -> None:
        self._stream = stream
        self._secrets = secrets

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, masked."""
        return self._stream.write(mask(text, self._secrets))
