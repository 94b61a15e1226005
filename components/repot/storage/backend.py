"""The contract of a storage backend: its functions, the object it describes, its common errors.

A backend is a module that implements `Backend`. To add one, write the module, then add its scheme
to `uris.SCHEMES` and the module to `operations.find_backend`.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError

# repot's own short-lived files (temporary files, locks, write probes) have this prefix. Listings
# leave them out.
HIDDEN_PREFIX = ".repot-"

EMPTY_FOLDER = "an empty folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """The state of one object at one point in time.

    Attributes:
        uri: The object.
        size_bytes: Size of its content.
        crc32c: CRC32C of its bytes, 8 lower-case hex digits. None if the content must be read to
            compute it: for local files, in listings of s3://, and for objects on s3:// that were
            stored by other programs without a CRC32C.
        version: Changes whenever the object changes: the generation on gs://, the ETag on s3://,
            "<size>-<mtime in ns>" for a local file.
        has_crc32c: Whether the service itself keeps a CRC32C of the whole object. A listing of
            s3:// says so without the value, which `stat` returns.
        stamp: Text after `version` that changes when the object does in ways that the version may
            not show: size and time of writing on s3://, "-<change time in ns>-<inode>" of a local
            file; "" on gs://.
    """

    uri: str
    size_bytes: int
    crc32c: str | None
    version: str
    has_crc32c: bool = field(default=False, compare=False)
    stamp: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """An object's content, and the state of the object that it was read from.

    Attributes:
        data: The content; decompressed if the object has `Content-Encoding: gzip`.
        info: Size, CRC32C (never None) and version of the stored bytes.
    """

    data: bytes
    info: ObjectInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherEntry:
    """What a folder contains beside objects.

    Attributes:
        uri: Its location.
        kind: What it is, such as "a named pipe"; EMPTY_FOLDER for a folder that directly contains
            nothing, in an object store one with a placeholder.
    """

    uri: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """What `scan_stored` tells of an object.

    Attributes:
        uri: The object.
        size_bytes: Size of its content.
        written_at: When its content was last written, in seconds since 1970 by the store's clock.
        file_id, num_names: Equal for all names of one local file (hard links), and how many names
            it has; "" and 1 in an object store.
    """

    uri: str
    size_bytes: int
    written_at: float
    file_id: str = ""
    num_names: int = 1

    @property
    def is_hidden(self) -> bool:
        """Return whether it is one of repot's own short-lived files, which listings leave out."""
        return f"/{HIDDEN_PREFIX}" in self.uri


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfinishedUpload:
    """Parts of an object whose upload was not completed: not listed, but paid for.

    Attributes:
        uri: The object.
        upload_id: Id of the upload.
        started_at: When it began, in seconds since 1970 by the store's clock.
    """

    uri: str
    upload_id: str
    started_at: float


class Backend(Protocol):
    """The functions of one kind of storage; `repot.storage` documents each under the same name."""

    def stat(self, uri: str) -> ObjectInfo | None:
        """Return the state of an object, or None if it does not exist."""

    def list_objects(self, folder_uri: str) -> list[ObjectInfo]:
        """Return every object below a folder, sorted by URI."""

    def scan_folder(self, folder_uri: str) -> Iterator[ObjectInfo | OtherEntry]:
        """Yield every object below a folder, and what else is there."""

    def scan_stored(self, folder_uri: str) -> Iterator[StoredObject]:
        """Yield every object below a folder and when it was written, hidden ones included."""

    def list_unfinished_uploads(self, folder_uri: str) -> list[UnfinishedUpload]:
        """Return the unfinished uploads to objects below a folder."""

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Delete the parts of an unfinished upload."""

    def read_object(self, uri: str, *, version: str | None = None) -> Content:
        """Return an object's content and its state."""

    def read_crc32c_hex(self, uri: str, *, version: str | None = None) -> str:
        """Return the CRC32C of an object's stored bytes."""

    def read_range(
        self, uri: str, *, offset: int, num_bytes: int, version: str | None = None
    ) -> bytes:
        """Return a range of an object's stored bytes."""

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write a whole object."""

    def swap_bytes(self, uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
        """Write an object if it still has the expected version."""

    def download(self, uri: str, path: Path, *, version: str | None = None) -> ObjectInfo:
        """Copy an object to a local file; return the state of the object."""

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
        """Copy a local file to an object."""

    def copy(self, source_uri: str, target_uri: str) -> None:
        """Copy an object within this kind of storage."""

    def delete(self, uri: str) -> None:
        """Delete an object if it exists."""

    def delete_folder(self, uri: str) -> None:
        """Delete everything below a folder."""

    def check_writable(self, uri: str) -> None:
        """Check that objects can be written, read, listed and deleted below a folder."""


def new_hidden_name(suffix: str) -> str:
    """Return a unique name for a short-lived file or object."""
    return f"{HIDDEN_PREFIX}{secrets.token_hex(8)}.{suffix}"


def select_visible(infos: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Return the objects sorted by URI, without folder placeholders and repot's hidden objects."""
    hidden = f"/{HIDDEN_PREFIX}"
    visible = (info for info in infos if not info.uri.endswith("/") and hidden not in info.uri)
    return sorted(visible, key=lambda info: info.uri)


def scan_objects(infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield the visible objects of an object store as they come, then the empty folders.

    A placeholder, an object whose name ends with a slash, stands for a folder, which is empty if
    no other object has that prefix.
    """
    placeholders: list[str] = []
    # Every folder that contains something. Objects of one folder mostly follow each other.
    folders: set[str] = set()
    folder = ""
    for info in infos:
        uri = info.uri.removesuffix("/")
        if not uri.startswith(folder) or uri.rfind("/") + 1 != len(folder):
            folder = uri[: uri.rfind("/") + 1]
            parent = folder.removesuffix("/")
            while parent and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
        if info.uri.endswith("/"):
            placeholders.append(uri)
        elif f"/{HIDDEN_PREFIX}" not in info.uri:
            yield info
    for uri in sorted(placeholders):
        if uri not in folders:
            yield OtherEntry(uri=uri, kind=EMPTY_FOLDER)


def already_exists_error(uri: str) -> AlreadyExistsError:
    """Return the error of a create-only write that found an existing object."""
    return AlreadyExistsError(
        f"{uri} must not exist yet, but it does. Delete it, or choose another name."
    )


def conflict_error(uri: str, expected_version: str | None) -> ConflictError:
    """Return the error of a swap that found another version than the expected one."""
    expected = "no object" if expected_version is None else f"version {expected_version}"
    return ConflictError(
        f"{uri} must not change while it is being replaced; expected {expected}, but another "
        "process wrote it. Check its current content, and run again."
    )


def changed_error(uri: str) -> NotFoundError:
    """Return the error of a read pinned to a version that no longer exists."""
    return NotFoundError(
        f"{uri} must not change after it was listed; it was changed or deleted since. "
        "Run again to list it again."
    )


def damaged_error(uri: str, num_attempts: int) -> StorageError:
    """Return the error of a download that failed its checksum in every attempt."""
    return StorageError(
        f"{uri} must arrive as it is stored; its CRC32C was wrong in {num_attempts} downloads. "
        "Check the network and the proxy, and run again."
    )
