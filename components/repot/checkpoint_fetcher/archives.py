"""Unpack a tar archive that may be damaged or hostile: plain files only, inside the folder, of bounded size."""

import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from repot.errors import CheckpointError

MAX_SIZE_BYTES = 8 << 30
MAX_FILES = 10_000


def unpack(archive_path: Path, folder: Path) -> None:
    """Unpack a tar or tar.gz archive into an empty folder.

    Raises:
        CheckpointError: It is damaged, or holds links, devices, names that lead out of the folder, or too much.
    """
    num_files = size_bytes = 0
    try:
        with tarfile.open(archive_path, "r:*") as archive:
            for member in archive:
                num_files, size_bytes = num_files + 1, size_bytes + member.size
                if num_files > MAX_FILES or size_bytes > MAX_SIZE_BYTES:
                    limit = f"{MAX_FILES} files and {MAX_SIZE_BYTES} bytes"
                    raise CheckpointError(
                        f"{archive_path.name} must hold at most {limit}; it holds more."
                    )
                if not member.isdir():
                    _unpack_file(archive, member, folder / _safe_name(archive_path, member))
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as err:
        raise CheckpointError(
            f"{archive_path.name} must be a whole tar archive; it is damaged: {err}. Fetch it again."
        ) from err


def _safe_name(archive_path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if not member.isreg() or name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise CheckpointError(
            f"{archive_path.name} must hold plain files below its own folder; got {member.name!r}. Do not use it."
        )
    return name


def _unpack_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    reader = archive.extractfile(member)
    if reader is None:
        raise CheckpointError(f"{member.name} must be a plain file in the archive; it is not.")
    with reader, path.open("wb") as file:
        shutil.copyfileobj(reader, file)
