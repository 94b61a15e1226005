"""`repot shards --engine beam` with a real Apache Beam, and what it says without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repot import layout, storage
from repot.dataset_plan import read_plan
from repot.json_record import read_record
from repot.manifest import Manifest
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from tests.integration.command_line import repot

PICTURES = Path(__file__).parents[1] / "golden" / "build_image_data" / "data" / "train"
BEAM_PYTHON = Path(sys.prefix) / "beam" / "bin" / "python"
"""What `make beam` installs."""


# In the same environment as Beam: another version of Pillow makes other miniatures.
PODS = """
import sys
from repot import layout
from repot.data_checks import DataLimits
from repot.dataset_plan import Share
from repot.shard_builder.complete import build_item
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings

pictures, storage_uri, num_pods = sys.argv[1], sys.argv[2], int(sys.argv[3])
planned = plan_dataset(
    PictureRoots(pictures_uri=pictures),
    dataset_folder=lambda dataset_id: layout.dataset_uri(storage_uri, dataset_id),
    listings_uri=layout.listings_uri(storage_uri),
    settings=DatasetSettings(train_shards=4),
)
for index in range(num_pods):
    share = Share(
        dataset_id=planned.plan.dataset_id,
        share_index=index,
        num_shares=num_pods,
        limits=DataLimits(max_rejected_fraction=0.01),
        storage_uri=storage_uri,
    )
    manifest = build_item(share.to_item())
    assert (manifest is not None) == (index == num_pods - 1)
print(planned.dataset_uri)
"""


def _build_with_pods(storage_uri: str, *, num_pods: int) -> str:
    """Build a dataset as the builder pods of a run do; return its folder."""
    if not BEAM_PYTHON.exists():
        pytest.skip("run `make beam` first")
    command = [str(BEAM_PYTHON), "-c", PODS, str(PICTURES), storage_uri, str(num_pods)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def _files(folder_uri: str) -> dict[str, bytes]:
    return {
        storage.relative_name(info.uri, folder_uri): storage.read_bytes(info.uri)
        for info in storage.list_objects(folder_uri)
    }


def _shards_on_beam(storage_uri: str, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    if not BEAM_PYTHON.exists():
        pytest.skip("run `make beam` first")
    command = [str(BEAM_PYTHON), "-P", "-c", "from repot_pipelines.cli import main; main()"]
    command += ["shards", str(PICTURES), "--storage-uri", storage_uri, "--train-shards", "4"]
    command += ["--engine", "beam", *options]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ)
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_beam_writes_every_file_that_the_pods_write(tmp_path: Path) -> None:
    storage_uri = str(tmp_path / "beam")
    done = _shards_on_beam(storage_uri, tmp_path, "--beam-options", "--runner=DirectRunner")
    assert done.returncode == 0, done.stderr
    pods_uri = _build_with_pods(str(tmp_path / "pods"), num_pods=3)
    dataset_id = read_plan(pods_uri).dataset_id
    beam_uri = layout.dataset_uri(storage_uri, dataset_id)
    assert beam_uri in done.stdout
    expected, found = _files(pods_uri), _files(beam_uri)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    manifest = read_record(f"{beam_uri}/{layout.MANIFEST_NAME}", Manifest)
    assert manifest.num_accepted == len(list(PICTURES.glob("*/*.*")))

    # A run plans the same dataset, and finds it.
    planned = plan_dataset(
        PictureRoots(pictures_uri=str(PICTURES)),
        dataset_folder=lambda dataset_id: layout.dataset_uri(storage_uri, dataset_id),
        listings_uri=layout.listings_uri(storage_uri),
        settings=DatasetSettings(train_shards=4),
    )
    assert planned.exists


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_failed_beam_pipeline_is_explained_and_resumed(tmp_path: Path) -> None:
    pods_uri = _build_with_pods(str(tmp_path / "pods"), num_pods=1)
    storage_uri = str(tmp_path / "beam")
    # A folder where a shard must be: that shard cannot be written.
    blocked = Path(layout.dataset_uri(storage_uri, read_plan(pods_uri).dataset_id))
    name = read_plan(pods_uri).shard_names[1]
    (blocked / name / "x").mkdir(parents=True)
    failed = _shards_on_beam(storage_uri, tmp_path)
    assert failed.returncode == 1
    assert f"{name} cannot be written" in failed.stderr
    (blocked / name / "x").rmdir()
    (blocked / name).rmdir()
    done = _shards_on_beam(storage_uri, tmp_path)
    assert done.returncode == 0, done.stderr
    assert _files(str(blocked)) == _files(pods_uri)


def test_missing_beam_is_named(tmp_path: Path) -> None:
    done = repot(
        "shards", str(PICTURES), "--output-directory", "out", "--engine", "beam", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "make venv EXTRAS=beam" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "The dataset must have one place"),
        (("--output-directory", "a", "--storage-uri", "b"), "The dataset must have one place"),
        (
            ("--output-directory", "a", "--beam-options", "--runner=DirectRunner"),
            "--beam-options must come with --engine beam",
        ),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = repot("shards", str(PICTURES), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
