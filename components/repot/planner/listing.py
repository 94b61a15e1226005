"""List every file in the pictures folders, by its path relative to PICTURES.

Paths are in Unicode normal form C with `/`, so that a disk that stores é decomposed gives the same
dataset. Separate folders for training and validation look like one folder with train/ and
validation/.
"""

import contextlib
import gc
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from repot import storage
from repot.errors import NoBucketError, UsageError
from repot.file_parts import FilePart
from repot.manifest import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRoots:
    """The location of the pictures: one folder, or one folder per split.

    Attributes:
        pictures_uri: The one folder, which contains label folders, or train/ and validation/ (and
            test/) with label folders in them.
        train_uri, validation_uri: The two folders, each of which contains label folders.
        test_uri: A third folder like those two, or "".
    """

    pictures_uri: str = ""
    train_uri: str = ""
    validation_uri: str = ""
    test_uri: str = ""

    def __post_init__(self) -> None:
        is_set = (bool(self.pictures_uri), bool(self.train_uri), bool(self.validation_uri))
        is_valid = is_set == (False, True, True) or (
            is_set == (True, False, False) and not self.test_uri
        )
        if not is_valid:
            raise UsageError(
                "The pictures must be in one place, or in one for training and one for "
                f"validation; got pictures={self.pictures_uri!r}, train={self.train_uri!r}, "
                f"validation={self.validation_uri!r}, test={self.test_uri!r}."
            )
        uses: dict[str, list[str]] = {}
        for split, uri in zip(SPLITS, self._split_uris, strict=True):
            if uri:
                uses.setdefault(uri, []).append(split)
        for uri, splits in uses.items():
            if len(splits) > 1:
                raise UsageError(
                    f"Every split must have a folder of its own; got {uri!r} for "
                    f"{' and '.join(splits)}. Pass only one folder to have it split."
                )

    @property
    def folders(self) -> dict[str, str]:
        """Return the folder URIs by the prefix of the paths in them."""
        if self.pictures_uri:
            return {"": self.pictures_uri}
        by_split = zip(SPLITS, self._split_uris, strict=True)
        return {f"{split}/": uri for split, uri in by_split if uri}

    @property
    def _split_uris(self) -> tuple[str, str, str]:
        return self.train_uri, self.validation_uri, self.test_uri

    @property
    def description(self) -> str:
        """Return the folder URIs, separated by commas."""
        return ", ".join(self.folders.values())


@dataclass(kw_only=True, slots=True)
class FoundFile:
    """One listed file.

    It is not frozen: `repot.planner.checksums` fills in the checksums that the listing does not
    have. A second object for each of a million files would take seconds and 200 MB.

    Attributes:
        uri: Location of the file.
        path: Path relative to PICTURES, in Unicode normal form C.
        size_bytes: Size of the file.
        crc32c: CRC32C of its bytes, 8 hex digits; "" if the listing has no checksum. After
            `repot.planner.checksums` possibly an ETag instead, see there.
        version, has_crc32c, stamp: See `repot.storage.ObjectInfo`.
        kind: What it is if it is not a file, such as "a named pipe"; "" for a file.
        part: Where it is in the file at `uri`; None if it is that file. Then size and checksum are
            those of the part, and the checksum is known.
    """

    uri: str
    path: str
    size_bytes: int
    crc32c: str
    version: str
    kind: str = ""
    part: FilePart | None = None
    has_crc32c: bool = False
    stamp: str = ""

    def __hash__(self) -> int:
        return hash((self.uri, self.path, self.part))

    @property
    def state(self) -> str:
        """Return what changes whenever the file does."""
        return self.version + self.stamp

    @property
    def name(self) -> str:
        """Return the base name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Everything below the roots.

    Attributes:
        files: Every file, and every pipe, socket, device and looping link, sorted by path.
        empty_folders: Paths of the folders that directly contain nothing, sorted.
    """

    files: tuple[FoundFile, ...]
    empty_folders: tuple[str, ...]


def list_files(roots: PictureRoots) -> Listing:
    """Return everything below the roots.

    Raises:
        UsageError: A folder is missing, empty or a file; all such folders are named.
        StorageError: A folder cannot be listed.
    """
    files: list[FoundFile] = []
    empty_folders: list[str] = []
    problems: list[str] = []
    for prefix, root_uri in roots.folders.items():
        try:
            listing = list_root(prefix, root_uri)
        except UsageError as err:
            problems += err.problems
            continue
        files += listing.files
        empty_folders += listing.empty_folders
    if problems:
        raise UsageError(problems)
    return Listing(
        files=tuple(sorted(files, key=attrgetter("path", "uri"))),
        empty_folders=tuple(sorted(empty_folders)),
    )


def list_root(prefix: str, root_uri: str) -> Listing:
    """Return everything below one root, with the prefix before every path.

    Raises:
        UsageError: The folder is missing, empty or a file.
        StorageError: The folder cannot be listed.
    """
    # Each handle of Google's client is in a circle; of a folder there are only files.
    is_local = storage.is_local(root_uri)
    with without_garbage_collection() if is_local else contextlib.nullcontext():
        found = list_folder(root_uri)
        files: list[FoundFile] = []
        num_letters = len(storage.folder_prefix(root_uri))
        # Each entry is dropped as soon as it is converted: a million are in memory only once.
        found.objects.reverse()
        while found.objects:
            info = found.objects.pop()
            path = unicodedata.normalize("NFC", prefix + info.uri[num_letters:])
            files.append(_to_found_file(info, path))
    files += (_to_other(uri, kind, prefix, root_uri) for uri, kind in found.others.items())
    return Listing(
        files=tuple(files),
        empty_folders=tuple(_path(uri, prefix, root_uri) for uri in found.empty_folders),
    )


def list_folder(uri: str) -> storage.FolderListing:
    """Return everything below a folder, at least one file.

    Raises:
        UsageError: The folder or its bucket is missing, or the folder is empty or a file.
        StorageError: The folder cannot be listed.
    """
    try:
        listing = storage.scan_folder(uri)
    except NoBucketError as err:
        raise UsageError(f"The pictures folder must exist; {err}") from err
    if not listing.objects:
        raise UsageError(_explain_no_files(uri))
    return listing


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Do not look for circles of objects, again and again among all pictures; there are none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_overlap(roots: PictureRoots, dataset_uri: str) -> list[str]:
    """Return an error message if the dataset would be inside a pictures folder.

    The next run would take the dataset's files for pictures.
    """
    return [
        f"The dataset must not be inside the pictures folder; got {dataset_uri} in {uri}. "
        "Choose another folder."
        for uri in roots.folders.values()
        if f"{dataset_uri}/".startswith(storage.folder_prefix(uri))
    ]


def _to_found_file(info: storage.ObjectInfo, path: str) -> FoundFile:
    return FoundFile(
        uri=info.uri,
        path=path,
        size_bytes=info.size_bytes,
        crc32c=info.crc32c or "",
        version=info.version,
        has_crc32c=info.has_crc32c,
        stamp=info.stamp,
    )


def _to_other(uri: str, kind: str, prefix: str, root_uri: str) -> FoundFile:
    path = _path(uri, prefix, root_uri)
    return FoundFile(uri=uri, path=path, size_bytes=0, crc32c="", version="", kind=kind)


def _path(uri: str, prefix: str, root_uri: str) -> str:
    return unicodedata.normalize("NFC", prefix + storage.relative_name(uri, root_uri))


def _explain_no_files(uri: str) -> str:
    if not storage.is_local(uri):
        return (
            f"The pictures folder must contain pictures; there is nothing under "
            f"{storage.folder_prefix(uri)}. "
            "Check the name."
        )
    path = storage.local_path(uri)
    if path.is_dir():
        return (
            f"The pictures folder must contain pictures; {uri} is empty. "
            "Put one folder per label into it."
        )
    if path.exists():
        return (
            f"The pictures must be in a folder; {uri} is a file. "
            "Pass the folder that contains the label folders."
        )
    return f"The pictures folder must exist; there is no {uri}. Check the name."
