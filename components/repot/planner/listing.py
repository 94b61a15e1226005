"""List every file in the pictures folders, by its path relative to PICTURES.

Paths are in Unicode normal form C with `/`, so that a disk that stores é decomposed gives the same
dataset. Separate folders for training and validation look like one folder with train/ and
validation/.
"""

import unicodedata
from dataclasses import dataclass

from repot import storage
from repot.errors import NoBucketError, UsageError
from repot.manifest import SPLITS
from repot.planner.file_table import FileTable, FoundFile


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
                f"validation={self.validation_uri!r}, test={self.test_uri!r}. Give PICTURES, or "
                "--train-directory and --validation-directory."
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Everything below the roots.

    Attributes:
        files: Every file, and every pipe, socket, device and looping link, sorted by path.
        empty_folders: Paths of the folders that directly contain nothing, sorted.
    """

    files: FileTable
    empty_folders: tuple[str, ...]


def list_root(prefix: str, root_uri: str) -> Listing:
    """Return everything below one root, with the prefix before every path.

    Raises:
        UsageError: The root or its bucket is missing, or the root is empty or a file.
        StorageError: The root cannot be listed.
    """
    files = FileTable()
    empty_folders: list[str] = []
    num_letters = len(storage.folder_prefix(root_uri))
    try:
        for entry in storage.scan_folder(root_uri):
            path = unicodedata.normalize("NFC", prefix + entry.uri[num_letters:])
            if isinstance(entry, storage.ObjectInfo):
                files.add(entry, path)
            elif entry.kind == storage.EMPTY_FOLDER:
                empty_folders.append(path)
            else:
                files.append(_to_found_file(entry, path))
    except NoBucketError as err:
        raise UsageError(f"The pictures folder must exist; {err}") from err
    if len(files) == len(files.kinds):
        raise UsageError(_explain_no_files(root_uri))
    return Listing(files=files.sorted(), empty_folders=tuple(sorted(empty_folders)))


def _to_found_file(entry: storage.OtherEntry, path: str) -> FoundFile:
    return FoundFile(
        uri=entry.uri, path=path, size_bytes=0, checksum="", version="", kind=entry.kind
    )


def check_folder(uri: str) -> None:
    """Check that a folder contains a file.

    Raises:
        UsageError: The folder or its bucket is missing, or the folder is empty or a file.
        StorageError: The folder cannot be listed.
    """
    try:
        has_files = any(isinstance(entry, storage.ObjectInfo) for entry in storage.scan_folder(uri))
    except NoBucketError as err:
        raise UsageError(f"The pictures folder must exist; {err}") from err
    if not has_files:
        raise UsageError(_explain_no_files(uri))


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
