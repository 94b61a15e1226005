"""URIs of objects and folders: gs://bucket/path, s3://bucket/path, or an absolute local path.

Names are literal: `#`, `?`, `%` and spaces have no special meaning, and Unicode is not normalised.
URIs have no trailing slash, with one exception: in a bucket, two slashes in a row enclose a folder
with an empty name, so gs://bucket// and gs://bucket/a// are the folders of gs://bucket//x and
gs://bucket/a//x. "/", the root of a local disk, is the same kind of exception.
"""

import os
import re
import urllib.parse
from pathlib import Path

from repot.errors import UsageError

SCHEMES = ("gs", "s3")
_BUCKET_PREFIXES = tuple(f"{scheme}://" for scheme in SCHEMES)

# A scheme followed by a slash. gs:, s3: and file: without a slash are a typo; any other local name
# may contain a colon.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/|(gs|s3|file):", re.IGNORECASE)
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CHOICES = "Give gs://BUCKET/PATH, s3://BUCKET/PATH, or a local path."


def normalise(uri_or_path: str | os.PathLike[str]) -> str:
    """Return the canonical URI: gs://bucket/path, s3://bucket/path, or an absolute local path.

    Args:
        uri_or_path: A gs:// or s3:// URI, a file:// URI (percent-decoded), or a local path (`~` is
            expanded).

    Raises:
        UsageError: It is empty, its scheme is not supported, or its bucket name is not valid.
    """
    text = os.fspath(uri_or_path)
    if not text or text != text.strip() or "\0" in text:
        raise UsageError(
            "A storage location must not be empty, or start or end with whitespace, or contain a "
            f"NUL character; got {text!r}. {_CHOICES}"
        )
    match = _SCHEME.match(text)
    if match is None:
        return _absolute(text)
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "file" and rest.startswith("/"):
        return _absolute(_file_path(text, rest))
    if scheme.lower() in SCHEMES and rest.startswith("//"):
        return _bucket_uri(scheme.lower(), rest[2:])
    raise UsageError(
        f"A storage location must be a gs:// or s3:// URI or a local path; got {text!r}. {_CHOICES}"
    )


def join(uri: str, *parts: str) -> str:
    """Return the URI of `parts`, names or relative paths, below the folder `uri`."""
    names = [name for part in parts if (name := part.strip("/"))]
    return folder_prefix(uri) + "/".join(names) if names else uri


def folder_prefix(folder_uri: str) -> str:
    """Return what the URIs of everything in a folder begin with: the folder and one slash."""
    return folder_uri if folder_uri.endswith("/") else f"{folder_uri}/"


def parent(uri: str) -> str:
    """Return the folder of an object."""
    folder = uri.rpartition("/")[0]
    return f"{folder}/" if folder.endswith("/") or not folder else folder


def object_prefix(folder_uri: str) -> str:
    """Return what the names of the objects in a folder of a bucket begin with; "" for all."""
    name = split_bucket(folder_uri)[1]
    return folder_prefix(name) if name else ""


def scheme_of(uri: str) -> str:
    """Return "gs", "s3", or "" for a local path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator and scheme in SCHEMES else ""


def is_local(uri: str) -> bool:
    """Return whether `uri` is a local path."""
    return not uri.startswith(_BUCKET_PREFIXES)


def local_path(uri: str) -> Path:
    """Return the path of a local `uri`.

    Raises:
        UsageError: It is not local.
    """
    if not is_local(uri):
        raise UsageError(f"The storage location must be local; got {uri!r}. Give a local path.")
    return Path(uri)


def split_bucket(uri: str) -> tuple[str, str]:
    """Return the bucket and the object name ("" for the bucket itself) of a URI with a scheme."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


def relative_name(uri: str, folder_uri: str) -> str:
    """Return the path of an object relative to the folder that it was listed in."""
    return uri[len(folder_prefix(folder_uri)) :]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (Path would keep "..")


def _file_path(uri: str, rest: str) -> str:
    """Return the path of file:/PATH, file:///PATH or file://localhost/PATH (RFC 8089)."""
    host, _, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if host not in ("", "localhost"):
        raise UsageError(f"A file URI must name no other host; got {uri!r}. Give file:///PATH.")
    return "/" + urllib.parse.unquote(path.lstrip("/"))


def _bucket_uri(scheme: str, rest: str) -> str:
    bucket, _, name = rest.partition("/")
    if name.endswith("/") and not name.endswith("//") and name != "/":
        name = name.removesuffix("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            "A bucket name must be 3 or more lower-case letters, digits, '-', '_' and '.'; "
            f"got {bucket!r} in {scheme}://{rest}. Give {scheme}://BUCKET/PATH."
        )
    return f"{scheme}://{bucket}/{name}" if name else f"{scheme}://{bucket}"
