import string
import unicodedata
from typing import Any

import pytest

from repot import layout


def test_content_id_is_the_same_today_as_in_stored_folders() -> None:
    # The first digits of `printf %s '{"a":"\u00e9","b":[1,2.5,null]}' | sha256sum`. Another value would orphan every
    # stored data set and run.
    assert layout.content_id({"b": [1, 2.5, None], "a": "é"}) == "84afbf1d4853005f"


def test_content_id_is_sixteen_hex_digits() -> None:
    found = layout.content_id([])

    assert len(found) == layout.ID_LENGTH
    assert set(found) <= set(string.hexdigits.lower())


def test_content_id_ignores_the_order_of_keys() -> None:
    assert layout.content_id({"a": 1, "b": 2}) == layout.content_id({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("facts", "others"),
    [
        ([1, 2], [2, 1]),
        (1, "1"),
        (0, False),
        ("", None),
        ({"a": ["b", "c"]}, {"a": ["b,c"]}),
        ("é", unicodedata.normalize("NFD", "é")),
    ],
)
def test_content_id_differs_for_different_facts(facts: Any, others: Any) -> None:
    assert layout.content_id(facts) != layout.content_id(others)


def test_content_id_of_something_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        layout.content_id({1, 2})


@pytest.mark.parametrize("storage_uri", ["gs://bucket/prefix", "/data/my storage"])
def test_every_folder_lies_under_the_storage_uri_in_its_own_place(storage_uri: str) -> None:
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


def test_champion_pointer_lies_beside_the_versions() -> None:
    version = layout.model_uri("/s", "flowers", "0123456789abcdef")

    assert layout.champion_uri("/s", "flowers") == version.rsplit("/", 1)[0] + "/champion.json"
