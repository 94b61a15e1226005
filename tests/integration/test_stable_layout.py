"""Datasets in the `stable` layout: built by pods that are killed, in every kind of storage."""

import contextlib
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from repot import layout, storage
from repot.composition import find_composition, write_composed
from repot.dataset_plan import read_base
from repot.manifest import read_manifest
from repot.settings import to_arguments
from repot_pipelines.compiled import find_compiled
from tests.integration.command_line import repot
from tests.integration.compiled_tasks import CompiledPipeline, Json
from tests.integration.faulty_proxy import FaultyProxy, run_proxy
from tests.unit.conftest import make_jpeg

NUM_PICTURES = 60
NUM_KILLS = 8
SECONDS = 120.0
SETTINGS = {"shard_layout": "stable", "train_shards": 4, "validation_shards": 2, "builder_pods": 3}
# What differs between a dataset on another one and the same dataset alone: where the bytes are; and
# the page shows pictures, which this test deletes.
MAY_DIFFER = (
    *("train-", "validation-", "packs/", "compositions/", "checks/"),
    *("base.json", "checksums.json", "data.html"),
)


@dataclass(frozen=True)
class Store:
    """Where pictures and datasets are, and what sees the requests of builders to a bucket."""

    uri: str
    proxy: FaultyProxy | None


@pytest.fixture(params=["local", "gs", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    if request.param == "local":
        yield Store(str(tmp_path / "store"), None)
        return
    fixture, variable = {
        "gs": ("gcs", "STORAGE_EMULATOR_HOST"),
        "s3": ("s3", "AWS_ENDPOINT_URL_S3"),
    }[request.param]
    uri = request.getfixturevalue(fixture)
    with run_proxy(os.environ[variable]) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        yield Store(uri, proxy)


class Run:
    """A run of the compiled pipeline up to its builders."""

    def __init__(self, store: Store, name: str, folder: Path, checkpoint: str) -> None:
        self._pipeline = CompiledPipeline(find_compiled(), folder)
        arguments = {
            **to_arguments(SETTINGS),
            "pictures_uri": f"{store.uri}/pictures",
            "storage_uri": f"{store.uri}/{name}",
            "checkpoint": checkpoint,
        }
        with contextlib.closing(self._pipeline.run(arguments)) as tasks:  # type: ignore[type-var]
            plan = next(tasks)
        assert plan.exit_code == 0, plan.log
        self._items: list[str] = [plan.parameters["first_item"], *plan.parameters["Output"]]
        dataset_id = plan.parameters["dataset_id"]
        self.dataset_uri = layout.dataset_uri(arguments["storage_uri"], dataset_id)

    def start_builders(self) -> list["subprocess.Popen[str]"]:
        names = ["exec-build-shards", *["exec-build-shards-2"] * (len(self._items) - 1)]
        assert len(names) == SETTINGS["builder_pods"]
        return [
            self._pipeline.start(name, self._inputs(item))
            for name, item in zip(names, self._items, strict=True)
        ]

    def finish(self) -> None:
        for builder in self.start_builders():
            log, _ = builder.communicate(timeout=SECONDS)
            assert builder.returncode == 0, log
        assert storage.exists(f"{self.dataset_uri}/manifest.json")

    def stored(self) -> dict[str, str]:
        return {
            storage.relative_name(info.uri, self.dataset_uri): info.version
            for info in storage.list_objects(self.dataset_uri)
        }

    @staticmethod
    def _inputs(item: str) -> Json:
        return {"item": item}


def kill_at_random_moments(run: Run, draw: random.Random) -> int:
    """Kill all builders shortly after they have stored something; return how often."""
    for count in range(NUM_KILLS):
        builders, before = run.start_builders(), run.stored()
        deadline = time.monotonic() + SECONDS
        while run.stored() == before and any(builder.poll() is None for builder in builders):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        is_complete = storage.exists(f"{run.dataset_uri}/manifest.json")
        for builder in builders:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(builder.pid, signal.SIGKILL)
            builder.communicate(timeout=SECONDS)
        if is_complete:
            return count
    return NUM_KILLS


def read_shard(dataset_uri: str, shard: str) -> bytes:
    composition = find_composition(dataset_uri, shard)
    if composition is None:
        return storage.read_bytes(f"{dataset_uri}/{shard}")
    buffer = io.BytesIO()
    write_composed(dataset_uri, composition, buffer)
    return buffer.getvalue()


def write_picture(store: Store, label: str, number: int) -> str:
    path = f"{label}/{number:04}.jpg"
    storage.write_bytes(f"{store.uri}/pictures/{path}", make_jpeg(number))
    return path


def change_pictures(store: Store) -> set[str]:
    """Add, relabel and remove pictures; return the paths of those with new content."""
    for number, old, new in ((2, "a", "b"), (3, "b", "a"), (20, "a", "b")):
        storage.delete(f"{store.uri}/pictures/{old}/{number:04}.jpg")
        write_picture(store, new, number)
    for number in (6, 7, 30):
        storage.delete(f"{store.uri}/pictures/{'ab'[number % 2]}/{number:04}.jpg")
    return {write_picture(store, "ab"[i % 2], NUM_PICTURES + i) for i in range(4)}


@pytest.mark.slow
def test_builders_that_are_killed_build_on_an_earlier_dataset(
    store: Store, tmp_path: Path, lite0_weights_uri: str
) -> None:
    numbers = itertools.count()

    def start_run(name: str) -> Run:
        return Run(store, name, tmp_path / f"run {next(numbers)}", lite0_weights_uri)

    for number in range(NUM_PICTURES):
        write_picture(store, "ab"[number % 2], number)
    first = start_run("storage")
    first.finish()
    new = change_pictures(store)
    alone = start_run("alone")
    alone.finish()

    killed = start_run("storage")
    base = read_base(killed.dataset_uri)
    assert base is not None
    assert base.base_uri == first.dataset_uri
    # Nothing but what is new can be read from now on.
    for info in storage.list_objects(f"{store.uri}/pictures"):
        if storage.relative_name(info.uri, f"{store.uri}/pictures") not in new:
            storage.delete(info.uri)
    if store.proxy:
        store.proxy.requests.clear()
    assert kill_at_random_moments(killed, random.Random(7)) > 0
    killed.finish()

    if store.proxy:
        copies = [
            request
            for request in store.proxy.requests
            if "x-amz-copy-source" in {name.lower() for name in request.headers}
            or "/rewriteTo/" in request.path
        ]
        assert copies
    # The dataset needs nothing of the earlier one.
    storage.delete_folder(first.dataset_uri)
    manifest = read_manifest(killed.dataset_uri)
    composed = [
        shard.shard
        for shard in manifest.shards
        if find_composition(killed.dataset_uri, shard.shard) is not None
    ]
    assert composed
    for shard in manifest.shards:
        assert read_shard(killed.dataset_uri, shard.shard) == read_shard(
            alone.dataset_uri, shard.shard
        )
    same = [name for name in alone.stored() if not name.startswith(MAY_DIFFER)]
    assert {"manifest.json", "labels.txt", "digests/train.bin", "checks.json"} <= {*same}
    assert [name for name in killed.stored() if not name.startswith(MAY_DIFFER)] == same
    for name in same:
        one, other = (storage.read_bytes(f"{run.dataset_uri}/{name}") for run in (killed, alone))
        assert one == other, name


def test_shards_command_builds_on_a_given_dataset(tmp_path: Path) -> None:
    pictures = Store(str(tmp_path), None)
    for number in range(NUM_PICTURES):
        write_picture(pictures, "ab"[number % 2], number)
    options = ("--shard-layout", "stable", "--train-shards", "1")
    command = ("shards", f"{tmp_path}/pictures", *options, "--output-directory")
    assert repot(*command, "monday", cwd=tmp_path).returncode == 0
    change_pictures(pictures)
    done = repot(*command, "tuesday", "--base-directory", "monday", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    composition = find_composition(f"{tmp_path}/tuesday", "train-00000-of-00001")
    assert composition is not None
    assert (tmp_path / "monday" / "train-00000-of-00001").stat().st_nlink == 2
    assert len(composition.packs) == 2

    done = repot(
        *command[:2], "--output-directory", "x", "--base-directory", "monday", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "--base-directory must come with --shard-layout stable" in done.stderr
    shutil.rmtree(tmp_path / "monday")
    done = repot(*command, "wednesday", "--base-directory", "monday", cwd=tmp_path)
    assert done.returncode != 0
    assert "monday has none" in done.stderr
