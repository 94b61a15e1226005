from pathlib import Path

import pytest

from repot import storage
from repot.dataset_plan import DatasetPlan
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.shard import build_shard
from tests.unit.conftest import Plan

SHARD = "train-00001-of-00003"


@pytest.fixture
def built(plan: Plan, tmp_path: Path) -> DatasetPlan:
    """Return a plan of which every shard is built."""
    made = plan(train_shards=3)
    for name in made.shard_names:
        build_shard(made.dataset_uri, name, scratch_path=tmp_path, on_picture=lambda: None)
    return made


def test_built_shards_are_finished(built: DatasetPlan) -> None:
    finished = finished_shards(built, built.shard_names)
    assert list(finished) == built.shard_names
    assert list(finished_shards(built, [SHARD])) == [SHARD]
    assert finished[SHARD].num_records == built.num_pictures[SHARD]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(SHARD, "", id="shard of another size"),
        pytest.param(SHARD, None, id="no shard"),
        pytest.param(f"receipts/{SHARD}.json", None, id="no receipt"),
        pytest.param(f"receipts/{SHARD}.json", "{", id="half a receipt"),
        pytest.param(f"receipts/{SHARD}.json", "[]", id="JSON of another kind"),
        pytest.param(f"receipts/{SHARD}.json", '{"shard": 1}', id="receipt without its facts"),
    ],
)
def test_shard_without_a_valid_receipt_is_not_finished(
    built: DatasetPlan, name: str, text: str | None
) -> None:
    uri = f"{built.dataset_uri}/{name}"
    storage.delete(uri) if text is None else storage.write_text(uri, text)
    assert SHARD not in finished_shards(built, built.shard_names)
    assert len(finished_shards(built, built.shard_names)) == 3


@pytest.mark.parametrize(
    ("key", "value"), [("shard", "train-00000-of-00003"), ("num_records", 1), ("size_bytes", 1)]
)
def test_receipt_that_does_not_fit_is_not_valid(
    built: DatasetPlan, key: str, value: object
) -> None:
    uri = f"{built.dataset_uri}/receipts/{SHARD}.json"
    storage.write_json(uri, {**storage.read_json(uri), key: value})
    assert SHARD not in finished_shards(built, built.shard_names)
