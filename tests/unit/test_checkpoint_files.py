from pathlib import Path

import pytest

from repot import storage
from repot.checkpoint_files import find_files, is_web, without_secrets
from repot.errors import CheckpointError


def names(uri: str | Path) -> list[str]:
    return [Path(found).name for found in find_files(str(uri)).uris]


def touch(folder: Path, *file_names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in file_names:
        (folder / name).write_bytes(name.encode())


def test_a_file_is_a_checkpoint_whose_version_follows_its_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "weights.keras")
    before = find_files(str(tmp_path / "weights.keras"))
    (tmp_path / "weights.keras").write_bytes(b"other")

    assert before.uris == (str(tmp_path / "weights.keras"),)
    assert find_files(str(tmp_path / "weights.keras")).version != before.version


@pytest.mark.parametrize("given", ["m-1", "m-1.index", "m-1.data-00000-of-00002"])
def test_a_prefix_or_any_part_means_all_files_of_a_v2_checkpoint(
    tmp_path: Path, given: str
) -> None:
    touch(
        tmp_path,
        "m-1.index",
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
        "m-1.meta",
        "m-10.index",
    )

    assert names(tmp_path / given) == [
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
        "m-1.index",
    ]


def test_a_folder_means_the_checkpoint_that_its_state_names_wherever_it_once_was(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "m-1", "m-2.index", "m-2.data-00000-of-00001")
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/moved/away/m-2"\nall_model_checkpoint_paths: "/moved/away/m-1"\n'
    )

    assert names(tmp_path) == ["m-2.data-00000-of-00001", "m-2.index"]


def test_a_folder_of_repot_means_its_weights(tmp_path: Path) -> None:
    touch(tmp_path, "weights.h5", "checkpoint.json")

    assert names(tmp_path) == ["weights.h5"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("model_checkpoint_path: 'x'", "must name a checkpoint"),
        ('model_checkpoint_path: "/a/m-3"', "there is no .*/m-3"),
    ],
)
def test_a_state_file_that_names_nothing_is_refused(
    tmp_path: Path, state: str, message: str
) -> None:
    (tmp_path / "checkpoint").write_text(state)

    with pytest.raises(CheckpointError, match=message):
        find_files(str(tmp_path))


def test_the_same_files_are_found_in_a_bucket(gcs: str) -> None:
    for name in ("m-1.index", "m-1.data-00000-of-00001"):
        storage.write_bytes(f"{gcs}/train/{name}", b"x")
    storage.write_text(f"{gcs}/train/checkpoint", 'model_checkpoint_path: "m-1"')

    assert (
        names(f"{gcs}/train")
        == names(f"{gcs}/train/m-1")
        == ["m-1.data-00000-of-00001", "m-1.index"]
    )


def test_the_web_is_not_asked() -> None:
    assert find_files("HTTPS://nowhere.invalid/w.h5").uris == ("HTTPS://nowhere.invalid/w.h5",)


def test_is_web_means_http_only() -> None:
    assert [is_web(uri) for uri in ("http://h/x", "https://h/x", "gs://b/x", "/x")] == [
        True,
        True,
        False,
        False,
    ]


def test_without_secrets_leaves_paths_alone() -> None:
    assert without_secrets("/a?b@c") == "/a?b@c"
    assert without_secrets("https://u:p@h:8/a?sig=1#f") == "https://h:8/a"
