"""Compare repot's shards with those of the second program of 2016: synsets and bounding boxes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from repot import records
from tests.integration.command_line import repot

GOLDEN = Path(__file__).parents[1] / "golden" / "build_imagenet_data"

# Pictures that repot encodes itself, where the original used another encoder or decoder.
REENCODED = {"n01739381_1309.JPEG", "n02105855_2933.JPEG"}

Record = dict[str, list[Any]]


def _read(folder: Path, shard: str) -> list[Record]:
    """Return the records of a shard in the form of records.json: kind and values by feature."""
    found = []
    for data in records.read_records(folder / shard):
        record: Record = {}
        for name, feature in records._Example.FromString(data).features.feature.items():
            kind = feature.WhichOneof("kind")
            values = list(getattr(feature, kind).value)
            if name == "image/encoded":
                values = [hashlib.sha256(value).hexdigest() for value in values]
            elif kind == "bytes_list":
                values = [value.decode() for value in values]
            record[name] = [kind, values]
        found.append(record)
    return found


@pytest.mark.parametrize("boxes", ["bboxes.csv", "bbox"])
def test_command_line_of_2016_gives_its_records(boxes: str, tmp_path: Path) -> None:
    ended = repot(
        "shards",
        f"--train_directory={GOLDEN}/data/train",
        f"--validation_directory={GOLDEN}/data/validation",
        f"--output_directory={tmp_path}/out",
        *("--train_shards=2", "--validation_shards=2", "--num_threads=2"),
        f"--labels_file={GOLDEN}/labels.txt",
        f"--imagenet_metadata_file={GOLDEN}/metadata.txt",
        f"--bounding_box_file={GOLDEN}/{boxes}",
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    original: dict[str, list[Record]] = json.loads((GOLDEN / "records.json").read_text())
    ours = {shard: _read(tmp_path / "out", shard) for shard in original}
    # The original listed the files of a label in the order of the disk, so only their labels are
    # in the same place.
    for shard, expected in original.items():
        assert [each["image/class/label"] for each in ours[shard]] == [
            each["image/class/label"] for each in expected
        ]
    by_name = {each["image/filename"][1][0]: each for shard in ours.values() for each in shard}
    num_compared = 0
    for expected_record in (each for shard in original.values() for each in shard):
        name = expected_record["image/filename"][1][0]
        record = by_name.pop(name)
        if name in REENCODED:
            assert record["image/encoded"] != expected_record["image/encoded"]
            record["image/encoded"] = expected_record["image/encoded"]
        assert record == expected_record
        num_compared += 1
    assert (num_compared, by_name) == (17, {})
    assert "left out 3: with a metadata file of ImageNet" in ended.stderr
    if boxes == "bbox":
        assert (
            "6 bounding boxes in 5 of 17 pictures; skipped 1 that have no area and 1 that are of "
            "another label"
        ) in " ".join(ended.stderr.split())
