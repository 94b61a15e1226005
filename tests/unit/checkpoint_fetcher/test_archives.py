import io
import tarfile
from pathlib import Path

import pytest

from repot.checkpoint_fetcher import archives
from repot.errors import CheckpointError


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def write(path: Path, *members: tarfile.TarInfo, data: bytes = b"", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_plain_files_are_unpacked_below_the_folder(tmp_path: Path, mode: str) -> None:
    path = write(
        tmp_path / "a.tar",
        member("./x", tarfile.DIRTYPE),
        member("x/model.ckpt"),
        member("readme"),
        data=b"ab",
        mode=mode,
    )

    archives.unpack(path, tmp_path / "out")

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
def test_what_is_no_plain_file_inside_is_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    path = write(tmp_path / "a.tgz", hostile)

    with pytest.raises(
        CheckpointError, match=r"a\.tgz must hold plain files below its own folder; got '"
    ):
        archives.unpack(path, tmp_path / "inner" / "out")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"a.tgz", "inner"}


def test_size_and_number_of_files_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tgz", member("a"), member("b"), data=bytes(100))
    monkeypatch.setattr(archives, "MAX_SIZE_BYTES", 200)
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    archives.unpack(path, tmp_path / "fits")

    for name, limit in (("MAX_SIZE_BYTES", 199), ("MAX_FILES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(archives, name, limit)
            with pytest.raises(
                CheckpointError, match=r"a\.tgz must hold at most .*; it holds more"
            ):
                archives.unpack(path, tmp_path / name)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_truncated_archive_is_refused(tmp_path: Path, mode: str, fraction: float) -> None:
    data = bytes(range(256)) * 400
    path = write(tmp_path / "a.tar", member("a"), data=data, mode=mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])

    with pytest.raises(CheckpointError, match=r"a\.tar must be a whole tar archive; it is damaged"):
        archives.unpack(path, tmp_path / "out")
