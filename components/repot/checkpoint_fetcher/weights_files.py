"""Find the weights among a checkpoint's files, and detect their format from content.

An archive is unpacked on the way. It may be damaged or hostile: only plain files inside the target
folder are unpacked, up to a bounded total size.
"""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from repot.checkpoint_fetcher import torch_file
from repot.checkpoint_files import find_files
from repot.errors import CheckpointError, join_names
from repot.hub_backbone import CONFIG_NAME, is_preset

Kind = Literal["tensorflow", "keras", "pytorch", "preset"]

MAX_UNPACKED_BYTES = 8 << 30
MAX_UNPACKED_FILES = 10_000

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257
# The last 8 bytes of a table, which is a V1 checkpoint or the index of a V2 checkpoint.
# Source: tensorflow/core/lib/io/table_format.txt.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
_KERAS_MEMBER = "model.weights.h5"
_FORMATS = (
    "a tar or tar.gz archive, a TensorFlow checkpoint, a Keras .h5, .weights.h5 or .keras file, "
    "or a .pth file"
)
_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsFile:
    """Weights of a known format.

    Attributes:
        kind: The format.
        path: The file; for a TensorFlow V2 checkpoint the prefix of its files, for a preset of
            KerasHub its folder.
    """

    kind: Kind
    path: Path


def find_weights(paths: Sequence[Path], scratch: Path) -> WeightsFile:
    """Find the weights in a checkpoint's files.

    Args:
        paths: One file, or the files of a TensorFlow V2 checkpoint or of a preset.
        scratch: Folder for unpacked files.

    Raises:
        CheckpointError: The file is damaged, has an unknown format, or holds no weights or several.
    """
    indices = [path for path in paths if path.suffix == ".index"]
    if indices:
        return WeightsFile(kind="tensorflow", path=indices[0].with_suffix(""))
    if is_preset(path.name for path in paths):
        return WeightsFile(kind="preset", path=paths[0].parent)
    path = paths[0]
    with path.open("rb") as file:
        header = file.read(512)
    if header.startswith(_GZIP_MAGIC) or header.startswith(_TAR_MAGIC, _TAR_MAGIC_OFFSET):
        folder = scratch / "unpacked"
        unpack_archive(path, folder)
        return _find_in_folder(folder, path.name)
    kind = _detect_kind(path)
    if kind is None:
        is_web_page = header.lstrip().startswith(b"<")
        reason = "it is a web page" if is_web_page else "its content is none of these"
        raise CheckpointError(
            f"{path.name} must be {_FORMATS}; {reason}. Check the address or the file."
        )
    return WeightsFile(kind=kind, path=_extract_hdf5(path, scratch) if kind == "keras" else path)


def unpack_archive(archive_path: Path, folder: Path) -> None:
    """Unpack a tar or tar.gz archive into an empty folder.

    Raises:
        CheckpointError: The archive is damaged, too large, or holds links, devices or paths that
            lead out of the folder.
    """
    num_files = size_bytes = 0
    try:
        with tarfile.open(archive_path, "r:*") as archive:
            for member in archive:
                num_files, size_bytes = num_files + 1, size_bytes + member.size
                if num_files > MAX_UNPACKED_FILES or size_bytes > MAX_UNPACKED_BYTES:
                    limit = f"{MAX_UNPACKED_FILES} files and {MAX_UNPACKED_BYTES} bytes"
                    raise CheckpointError(
                        f"{archive_path.name} must hold at most {limit}; it holds more."
                    )
                if not member.isdir():
                    path = folder / _safe_name(archive_path, member)
                    _unpack_member(archive, member, path)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as err:
        reason = str(err).partition("\n")[0].rstrip(":") or type(err).__name__
        raise CheckpointError(
            f"{archive_path.name} must be an intact tar archive; it is damaged: {reason}. "
            "Fetch it again."
        ) from err


def _safe_name(archive_path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if not member.isreg() or name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise CheckpointError(
            f"{archive_path.name} must hold plain files below its own folder; "
            f"got {member.name!r}. Do not use it."
        )
    return name


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    reader = archive.extractfile(member)
    if reader is None:
        raise CheckpointError(f"{member.name} must be a plain file in the archive; it is not.")
    with reader, path.open("wb") as file:
        shutil.copyfileobj(reader, file)


def _find_in_folder(folder: Path, archive_name: str) -> WeightsFile:
    """Return the checkpoint that a `checkpoint` file names, or else the only weights file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.name == "checkpoint":
            named = [Path(uri) for uri in find_files(str(path.parent)).uris]
            return find_weights(named, folder)
    for path in files:
        beside = [other for other in files if other.parent == path.parent]
        if path.name == CONFIG_NAME and is_preset(other.name for other in beside):
            return WeightsFile(kind="preset", path=path.parent)
    found = [path for path in files if _detect_kind(path)]
    if len(found) != 1:
        names = [str(path.relative_to(folder)) for path in (found or files)]
        raise CheckpointError(
            f"{archive_name} must hold one checkpoint; it holds {len(found)} "
            f"(files: {join_names(names, _NUM_SHOWN) or 'none'}). "
            "Unpack it, and give the path of the one to use."
        )
    return find_weights(found, folder)


def _detect_kind(path: Path) -> Kind | None:
    with path.open("rb") as file:
        header = file.read(len(torch_file.LEGACY_MAGIC))
        file.seek(max(0, path.stat().st_size - len(_TABLE_MAGIC)))
        footer = file.read()
    if header.startswith(_HDF5_MAGIC):
        return "keras"
    if header.startswith(torch_file.LEGACY_MAGIC):
        return "pytorch"
    if footer == _TABLE_MAGIC:
        return "tensorflow"
    return _detect_zip_kind(path) if zipfile.is_zipfile(path) else None


def _detect_zip_kind(path: Path) -> Kind | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if _KERAS_MEMBER in names:
        return "keras"
    return "pytorch" if any(name.endswith("/data.pkl") for name in names) else None


def _extract_hdf5(path: Path, scratch: Path) -> Path:
    """Extract the HDF5 file of a .keras file, by the same name; return another file unchanged."""
    if not zipfile.is_zipfile(path):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_KERAS_MEMBER).file_size > MAX_UNPACKED_BYTES:
                raise CheckpointError(
                    f"{path.name} must unpack to at most {MAX_UNPACKED_BYTES} bytes; "
                    "it unpacks to more."
                )
            folder = scratch / "keras"
            # Messages name the file that the user has.
            return Path(archive.extract(_KERAS_MEMBER, folder)).rename(folder / path.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as err:
        raise CheckpointError(
            f"{path.name} must be an intact .keras file; it is damaged: {err}. Copy it again."
        ) from err
