import hashlib
from pathlib import Path

import pytest

from repot import storage
from repot.checkpoint_fetcher import stored
from repot.checkpoint_fetcher.originals import Original

SHA256 = "a" * 64


def put(uri: Path, values: str, available: list[str]) -> None:
    weights = uri / "weights.tmp"
    weights.write_bytes(b"weights")
    stored.store(f"{uri}/{SHA256}/inception_v3-{values}", weights, {"available_values": available})


@pytest.mark.parametrize(
    ("there", "available", "asked", "expected"),
    [
        (["raw"], ["raw"], "auto", "raw"),
        (["raw"], ["ema", "raw"], "auto", ""),
        (["ema"], ["ema", "raw"], "auto", "ema"),
        (["ema", "raw"], ["ema", "raw"], "auto", "ema"),
        (["ema", "raw"], ["ema", "raw"], "raw", "raw"),
        (["ema"], ["ema", "raw"], "raw", ""),
        ([], [], "auto", ""),
    ],
)
def test_auto_finds_averaged_values_and_raw_ones_only_where_there_are_no_others(
    tmp_path: Path, there: list[str], available: list[str], asked: str, expected: str
) -> None:
    for values in there:
        put(tmp_path, values, available)

    found = stored.find_stored(str(tmp_path), sha256=SHA256, backbone="inception_v3", values=asked)

    assert found == (f"{SHA256}/inception_v3-{expected}" if expected else "")


def test_weights_without_their_facts_are_not_there(tmp_path: Path) -> None:
    put(tmp_path, "raw", ["raw"])
    (tmp_path / SHA256 / "inception_v3-raw" / "checkpoint.json").unlink()

    assert not stored.find_stored(
        str(tmp_path), sha256=SHA256, backbone="inception_v3", values="raw"
    )


def original(folder: Path) -> Original:
    folder.mkdir()
    (folder / "w.h5").write_bytes(b"abc")
    return Original(paths=(folder / "w.h5",), sha256=hashlib.sha256(b"abc").hexdigest())


def test_an_original_is_stored_once_and_found_by_its_checksum(tmp_path: Path, gcs: str) -> None:
    put_in = original(tmp_path / "in")
    assert stored.find_original(gcs, put_in.sha256, tmp_path / "out") is None

    stored.store_original(gcs, put_in)
    before = storage.list_objects(gcs)
    stored.store_original(gcs, put_in)
    found = stored.find_original(gcs, put_in.sha256, tmp_path / "out")

    assert storage.list_objects(gcs) == before
    assert found is not None
    assert found.paths[0].read_bytes() == b"abc"


def test_a_damaged_original_is_thrown_away(tmp_path: Path) -> None:
    put_in = original(tmp_path / "in")
    stored.store_original(str(tmp_path), put_in)
    (tmp_path / put_in.sha256 / "original" / "w.h5").write_bytes(b"abd")

    assert stored.find_original(str(tmp_path), put_in.sha256, tmp_path / "out") is None
    assert not (tmp_path / put_in.sha256 / "original").exists()


def test_a_source_is_recalled_until_it_changes(tmp_path: Path) -> None:
    stored.remember(str(tmp_path), source_uri="/w.h5", version="3-1", sha256=SHA256)

    assert stored.recall(str(tmp_path), source_uri="/w.h5", version="3-1") == SHA256
    assert stored.recall(str(tmp_path), source_uri="/w.h5", version=None) == SHA256
    assert not stored.recall(str(tmp_path), source_uri="/w.h5", version="3-2")
    assert not stored.recall(str(tmp_path), source_uri="/other.h5", version="3-1")


def test_a_remembered_address_is_stored_without_its_secrets(tmp_path: Path) -> None:
    stored.remember(
        str(tmp_path), source_uri="https://h/w?signature=secret", version="", sha256=SHA256
    )

    (memory,) = (tmp_path / "by-source").iterdir()
    assert "secret" not in memory.name + memory.read_text()
