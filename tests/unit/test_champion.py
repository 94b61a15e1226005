"""The pointer to the version in production."""

from pathlib import Path

import pytest

from repot import storage
from repot.champion import Champion, read_champion
from repot.errors import ModelError

CHAMPION = Champion(model_name="m", version="v", dataset_id="d", precision_at_1=0.5, previous="u")


def test_champion_comes_back_as_it_was_written(tmp_path: Path) -> None:
    uri = str(tmp_path / "champion.json")
    written = storage.swap_bytes(uri, CHAMPION.to_bytes(), expected_version=None)

    assert read_champion(uri) == (CHAMPION, written.version)


def test_no_file_is_no_champion(tmp_path: Path) -> None:
    assert read_champion(str(tmp_path / "champion.json")) == (None, None)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"version": "v"}', '{"version": "v", "extra": 1}', "\xff"]
)
def test_other_content_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "champion.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(
        ModelError, match=r"champion\.json must be a JSON object of model_name, version"
    ):
        read_champion(str(tmp_path / "champion.json"))
