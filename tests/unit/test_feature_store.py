"""Parts that any number of trainings write and read, and that are damaged."""

import hashlib
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from repot import storage
from repot.errors import StorageError
from repot.feature_store import Digests, FeatureKey, VectorStore, equal_pairs, keys_of

KEY = FeatureKey(
    checkpoint_id="abc/efficientnet_lite0-raw",
    backbone="efficientnet_lite0",
    image_size=224,
    view="central",
)


def digests_of(*numbers: int) -> Digests:
    return np.array([hashlib.sha256(bytes([n])).digest() for n in numbers], "S32")


def vectors_of(*numbers: int) -> npt.NDArray[np.float32]:
    return np.array([[n, n / 7, -n] for n in numbers], np.float32)


def open_store(folder: Path | str, key: FeatureKey = KEY) -> VectorStore:
    store = VectorStore(storage.join(str(folder), key.folder_name), num_columns=3)
    store.refresh()
    return store


def add(store: VectorStore, *numbers: int) -> None:
    store.add(digests_of(*numbers), vectors_of(*numbers))


def read(store: VectorStore, *numbers: int) -> tuple[list[bool], npt.NDArray[np.float32]]:
    table, is_filled = np.full([len(numbers), 3], -1, np.float32), np.zeros(len(numbers), np.bool_)
    store.fill(keys_of(digests_of(*numbers)), table, is_filled)
    return is_filled.tolist(), table


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def test_vectors_come_back_in_the_order_of_the_examples(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 1, 2, 3)
    add(store, 4, 5)

    is_filled, table = read(open_store(tmp_path), 5, 9, 2, 5, 1)

    assert is_filled == [True, False, True, True, True]
    expected = vectors_of(5, 9, 2, 5, 1)
    expected[1] = -1
    np.testing.assert_array_equal(table, expected)


def test_stored_keys_are_sorted_and_different(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 3, 1)
    add(store, 1, 2)

    stored = open_store(tmp_path).stored_keys()

    np.testing.assert_array_equal(stored, np.sort(keys_of(digests_of(1, 2, 3))))


def test_digests_of_stored_examples_are_found_by_their_keys(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 3, 1)
    add(store, 1, 2)
    digests = np.concatenate([digests_of(9), np.zeros(4, "S32")])

    open_store(tmp_path).find_digests(keys_of(digests_of(1, 3, 8, 1, 2)), digests)

    expected = digests_of(9, 3, 8, 1, 2)
    expected[2] = b""
    np.testing.assert_array_equal(digests, expected)


def test_refresh_finds_the_parts_of_other_processes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert read(store, 1)[0] == [False]

    add(open_store(tmp_path), 1)
    store.refresh()

    assert read(store, 1)[0] == [True]


def test_rows_that_are_filled_are_left_alone(tmp_path: Path) -> None:
    add(open_store(tmp_path), 1, 2)
    table, is_filled = np.zeros([2, 3], np.float32), np.array([True, False])

    open_store(tmp_path).fill(keys_of(digests_of(1, 2)), table, is_filled)

    np.testing.assert_array_equal(table, [[0, 0, 0], *vectors_of(2).tolist()])
    assert is_filled.all()


def test_digest_that_ends_with_zeros_is_found(tmp_path: Path) -> None:
    # NumPy drops trailing zeros when it converts an element to Python's bytes.
    keys = b"\x01" * 14 + b"\0\0", b"\x01" * 14 + b"\0\x01", bytes(16)
    digests = np.array([key + bytes(16) for key in keys], "S32")
    open_store(tmp_path).add(digests, vectors_of(1, 2, 3))
    table, is_filled = np.zeros([3, 3], np.float32), np.zeros(3, np.bool_)

    open_store(tmp_path).fill(keys_of(digests)[::-1], table, is_filled)

    np.testing.assert_array_equal(table, vectors_of(3, 2, 1))


@pytest.mark.parametrize("suffix", [".digests", ".vectors"])
@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "longer", "missing"])
def test_damaged_part_is_logged_deleted_and_written_again(
    suffix: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    add(store, 1, 2)
    add(store, 3)
    path = max(files(tmp_path, suffix), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    damaged = {
        "bit": data[:5] + bytes([data[5] ^ 1]) + data[6:],
        "truncated": data[:-4],
        "empty": b"",
        "longer": data + data,
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])

    with caplog.at_level(logging.WARNING):
        found = open_store(tmp_path)
        is_filled, table = read(found, 1, 2, 3)

    assert is_filled == [False, False, True]
    np.testing.assert_array_equal(table, [[-1] * 3] * 2 + vectors_of(3).tolist())
    # Without its digests a part does not exist: nothing is damaged.
    if (suffix, damage) == (".digests", "missing"):
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert path.name in message
        assert "computed again" in message
        assert len(files(tmp_path, ".vectors")) == len(files(tmp_path, ".digests")) == 1
    assert read(found, 1, 2, 3)[0] == [False, False, True]
    add(found, 1, 2)
    assert read(open_store(tmp_path), 1, 2, 3)[0] == [True, True, True]


def test_vectors_of_a_part_that_is_damaged_are_found_in_another_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 1)
    (vectors,) = files(tmp_path, ".vectors")
    add(store, 1, 2)
    vectors.write_bytes(b"damaged")

    found = open_store(tmp_path)
    first = read(found, 1, 2)[0]
    second = read(found, 1, 2)[0]

    assert (first, second) in [([True, True], [True, True]), ([False, True], [True, True])]


def test_other_files_in_the_folder_are_not_parts(tmp_path: Path) -> None:
    add(open_store(tmp_path), 1)
    (folder,) = tmp_path.iterdir()
    (folder / "notes.digests").write_bytes(b"?")
    (folder / f"{'A' * 32}-{'B' * 32}.digests").write_bytes(b"?")

    assert len(open_store(tmp_path).stored_keys()) == 1
    assert (folder / "notes.digests").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_id": "abd/efficientnet_lite0-raw"},
        {"backbone": "mobilenet_v2"},
        {"image_size": 225},
        {"view": "whole"},
        {"mirrored": True},
        {"dtype": "bfloat16"},
    ],
)
def test_every_part_of_the_key_has_its_own_features(change: dict[str, Any], tmp_path: Path) -> None:
    add(open_store(tmp_path), 1)

    assert len(open_store(tmp_path, replace(KEY, **change)).stored_keys()) == 0


def test_folder_name_says_what_the_features_are() -> None:
    key = replace(KEY, backbone="hub:google/ViT base", mirrored=True)

    assert key.folder_name.startswith("hub_google_vit_base-224-central-mirrored-")
    assert KEY.folder_name == "efficientnet_lite0-224-central-62010d806e19d502"


def test_trainings_that_write_at_the_same_time_do_not_damage_each_other(tmp_path: Path) -> None:
    def write(first: int) -> None:
        store = open_store(tmp_path)
        for number in range(first, first + 20):
            add(store, number, number + 1)

    writers = [threading.Thread(target=write, args=[first]) for first in (0, 0, 10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    numbers = range(41)
    is_filled, table = read(open_store(tmp_path), *numbers)
    assert all(is_filled)
    np.testing.assert_array_equal(table, vectors_of(*numbers))


@pytest.mark.parametrize("scheme", ["gcs", "s3"])
def test_store_works_in_a_bucket(scheme: str, request: pytest.FixtureRequest) -> None:
    uri = f"{request.getfixturevalue(scheme)}/features"
    add(open_store(uri), 1, 2)

    is_filled, table = read(open_store(uri), 2, 1)

    assert all(is_filled)
    np.testing.assert_array_equal(table, vectors_of(2, 1))


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / KEY.folder_name).write_text("a file")

    with pytest.raises(StorageError):
        add(VectorStore(f"{tmp_path}/{KEY.folder_name}", num_columns=3), 1)


def test_equal_pairs_are_all_pairs() -> None:
    sorted_digests, digests = np.sort(digests_of(1, 2, 2, 3)), digests_of(2, 9, 3, 2)

    places, sources = equal_pairs(sorted_digests, digests)

    np.testing.assert_array_equal(sorted_digests[places], digests[sources])
    assert len(set(zip(places.tolist(), sources.tolist(), strict=True))) == len(places) == 5
