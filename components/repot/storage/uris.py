"""Where things are: `gs://bucket/path`, `s3://bucket/path` or an absolute local path; all without a trailing slash.

A name is taken literally: `#`, `?`, `%` and blanks in it mean nothing, and Unicode is not normalised.
"""

import os
import re
import urllib.parse
from pathlib import Path

from repot.errors import UsageError

SCHEMES = ("gs", "s3")

# A scheme with a slash behind it; gs:, s3: and file: without one are a slip, and any other name may hold a colon.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/|(gs|s3|file):", re.IGNORECASE)
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CHOICES = "Give gs://BUCKET/PATH, s3://BUCKET/PATH, or a local path."


def normalise(uri_or_path: str | os.PathLike[str]) -> str:
    """Return the one spelling of a place: gs://bucket/path, s3://bucket/path, or an absolute local path.

    Args:
        uri_or_path: A gs:// or s3:// URI, a file:// URI (percent-decoded) or a local path (`~` is expanded).

    Raises:
        UsageError: It is empty, its scheme is not known, or its bucket's name cannot be one.
    """
    text = os.fspath(uri_or_path)
    if not text or text != text.strip() or "\0" in text:
        raise UsageError(
            f"A place must be a name without blanks at its ends; got {text!r}. {_CHOICES}"
        )
    match = _SCHEME.match(text)
    if match is None:
        return _absolute(text)
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "file" and rest.startswith("/"):
        return _absolute(_file_path(text, rest))
    if scheme.lower() in SCHEMES and rest.startswith("//"):
        return _bucket_uri(scheme.lower(), rest[2:])
    raise UsageError(f"A place must be on storage that repot knows; got {text!r}. {_CHOICES}")


def join(uri: str, *parts: str) -> str:
    """Return the URI of `parts`, names or relative paths, below the folder `uri`."""
    names = [part.strip("/") for part in parts]
    return "/".join([uri.rstrip("/"), *(name for name in names if name)]) or "/"


def scheme_of(uri: str) -> str:
    """Return "gs" or "s3", or "" for a local path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator and scheme in SCHEMES else ""


def is_local(uri: str) -> bool:
    """Return whether `uri` is a path on this machine."""
    return not scheme_of(uri)


def local_path(uri: str) -> Path:
    """Return the path of a local `uri`.

    Raises:
        UsageError: It is not local.
    """
    if not is_local(uri):
        raise UsageError(f"The place must be on this machine; got {uri!r}. Give a local path.")
    return Path(uri)


def split_bucket(uri: str) -> tuple[str, str]:
    """Return the bucket and the object's name ("" for the bucket itself) of a URI with a scheme."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


def relative_name(uri: str, folder_uri: str) -> str:
    """Return the path of an object relative to the folder that it was listed in."""
    return uri[len(folder_uri.rstrip("/")) + 1 :]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (Path would keep "..")


def _file_path(uri: str, rest: str) -> str:
    """Return the path of file:/PATH, file:///PATH or file://localhost/PATH (RFC 8089)."""
    host, _, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if host not in ("", "localhost"):
        raise UsageError(f"A file URI must name this machine; got {uri!r}. Give file:///PATH.")
    return "/" + urllib.parse.unquote(path.lstrip("/"))


def _bucket_uri(scheme: str, rest: str) -> str:
    bucket, _, name = rest.rstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"A bucket's name must be 3 or more lower-case letters, digits, '-', '_' and '.'; "
            f"got {bucket!r} in {scheme}://{rest}. Give {scheme}://BUCKET/PATH."
        )
    return f"{scheme}://{bucket}/{name}" if name else f"{scheme}://{bucket}"
