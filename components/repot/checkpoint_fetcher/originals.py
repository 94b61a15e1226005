"""A checkpoint's original files on this machine's disk, and their checksum.

A checkpoint of one file has that file's SHA-256. One of several files has the SHA-256 of what
`sha256sum FILE...` prints for them in the order of their names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from repot import checkpoint_files, storage
from repot.checkpoint_fetcher import downloads
from repot.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A checkpoint as it was published.

    Attributes:
        paths: Its files, by name; local ones where they lie.
        sha256: Their checksum.
    """

    paths: tuple[Path, ...]
    sha256: str


def fetch_original(uri: str, folder: Path, *, sha256: str = "") -> Original:
    """Bring a checkpoint's files onto this machine.

    Args:
        uri: http(s)://, gs://, s3:// or a local path.
        folder: Where files go that are not local.
        sha256: What they must hash to, "" for no check.

    Raises:
        CheckpointError: They cannot be fetched, or hash to something else.
    """
    original = read_original(checkpoint_files.find_files(uri).uris, folder)
    if sha256 and original.sha256 != sha256:
        raise CheckpointError(
            f"{checkpoint_files.without_secrets(uri)} must have SHA-256 {sha256}; it has {original.sha256}. "
            "It is damaged or another file: fetch it again, or correct checkpoint_sha256."
        )
    return original


def read_original(uris: Sequence[str], folder: Path) -> Original:
    """Bring files onto this machine and hash them."""
    paths = tuple(sorted((_on_disk(uri, folder) for uri in uris), key=lambda path: path.name))
    return Original(paths=paths, sha256=_digest(paths))


def _on_disk(uri: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint_files.is_web(uri):
        return downloads.download(uri, folder)
    if storage.is_local(uri):
        return storage.local_path(uri)
    path = folder / PurePosixPath(uri).name
    storage.download(uri, path)
    return path


def _digest(paths: Sequence[Path]) -> str:
    digests = [_file_digest(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest}  {path.name}\n" for digest, path in zip(digests, paths, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
