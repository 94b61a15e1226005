import string
import unicodedata
from typing import Any

import pytest

from repot import layout


def test_content_id_never_changes() -> None:
    # First digits of `printf %s '{"a":"\u00e9","b":[1,2.5,null]}' | sha256sum`. Another value would
    # orphan every stored dataset and run.
    assert layout.content_id({"b": [1, 2.5, None], "a": "é"}) == "84afbf1d4853005f"


def test_content_id_is_sixteen_hex_digits() -> None:
    found = layout.content_id([])

    assert len(found) == layout.ID_LENGTH
    assert set(found) <= set(string.hexdigits.lower())


def test_content_id_ignores_the_order_of_keys() -> None:
    assert layout.content_id({"a": 1, "b": 2}) == layout.content_id({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ([1, 2], [2, 1]),
        (1, "1"),
        (0, False),
        ("", None),
        ({"a": ["b", "c"]}, {"a": ["b,c"]}),
        ("é", unicodedata.normalize("NFD", "é")),
    ],
)
def test_content_id_differs_for_different_values(value: Any, other: Any) -> None:
    assert layout.content_id(value) != layout.content_id(other)


def test_content_id_rejects_values_that_are_not_json() -> None:
    with pytest.raises(TypeError):
        layout.content_id({1, 2})


@pytest.mark.parametrize("storage_uri", ["gs://bucket/prefix", "/data/my storage"])
def test_folders_are_distinct_and_below_the_storage_uri(storage_uri: str) -> None:
    folders = [
        layout.dataset_uri(storage_uri, "one"),
        layout.checkpoint_uri(storage_uri, "one"),
        layout.run_uri(storage_uri, "one"),
        layout.model_uri(storage_uri, "flowers", "one"),
        layout.champion_uri(storage_uri, "flowers"),
    ]

    assert all(folder.startswith(storage_uri + "/") for folder in folders)
    assert len(set(folders)) == len(folders)
    assert not any(
        folder.endswith("/") or "//" in folder.removeprefix("gs://") for folder in folders
    )


def test_champion_pointer_is_next_to_the_versions() -> None:
    version = layout.model_uri("/s", "flowers", "0123456789abcdef")

    assert layout.champion_uri("/s", "flowers") == version.rsplit("/", 1)[0] + "/champion.json"
