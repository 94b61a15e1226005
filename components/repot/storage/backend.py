"""The contract of a storage backend: its functions, the object it describes, its common errors.

A backend is a module that implements `Backend`. To add one, write the module, then add its scheme
to `uris.SCHEMES` and the module to `operations.find_backend`.
"""

import itertools
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from repot.storage.uris import folder_prefix

# repot's own short-lived files (temporary files, locks, write probes) have this prefix. Listings
# leave them out.
HIDDEN_PREFIX = ".repot-"


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
class FolderListing:
    """Everything below a folder.

    Attributes:
        objects: Every object, sorted by URI, as `list_objects` returns them.
        empty_folders: URIs of folders that directly contain nothing, sorted; in an object store,
            those with a placeholder.
        others: Local entries that are neither file nor folder: what each is, by its URI.
    """

    objects: list[ObjectInfo]
    empty_folders: list[str]
    others: dict[str, str]


class Backend(Protocol):
    """The functions of one kind of storage; `repot.storage` documents each under the same name."""

    def stat(self, uri: str) -> ObjectInfo | None:
        """Return the state of an object, or None if it does not exist."""

    def list_objects(self, folder_uri: str) -> list[ObjectInfo]:
        """Return every object below a folder, sorted by URI."""

    def scan_folder(self, folder_uri: str) -> FolderListing:
        """Return every object below a folder, and the empty folders."""

    def read_object(self, uri: str, *, version: str | None = None) -> Content:
        """Return an object's content and its state."""

    def read_crc32c_hex(self, uri: str, *, version: str | None = None) -> str:
        """Read an object to compute the CRC32C of its stored bytes."""

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


def list_with_placeholders(infos: Iterable[ObjectInfo], folder_uri: str) -> FolderListing:
    """Return the listing of a folder in an object store from all of its objects.

    A placeholder, an object whose name ends with a slash, stands for a folder, which is empty if
    no other object has that prefix.
    """
    every = sorted(infos, key=lambda info: info.uri)
    empty_folders = [
        info.uri.removesuffix("/")
        for info, following in itertools.zip_longest(every, every[1:])
        # Objects with the placeholder's name as a prefix directly follow it.
        if info.uri.endswith("/")
        and len(info.uri) > len(folder_prefix(folder_uri))
        and not (following and following.uri.startswith(info.uri))
    ]
    return FolderListing(objects=select_visible(every), empty_folders=empty_folders, others={})


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
