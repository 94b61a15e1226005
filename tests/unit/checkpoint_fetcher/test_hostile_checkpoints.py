"""Files that are no checkpoint, or a hostile one: one message that names the file, no code run."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repot.checkpoint_fetcher.fetch import convert_to_folder
from repot.errors import CheckpointError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
OWNED = "owned.txt"


class Code:
    """An object whose pickle creates a file in the working folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (OWNED,)


def safetensors(path: Path) -> None:
    tensor = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}
    header = json.dumps({"w": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def zip_of(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)


def tar_of_a_link(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("weights.h5")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)


def numpy_archive(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    path.write_bytes(buffer.getvalue())


KINDS: dict[str, Callable[[Path], object]] = {
    "w.safetensors": safetensors,
    "pickle.pth": lambda path: path.write_bytes(pickle.dumps(Code())),
    "zip.pth": lambda path: zip_of(path, "a/data.pkl", pickle.dumps({"x": Code()})),
    "numpy.npz": numpy_archive,
    "compressed.h5": lambda path: path.write_bytes(gzip.compress(HDF5_MAGIC + bytes(100))),
    "bomb.keras": lambda path: zip_of(path, "model.weights.h5", HDF5_MAGIC + bytes(20_000_000)),
    "link.tar": tar_of_a_link,
    "empty.h5": lambda path: path.write_bytes(b""),
    "page.h5": lambda path: path.write_text("<html>"),
    "magic.h5": lambda path: path.write_bytes(HDF5_MAGIC * 100),
    "magic.ckpt": lambda path: path.write_bytes(bytes(200) + TABLE_MAGIC),
}


@pytest.mark.parametrize("name", KINDS)
def test_hostile_checkpoint_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[name](tmp_path / name)
    backbone = "inception_v3" if name.endswith("ckpt") else "mobilenet_v3_small"
    backbone = "efficientnet_lite0" if name.endswith("pth") else backbone

    with pytest.raises(CheckpointError) as raised:
        convert_to_folder(
            str(tmp_path / name), backbone=backbone, values="auto", folder_uri=str(tmp_path / "out")
        )

    assert name in str(raised.value)
    assert str(raised.value).isprintable()
    assert not (tmp_path / OWNED).exists()
    assert not list(tmp_path.rglob("checkpoint.json"))
