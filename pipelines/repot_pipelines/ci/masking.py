"""Masks secrets in everything that a CI job shows: known values, and credential-like text."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

MASK = "***"
_MIN_LENGTH = 8
"""Characters; shorter values occur in too many harmless words."""

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|COOKIE|PRIVATE_KEY|ACCESS_KEY|API_KEY", re.IGNORECASE
)
_HARMLESS_NAME = re.compile(r"_(PATH|FILE|DIR|URL|ENDPOINT|NAME)$", re.IGNORECASE)

# Pairs of pattern and replacement.
_PATTERNS = (
    # Private keys, also cut off at the end.
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        MASK,
    ),
    # JSON Web Tokens.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),
    # Google access tokens and API keys.
    (re.compile(r"\b(?:ya29\.[\w.-]{10,}|AIza[\w-]{30,})"), MASK),
    # GitHub and GitLab tokens.
    (re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"), MASK),
    # AWS access key ids.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{MASK}"),
    # User and password in a URL.
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), f"://{MASK}@"),
    # Signatures and tokens in a query string.
    (
        re.compile(
            r"(?i)([?&](?:x-(?:goog|amz)-(?:signature|credential|security-token)"
            r"|signature|sig|(?:\w+_)?token|key)=)"
            r"[^&\s\"'`)>]+"
        ),
        rf"\1{MASK}",
    ),
)


def read_secrets(environment: Mapping[str, str], paths: Iterable[Path | None]) -> frozenset[str]:
    """Return the values that must not be shown.

    Args:
        environment: Environment variables; a variable is secret if its name says so, e.g. MY_TOKEN.
        paths: Files that hold a token or a session cookie; None and missing files are skipped.
    """
    variables = [
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name)
    ]
    files = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path is not None and path.is_file()
    ]
    values = [value.strip() for value in (*variables, *files)]
    # The value of a cookie `name=value` is as sensitive as the whole cookie.
    parts = [part.strip() for value in values for part in (value, value.partition("=")[2])]
    return frozenset(part for part in parts if len(part) >= _MIN_LENGTH)


def mask(text: str, secrets: frozenset[str]) -> str:
    """Return the text with the secrets, and everything that looks like one, replaced by ***."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class MaskedStream:
    """A text stream that masks what is written to it, and otherwise acts as the wrapped stream."""

    def __init__(self, stream: TextIO, secrets: frozenset[str]) -> None:
        self._stream = stream
        self._secrets = secrets

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the masked text."""
        return self._stream.write(mask(text, self._secrets))
