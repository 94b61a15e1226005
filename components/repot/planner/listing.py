"""What lies in the pictures' folders, wherever they are: every file, by its path relative to PICTURES.

Paths are in Unicode's normal form C with `/`, so that a disk which spells é in another way is no other data set. Two
folders given one for each split look like one that holds train/ and validation/.
"""

import unicodedata
from dataclasses import dataclass

from repot import storage
from repot.errors import NoBucketError, UsageError
from repot.manifest import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRoots:
    """Where the pictures lie: in one folder, or in one for each split.

    Attributes:
        pictures_uri: The one folder; label folders lie in it, or train/ and validation/ with label folders in them.
        train_uri, validation_uri: The two folders; label folders lie in each.
    """

    pictures_uri: str = ""
    train_uri: str = ""
    validation_uri: str = ""

    def __post_init__(self) -> None:
        given = (bool(self.pictures_uri), bool(self.train_uri), bool(self.validation_uri))
        if given not in ((True, False, False), (False, True, True)):
            raise UsageError(
                "The pictures must lie in one folder, or in one for training and one for validation; got "
                f"pictures={self.pictures_uri!r}, train={self.train_uri!r}, validation={self.validation_uri!r}."
            )
        if self.train_uri and self.train_uri == self.validation_uri:
            raise UsageError(
                f"Training and validation must have folders of their own; got {self.train_uri!r} for both. "
                "Give one folder alone to have it split."
            )

    @property
    def folders(self) -> dict[str, str]:
        """Return the folder URIs by the prefix that paths in them get."""
        if self.pictures_uri:
            return {"": self.pictures_uri}
        return {
            f"{split}/": uri
            for split, uri in zip(SPLITS, (self.train_uri, self.validation_uri), strict=True)
        }

    @property
    def description(self) -> str:
        """Return the folders in one line."""
        return ", ".join(self.folders.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """One file as it was listed.

    Attributes:
        uri: Where it is.
        path: Its path relative to PICTURES, in normal form C.
        size_bytes: Its size.
        crc32c: CRC32C of its bytes, 8 hex digits; "" for a local file that was not read yet.
        version: See `repot.storage.ObjectInfo`.
    """

    uri: str
    path: str
    size_bytes: int
    crc32c: str
    version: str


def list_files(roots: PictureRoots) -> list[FoundFile]:
    """Return every file below the roots, sorted by path.

    Raises:
        UsageError: A folder is missing, is a file, or holds nothing; all such folders are listed.
    """
    files: list[FoundFile] = []
    problems: list[str] = []
    for prefix, uri in roots.folders.items():
        try:
            files += [_found(info, prefix, uri) for info in list_folder(uri)]
        except UsageError as err:
            problems += err.problems
    if problems:
        raise UsageError(problems)
    return sorted(files, key=lambda file: (file.path, file.uri))


def _found(info: storage.ObjectInfo, prefix: str, root_uri: str) -> FoundFile:
    path = unicodedata.normalize("NFC", prefix + storage.relative_name(info.uri, root_uri))
    return FoundFile(
        uri=info.uri,
        path=path,
        size_bytes=info.size_bytes,
        crc32c=info.crc32c or "",
        version=info.version,
    )


def list_folder(uri: str) -> list[storage.ObjectInfo]:
    """Return every file below the folder, sorted; there is at least one.

    Raises:
        UsageError: The folder or its bucket is missing, or it is a file, or it holds nothing.
        StorageError: It cannot be listed now.
    """
    try:
        infos = storage.list_objects(uri)
    except NoBucketError as err:
        raise UsageError(f"The pictures' folder must exist; {err}") from err
    if not infos:
        raise UsageError(_why_nothing(uri))
    return infos


def _why_nothing(uri: str) -> str:
    if not storage.is_local(uri):
        return f"The pictures' folder must hold pictures; there is nothing under {uri}/. Check the name."
    path = storage.local_path(uri)
    if path.is_dir():
        return f"The pictures' folder must hold pictures; {uri} is empty. Put a folder for each label into it."
    if path.exists():
        return f"The pictures must lie in a folder; {uri} is a file. Give the folder that holds the label folders."
    return f"The pictures' folder must exist; there is no {uri}. Check the name."
