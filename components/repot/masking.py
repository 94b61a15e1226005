"""Find the secrets of web addresses and of the environment, and mask them in text.

A secret must not appear in anything that repot prints or writes. Known values are masked wherever
they occur; other text is masked if it looks like a credential.
"""

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repot.user_files import read_user_file

MASK = "***"
_MIN_LENGTH = 8
"""Characters; shorter values occur in too many harmless words."""
_MIN_NAMED_LENGTH = 4
"""Characters of a password in a web address, or of a query parameter with a telling name."""
_MIN_TOKEN_LENGTH = 16
"""Characters of a query parameter that can be a token, whatever its name."""
_PEM_START = "-----BEGIN "
_BUCKET_SCHEMES = ("gs://", "s3://")

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|COOKIE|PRIVATE_KEY|ACCESS_KEY|API_KEY", re.IGNORECASE
)
_HARMLESS_NAME = re.compile(r"_(PATH|FILE|DIR|URL|ENDPOINT|NAME)$", re.IGNORECASE)
# Parameters of signed addresses (Amazon, Google, Azure, CloudFront) and of access tokens.
_SECRET_PARAMETER = (
    r"[\w.-]*(?:signature|credential|token|secret|passw|api[_-]?key|access[_-]?key)[\w.-]*"
    r"|sig|key|key-pair-id|policy|pwd|pass|auth|authorization"
)
_IS_SECRET_PARAMETER = re.compile(_SECRET_PARAMETER, re.IGNORECASE)

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
    # User and password in a URL; a user alone can be a token.
    (re.compile(r"://[^/?#\s\"'@]+@"), f"://{MASK}@"),
    # Signatures and tokens in a query string or a fragment.
    (re.compile(rf"(?i)([?&#;](?:{_SECRET_PARAMETER})=)[^&\s\"'`)>]+"), rf"\1{MASK}"),
)


def redact_url(url: str) -> str:
    """Return a URL without credentials, query and fragment; a query can hold a signature.

    Paths are returned unchanged.
    """
    if "://" not in url:
        return url
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def find_credentials(url: str) -> str:
    """Return which credentials a web address contains, "" for none.

    Args:
        url: Any text; paths and the URIs of buckets have no credentials.
    """
    user_info, parameters = _split_url(url)
    if user_info:
        return "a user name or password"
    names = [name for name, _ in parameters if _IS_SECRET_PARAMETER.fullmatch(name)]
    return f"the parameter {names[0]!r}" if names else ""


def has_opaque_query(url: str) -> bool:
    """Return whether a web address has a query or fragment that is long enough for a token."""
    return any(len(value) >= _MIN_TOKEN_LENGTH for _, value in _split_url(url)[1])


def secret_parts(url: str) -> tuple[str, ...]:
    """Return what a web address may keep secret, longest first: credentials, query and fragment.

    Args:
        url: Any text; paths and the URIs of buckets have no secrets.
    """
    user_info, parameters = _split_url(url)
    texts = {user_info, *re.split(r"[?#]", url)[1:]} if user_info or parameters else set()
    password = user_info.partition(":")[2]
    texts |= {password} if len(password) >= _MIN_NAMED_LENGTH else set()
    for name, value in parameters:
        is_named = _IS_SECRET_PARAMETER.fullmatch(name)
        if len(value) >= (_MIN_NAMED_LENGTH if is_named else _MIN_LENGTH):
            texts.add(value)
    texts |= {urllib.parse.unquote(text) for text in texts}
    return tuple(sorted(texts - {""}, key=lambda text: (-len(text), text)))


def read_secrets(
    environment: Mapping[str, str], paths: Iterable[Path | None] = ()
) -> frozenset[str]:
    """Return the values that must not be shown.

    Args:
        environment: Environment variables; a variable is secret if its name says so, e.g. MY_TOKEN.
            If it is the path of a private key's file, the key is secret and not the path.
        paths: Files that hold a token or a session cookie; None and missing files are skipped.
    """
    variables = [
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name)
    ]
    files = [
        read_user_file(path).decode(errors="replace")
        for path in paths
        if path is not None and path.is_file()
    ]
    whole = [_read_key(value) or value.strip() for value in (*variables, *files)]
    # A key in PEM form may be written line by line; its first and last line are no secret.
    keys = [value for value in whole if value.startswith(_PEM_START)]
    values = [*whole, *(line.strip() for key in keys for line in key.splitlines()[1:-1])]
    # The value of a cookie `name=value` is as sensitive as the whole cookie.
    parts = [part.strip() for value in values for part in (value, value.partition("=")[2])]
    return frozenset(part for part in parts if len(part) >= _MIN_LENGTH)


def _read_key(value: str) -> str:
    """Return the key in the PEM file that a value is the path of; "" if it is anything else."""
    try:
        path = Path(value.strip()).expanduser()
        text = read_user_file(path).decode().strip() if path.is_file() else ""
    # A value that is no path can be too long for one, or begin with "~".
    except (OSError, RuntimeError, ValueError):
        return ""
    return text if text.startswith(_PEM_START) else ""


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with the secrets, and everything that looks like one, replaced by ***."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class MaskedStream:
    """A text stream that masks what is written to it, and otherwise acts as the wrapped stream.

    Args:
        stream: The stream to write to.
        secrets: Values to mask, see `read_secrets` and `secret_parts`.
    """

    def __init__(self, stream: Any, secrets: Iterable[str]) -> None:
        self._stream = stream
        self._secrets = frozenset(secrets)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click writes to it if the terminal's encoding is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the masked text."""
        written: int = self._stream.write(mask(text, self._secrets))
        return written


def _split_url(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the user info of a web address, and its query and fragment as (name, value).

    A parameter without a name, `?value`, has the name "". Malformed addresses have secrets too, so
    this is not `urlsplit`.
    """
    _, separator, address = url.partition("://")
    if not separator or url.startswith(_BUCKET_SCHEMES):
        return "", []
    user_info = re.split(r"[/?#]", address, maxsplit=1)[0].rpartition("@")[0]
    query = re.split(r"[?#]", address, maxsplit=1)[1:]
    pairs = [part.rpartition("=") for text in query for part in re.split(r"[&#?;]", text)]
    return user_info, [(name, value) for name, _, value in pairs if value]
