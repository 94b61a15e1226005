from pathlib import Path

import pytest

from repot import storage
from repot.manifest import Receipt
from repot.picture_decoder import PictureDecoder
from repot.planner.plan import PlannedDataset
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.shard import build_shard
from tests.unit.conftest import MakePlan

SHARD = "train-00001-of-00003"


@pytest.fixture
def built(make_plan: MakePlan, tmp_path: Path, decoder: PictureDecoder) -> PlannedDataset:
    """Return a planned dataset with all four shards built."""
    planned = make_plan(train_shards=3)
    for name in planned.plan.shard_names:
        build_shard(
            planned.dataset_uri,
            name,
            scratch_path=tmp_path,
            decode=decoder.decode,
            on_pictures=lambda _: None,
        )
    return planned


def _finished(built: PlannedDataset) -> dict[str, Receipt]:
    return finished_shards(built.dataset_uri, built.plan, built.plan.shard_names)


def test_built_shards_are_finished(built: PlannedDataset) -> None:
    finished = _finished(built)
    assert list(finished) == built.plan.shard_names
    assert list(finished_shards(built.dataset_uri, built.plan, [SHARD])) == [SHARD]
    assert finished[SHARD].num_records == built.plan.num_pictures[SHARD]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(SHARD, "", id="shard of another size"),
        pytest.param(SHARD, None, id="no shard"),
        pytest.param(f"receipts/{SHARD}.json", None, id="no receipt"),
        pytest.param(f"receipts/{SHARD}.json", "{", id="incomplete receipt"),
        pytest.param(f"receipts/{SHARD}.json", "[]", id="JSON list"),
        pytest.param(f"receipts/{SHARD}.json", '{"shard": 1}', id="receipt without its fields"),
    ],
)
def test_shard_without_a_valid_receipt_is_not_finished(
    built: PlannedDataset, name: str, text: str | None
) -> None:
    uri = f"{built.dataset_uri}/{name}"
    storage.delete(uri) if text is None else storage.write_text(uri, text)
    assert SHARD not in _finished(built)
    assert len(_finished(built)) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shard", "train-00000-of-00003"),
        ("num_records", 1),
        ("size_bytes", 1),
        ("class_counts", [1]),
        ("rejected", {"path": 1}),
    ],
)
def test_shard_with_a_receipt_that_does_not_match_is_not_finished(
    built: PlannedDataset, key: str, value: object
) -> None:
    uri = f"{built.dataset_uri}/receipts/{SHARD}.json"
    storage.write_json(uri, {**storage.read_json(uri), key: value})
    assert SHARD not in _finished(built)
