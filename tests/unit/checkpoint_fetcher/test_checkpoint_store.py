import hashlib
from pathlib import Path

import pytest

from repot import checkpoint_record, storage
from repot.checkpoint_fetcher import checkpoint_store
from repot.checkpoint_fetcher.originals import Original
from repot.checkpoint_record import CheckpointRecord
from repot.errors import CheckpointError

SHA256 = "a" * 64


def save(
    folder: Path,
    values: str,
    available_values: tuple[str, ...],
    *,
    kind: str = "tensorflow",
    num_auxiliary_arrays: int | None = 0,
) -> None:
    weights_path = folder / "weights.tmp"
    weights_path.write_bytes(b"weights")
    record = CheckpointRecord(
        source="w",
        sha256=SHA256,
        backbone="inception_v3",
        kind=kind,
        values=values,
        available_values=available_values,
        num_arrays=1,
        num_parameters=1,
        step=None,
        num_auxiliary_arrays=num_auxiliary_arrays,
    )
    checkpoint_store.save_checkpoint(f"{folder}/{record.checkpoint_id}", weights_path, record)


def find(folder: Path, values: str) -> str:
    return checkpoint_record.find_checkpoint(
        str(folder), sha256=SHA256, backbone="inception_v3", values=values
    )


@pytest.mark.parametrize(
    ("stored", "available", "requested", "expected"),
    [
        (["raw"], ("raw",), "auto", "raw"),
        (["raw"], ("ema", "raw"), "auto", ""),
        (["ema"], ("ema", "raw"), "auto", "ema"),
        (["ema", "raw"], ("ema", "raw"), "auto", "ema"),
        (["ema", "raw"], ("ema", "raw"), "raw", "raw"),
        (["ema"], ("ema", "raw"), "raw", ""),
        ([], (), "auto", ""),
    ],
)
def test_auto_finds_averages_and_raw_values_only_without_averages(
    tmp_path: Path,
    stored: list[str],
    available: tuple[str, ...],
    requested: str,
    expected: str,
) -> None:
    for values in stored:
        save(tmp_path, values, available)

    assert find(tmp_path, requested) == (f"{SHA256}/inception_v3-{expected}" if expected else "")


@pytest.mark.parametrize(
    ("kind", "num_auxiliary_arrays", "is_found"),
    [
        ("tensorflow", None, False),
        ("tensorflow", 0, True),
        ("tensorflow", 8, True),
        ("keras", None, True),
    ],
)
def test_checkpoint_converted_without_its_auxiliary_head_is_converted_again(
    tmp_path: Path, kind: str, num_auxiliary_arrays: int | None, is_found: bool
) -> None:
    save(tmp_path, "ema", ("ema",), kind=kind, num_auxiliary_arrays=num_auxiliary_arrays)

    assert bool(find(tmp_path, "auto")) == is_found


def test_weights_without_a_record_are_not_found(tmp_path: Path) -> None:
    save(tmp_path, "raw", ("raw",))
    (tmp_path / SHA256 / "inception_v3-raw" / "checkpoint.json").unlink()

    assert not find(tmp_path, "raw")


def test_damaged_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    save(tmp_path, "raw", ("raw",))
    (tmp_path / SHA256 / "inception_v3-raw" / "checkpoint.json").write_text('{"source": "w"}')

    with pytest.raises(
        CheckpointError, match=r"checkpoint\.json must be a valid CheckpointRecord; .*Delete it"
    ):
        find(tmp_path, "auto")


def original_in(folder: Path) -> Original:
    folder.mkdir()
    (folder / "w.h5").write_bytes(b"abc")
    return Original(paths=(folder / "w.h5",), sha256=hashlib.sha256(b"abc").hexdigest())


def test_original_is_stored_once_and_found_by_checksum(tmp_path: Path, gcs: str) -> None:
    original = original_in(tmp_path / "in")
    assert checkpoint_store.load_original(gcs, original.sha256, tmp_path / "out") is None

    checkpoint_store.save_original(gcs, original)
    before = storage.list_objects(gcs)
    checkpoint_store.save_original(gcs, original)
    loaded = checkpoint_store.load_original(gcs, original.sha256, tmp_path / "out")

    assert storage.list_objects(gcs) == before
    assert loaded is not None
    assert loaded.paths[0].read_bytes() == b"abc"


def test_damaged_original_is_deleted(tmp_path: Path) -> None:
    original = original_in(tmp_path / "in")
    checkpoint_store.save_original(str(tmp_path), original)
    stored_folder = tmp_path / original.sha256 / "original"
    (stored_folder / "w.h5").write_bytes(b"abd")

    assert checkpoint_store.load_original(str(tmp_path), original.sha256, tmp_path / "out") is None
    assert not stored_folder.exists()


@pytest.mark.parametrize(
    ("source_uri", "version", "expected"),
    [
        ("/w.h5", "3-1", SHA256),
        ("/w.h5", None, SHA256),
        ("/w.h5", "3-2", ""),
        ("/other.h5", "3-1", ""),
    ],
)
def test_checksum_of_a_source_is_found_until_its_version_changes(
    tmp_path: Path, source_uri: str, version: str | None, expected: str
) -> None:
    checkpoint_record.save_sha256(str(tmp_path), source_uri="/w.h5", version="3-1", sha256=SHA256)

    found = checkpoint_record.find_sha256(str(tmp_path), source_uri=source_uri, version=version)

    assert found == expected


def test_source_is_stored_without_its_secrets(tmp_path: Path) -> None:
    checkpoint_record.save_sha256(
        str(tmp_path), source_uri="https://h/w?signature=secret", version="", sha256=SHA256
    )

    (stored,) = (tmp_path / "by-source").iterdir()
    assert "secret" not in stored.name + stored.read_text()
