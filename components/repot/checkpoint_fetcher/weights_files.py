"""What kind of weights a file holds, told by its contents; archives are unpacked on the way."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repot import checkpoint_files
from repot.checkpoint_fetcher import archives, torch_file
from repot.errors import CheckpointError

Kind = Literal["tensorflow", "keras", "pytorch"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
# The last 8 bytes of a table: a V1 checkpoint, or the index of a V2 checkpoint.
# Source: tensorflow/core/lib/io/table_format.txt.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
_KERAS_MEMBER = "model.weights.h5"
_KINDS = "a tar or tar.gz archive, a TensorFlow checkpoint, a Keras .h5, .weights.h5 or .keras file, or a .pth file"
_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsFile:
    """Weights of a known kind.

    Attributes:
        kind: Who wrote it.
        path: The file; for a TensorFlow checkpoint of several files their prefix.
    """

    kind: Kind
    path: Path


def find_weights(paths: Sequence[Path], scratch: Path) -> WeightsFile:
    """Return the weights in a checkpoint's files.

    Args:
        paths: One file, or the files of a V2 checkpoint.
        scratch: An empty folder for what is unpacked.

    Raises:
        CheckpointError: The file is of no known kind, damaged, or holds none or several weights.
    """
    indices = [path for path in paths if path.suffix == ".index"]
    if indices:
        return WeightsFile(kind="tensorflow", path=indices[0].with_suffix(""))
    path = paths[0]
    with path.open("rb") as file:
        header = file.read(512)
    if header.startswith(_GZIP_MAGIC) or header.startswith(_TAR_MAGIC, _TAR_MAGIC_AT):
        folder = scratch / "unpacked"
        archives.unpack(path, folder)
        return _find_in_folder(folder, path.name)
    kind = _kind(path)
    if kind is None:
        what = "it is a web page" if header.lstrip().startswith(b"<") else "it is none of these"
        raise CheckpointError(
            f"{path.name} must be {_KINDS}; {what}. Check the address or the file."
        )
    return WeightsFile(kind=kind, path=_unzipped(path, scratch) if kind == "keras" else path)


def _find_in_folder(folder: Path, archive_name: str) -> WeightsFile:
    """Return the checkpoint that a `checkpoint` file names, or the only weights file there is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.name == "checkpoint":
            named = [Path(uri) for uri in checkpoint_files.find_files(str(path.parent)).uris]
            return find_weights(named, folder)
    found = [path for path in files if _kind(path)]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in (found or files)[:_NUM_SHOWN])
        raise CheckpointError(
            f"{archive_name} must hold one checkpoint; it holds {len(found)} (files: {names or 'none'}). "
            "Unpack it, and give the path of the one to use."
        )
    return find_weights(found, folder)


def _kind(path: Path) -> Kind | None:
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
    return _zip_kind(path) if zipfile.is_zipfile(path) else None


def _zip_kind(path: Path) -> Kind | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if _KERAS_MEMBER in names:
        return "keras"
    return "pytorch" if any(name.endswith("/data.pkl") for name in names) else None


def _unzipped(path: Path, scratch: Path) -> Path:
    """Return the HDF5 file in a .keras file; any other file as it is."""
    if not zipfile.is_zipfile(path):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_KERAS_MEMBER).file_size > archives.MAX_SIZE_BYTES:
                raise CheckpointError(
                    f"{path.name} must unpack to at most {archives.MAX_SIZE_BYTES} bytes."
                )
            return Path(archive.extract(_KERAS_MEMBER, scratch))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as err:
        raise CheckpointError(
            f"{path.name} must be a whole .keras file; it is damaged: {err}. Copy it again."
        ) from err
