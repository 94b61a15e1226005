"""What every kind of storage offers, and what it says about an object.

A backend is a module with the functions of `Backend`; another kind of storage is one more module, one more scheme in
`uris.SCHEMES` and one more line in `objects.BACKENDS`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# Names of repot's own passing files (temporary files, locks, write checks) begin with it; no listing shows them.
HIDDEN_PREFIX = ".repot-"


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """One object as it was when it was looked at.

    Attributes:
        uri: Where it is.
        size_bytes: Its size.
        crc32c: CRC32C of its bytes, 8 lower-case hex digits; None if only reading it would tell: for a local file, for
            all that is listed on s3://, and for what others wrote there.
        version: Changes whenever the object does: a gs:// generation, an s3:// ETag, or "<size>-<mtime in ns>" of a
            local file.
    """

    uri: str
    size_bytes: int
    crc32c: str | None
    version: str


class Backend(Protocol):
    """The functions of one kind of storage; `repot.storage` documents each under the same name."""

    def stat(self, uri: str) -> ObjectInfo | None:
        """Return what is known about an object, None if there is none."""

    def list_objects(self, folder_uri: str) -> list[ObjectInfo]:
        """Return every object below a folder, sorted by URI."""

    def read_bytes(self, uri: str, *, version: str | None = None) -> bytes:
        """Return an object's bytes."""

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write a whole object."""

    def swap_bytes(self, uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
        """Write an object if it still has the expected version."""

    def download(self, uri: str, path: Path, *, version: str | None = None) -> None:
        """Copy an object to a local file."""

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
        """Copy a local file to an object."""

    def copy(self, source_uri: str, target_uri: str) -> None:
        """Copy an object within this kind of storage."""

    def delete(self, uri: str) -> None:
        """Delete an object, if there is one."""

    def delete_folder(self, uri: str) -> None:
        """Delete everything below a folder."""

    def check_writable(self, uri: str) -> None:
        """Prove that objects can be written, read, listed and deleted below a folder."""
