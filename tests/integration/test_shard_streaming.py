"""Shards in a bucket arrive while they are read; requests and bytes are counted at the server."""

import contextlib
import dataclasses
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import repot_pipelines
from repot import efficientnet_lite, shard_cache, storage
from repot.backbone_weights import save_weights, stable_names
from repot.data_checks import DataLimits
from repot.dataset import Examples, open_examples, share_of_batches, shuffled_numbers
from repot.errors import CorruptShardError, NotFoundError, StoppedError, UsageError
from repot.example_digests import read_contents
from repot.layout import WEIGHTS_NAME
from repot.manifest import Manifest, read_manifest
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings, TrainingSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.trainer.augmented_pictures import _choose_numbers
from repot.trainer.calibration import choose_held_out
from repot.trainer.position import Sums, TrainingPosition
from repot.trainer.request import TrainingRequest
from repot.trainer.state import StateStore
from repot.trainer.train import train
from repot.zoo import build_backbone
from tests.integration.faulty_proxy import FaultyProxy, Request, Response
from tests.shard_files import write_shards

NUM_SHARDS, SHARD_RECORDS = 40, 8
NUM_EXAMPLES = NUM_SHARDS * SHARD_RECORDS


class ShardServer(FaultyProxy):
    """Counts the downloads of shards and can hold them back.

    Attributes:
        downloads: Number of downloads by shard.
        num_bytes: Bytes of all downloads.
        held: Shards whose downloads wait until `release` is called.
        on_download: Called before every download.
    """

    def __init__(self, endpoint: str) -> None:
        self.downloads: Counter[str] = Counter()
        self.num_bytes = 0
        self.held: set[str] = set()
        self.on_download: Callable[[], object] = lambda: None
        self._released = threading.Event()
        self._lock = threading.Lock()
        super().__init__(endpoint)

    def release(self) -> None:
        """Let every download go on."""
        self._released.set()

    def respond(self, request: Request) -> Response | None:
        match = re.search(r"(train-\d+-of-\d+)\?.*alt=media", request.path)
        if match is None:
            return super().respond(request)
        self.on_download()
        if match[1] in self.held:
            self._released.wait(60)
        response = super().respond(request)
        with self._lock:
            self.downloads[match[1]] += 1
            self.num_bytes += len(response[2]) if response else 0
        return response


@pytest.fixture
def server(
    gcs: str, gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ShardServer]:
    # Everything that this process downloads is below tmp_path.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ShardServer(gcs_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        server.release()
        server.shutdown()
        thread.join()


@pytest.fixture
def manifest(gcs: str, server: ShardServer) -> Manifest:
    return write_shards(f"{gcs}/d", train=[SHARD_RECORDS] * NUM_SHARDS, padding=1000)


def order_of(epoch: int, *, batch_size: int = 16) -> Any:
    sizes = [SHARD_RECORDS] * NUM_SHARDS
    return shuffled_numbers(sizes, seeds=(0, epoch), window=1, batch_size=batch_size)


def numbers_of(examples: Any) -> list[int]:
    return [int(example["filename"]) for example in examples.as_numpy_iterator()]


def shards_of(numbers: Any) -> set[str]:
    return {f"train-{i:05}-of-{NUM_SHARDS:05}" for i in set(np.asarray(numbers) // SHARD_RECORDS)}


def num_bytes_on_disk(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def test_first_batch_arrives_while_later_shards_are_blocked(
    gcs: str, manifest: Manifest, server: ShardServer
) -> None:
    order = order_of(0)
    needed = shards_of(order[:16])
    assert len(needed) == 8
    server.held = {receipt.shard for receipt in manifest.shards} - needed

    with open_examples(f"{gcs}/d", manifest) as examples:
        read = iter(examples["train"].read(order).as_numpy_iterator())
        first = [int(next(read)["filename"]) for _ in range(16)]
        assert first == order[:16].tolist()
        assert set(server.downloads) == needed

        server.release()
        assert first + [int(example["filename"]) for example in read] == order.tolist()
    assert server.downloads == Counter(receipt.shard for receipt in manifest.shards)


def test_shards_that_fit_are_downloaded_once(
    gcs: str, manifest: Manifest, server: ShardServer, tmp_path: Path
) -> None:
    with open_examples(f"{gcs}/d", manifest) as examples:
        for epoch in range(3):
            order = order_of(epoch)
            assert numbers_of(examples["train"].read(order)) == order.tolist()
        total = sum(receipt.size_bytes for receipt in manifest.shards)
        assert num_bytes_on_disk(tmp_path) == server.num_bytes == total
    assert set(server.downloads.values()) == {1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_cached", [17, 20, 30])
def test_bytes_on_disk_stay_within_the_bound(
    num_cached: int, gcs: str, manifest: Manifest, server: ShardServer, tmp_path: Path
) -> None:
    max_bytes = num_cached * max(receipt.size_bytes for receipt in manifest.shards)
    peaks: list[int] = []
    server.on_download = lambda: peaks.append(num_bytes_on_disk(tmp_path))

    with open_examples(f"{gcs}/d", manifest, cache_bytes=max_bytes) as examples:
        for epoch in range(2):
            found = []
            order = order_of(epoch)
            for example in examples["train"].read(order).as_numpy_iterator():
                found.append(int(example["filename"]))
                peaks.append(num_bytes_on_disk(tmp_path))
            assert found == order.tolist()

    assert max_bytes * 0.5 < max(peaks) <= max_bytes
    assert NUM_SHARDS < sum(server.downloads.values()) <= 2 * NUM_SHARDS


def test_bound_below_the_shards_of_one_batch_is_an_error(
    gcs: str, manifest: Manifest, server: ShardServer
) -> None:
    max_bytes = 7 * max(receipt.size_bytes for receipt in manifest.shards)
    with (
        open_examples(f"{gcs}/d", manifest, cache_bytes=max_bytes) as examples,
        pytest.raises(UsageError, match=r"shard_cache_gib must be large enough.*train_shards"),
    ):
        examples["train"].read(order_of(0))
    assert server.num_bytes == 0


def test_resumed_training_downloads_only_what_it_still_needs(
    gcs: str, manifest: Manifest, server: ShardServer
) -> None:
    rest = order_of(0)[-64:]

    with open_examples(f"{gcs}/d", manifest) as examples:
        assert numbers_of(examples["train"].read(rest)) == rest.tolist()

    assert set(server.downloads) == shards_of(rest)
    assert len(server.downloads) < NUM_SHARDS / 2


def test_two_workers_download_half_each(gcs: str, manifest: Manifest, server: ShardServer) -> None:
    total = sum(receipt.size_bytes for receipt in manifest.shards)
    order, found = order_of(0), set()
    for worker in range(2):
        server.num_bytes = 0
        share = share_of_batches(order, batch_size=16, replicas=[worker], num_replicas=2).ravel()
        with open_examples(f"{gcs}/d", manifest) as examples:
            found |= set(numbers_of(examples["train"].read(share)))
        assert server.num_bytes <= 0.55 * total
    assert found == set(range(NUM_EXAMPLES))


def test_damaged_shard_is_an_error_where_it_is_read(
    gcs: str, manifest: Manifest, server: ShardServer
) -> None:
    uri = f"{gcs}/d/train-00003-of-00040"
    data = storage.read_bytes(uri)
    storage.write_bytes(uri, data[:-1] + bytes([data[-1] ^ 1]))

    with open_examples(f"{gcs}/d", manifest) as examples:
        assert numbers_of(examples["train"].read(np.arange(24))) == list(range(24))
    with (
        pytest.raises(CorruptShardError, match=f"{uri} must have .* with CRC32C .*; got"),
        open_examples(f"{gcs}/d", manifest) as examples,
    ):
        numbers_of(examples["train"].read(np.arange(25)))


def test_missing_shard_is_an_error(gcs: str, manifest: Manifest, server: ShardServer) -> None:
    uri = f"{gcs}/d/train-00003-of-00040"
    storage.delete(uri)
    with (
        pytest.raises(NotFoundError, match=uri),
        open_examples(f"{gcs}/d", manifest) as examples,
    ):
        numbers_of(examples["train"].read(np.arange(25)))


def test_shard_stored_with_gzip_encoding_is_verified_by_its_content(
    gcs: str, gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    from google.cloud import storage as google_storage

    manifest = write_shards(f"{gcs}/d", train=[5])
    blob = (
        google_storage.Client(project="p")
        .bucket(gcs.removeprefix("gs://"))
        .blob("d/train-00000-of-00001")
    )
    data = storage.read_bytes(f"{gcs}/d/train-00000-of-00001")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(data))

    with open_examples(f"{gcs}/d", read_manifest(f"{gcs}/d")) as examples:
        assert numbers_of(examples["train"].read()) == list(range(5))
    assert manifest.shards[0].size_bytes == len(data)


def test_other_error_is_not_hidden_by_readers_that_wait(
    gcs: str, manifest: Manifest, server: ShardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "_CLOSE_SECONDS", 0.1)
    server.held = {"train-00001-of-00040"}

    def fail_in_first_shard(examples: Mapping[str, Examples]) -> None:
        # Prefetching waits for the second shard meanwhile.
        read = iter(examples["train"].read(np.arange(17)).prefetch(20).as_numpy_iterator())
        for _ in range(SHARD_RECORDS):
            next(read)
        raise ValueError("another error")

    with (
        pytest.raises(ValueError, match="another error"),
        open_examples(f"{gcs}/d", manifest) as examples,
    ):
        fail_in_first_shard(examples)


def test_stop_while_a_shard_does_not_arrive_ends_the_reader(
    gcs: str, manifest: Manifest, server: ShardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(shard_cache, "_CLOSE_SECONDS", 0.1)
    server.held = {"train-00001-of-00040"}
    first_read = threading.Event()

    found = []

    def read_first_shard(examples: Mapping[str, Examples]) -> None:
        for example in examples["train"].read(np.arange(17)).as_numpy_iterator():
            found.append(int(example["filename"]))
            if len(found) == SHARD_RECORDS:
                first_read.set()

    with (
        pytest.raises(StoppedError, match=r"waited for .*train-00001-of-00040"),
        open_examples(f"{gcs}/d", manifest, should_stop=first_read.is_set) as examples,
    ):
        read_first_shard(examples)
    assert found == list(range(SHARD_RECORDS))


@pytest.fixture
def request_of_training(
    gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainingRequest:
    """Return a training of the first blocks of a network on a dataset of 24 shards in a bucket."""
    monkeypatch.setattr(efficientnet_lite, "_STAGES", efficientnet_lite._STAGES[:2])
    monkeypatch.setattr(efficientnet_lite, "_HEAD_FILTERS", 16)
    keras.utils.set_random_seed(0)
    network = build_backbone("efficientnet_lite0", image_size=32)
    names, values = stable_names(network), (weight.numpy() for weight in network.weights)
    save_weights(tmp_path / WEIGHTS_NAME, dict(zip(names, values, strict=True)))
    planned = plan_dataset(
        PictureRoots(pictures_uri=str(Path(repot_pipelines.__file__).parent / "sample/pictures")),
        dataset_folder=lambda _: f"{gcs}/sample",
        listings_uri=None,
        settings=DatasetSettings(train_shards=24),
    )
    build_shards(planned.dataset_uri, num_processes=1)
    complete_dataset(planned.dataset_uri, limits=DataLimits())
    return TrainingRequest(
        dataset_uri=planned.dataset_uri,
        weights_uri=str(tmp_path),
        run_uri=str(tmp_path / "run"),
        features_uri=str(tmp_path / "features"),
        training_id="t",
        checkpoint_id="c",
        settings=TrainingSettings(
            backbone="efficientnet_lite0", recipe="fine_tune", epochs=1, image_size=32, batch_size=8
        ),
    )


def test_first_step_of_a_network_does_not_wait_for_the_last_shard(
    request_of_training: TrainingRequest,
    server: ShardServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The features are stored: the head is trained without a shard.
    head = dataclasses.replace(request_of_training.settings, recipe="head", epochs=1)
    train(
        dataclasses.replace(request_of_training, settings=head, run_uri=str(tmp_path / "features"))
    )
    manifest = read_manifest(request_of_training.dataset_uri)
    contents = read_contents(request_of_training.dataset_uri, manifest, "train", task="train")
    part = choose_held_out(
        lambda: contents,
        None,
        request_of_training.settings.calibration_fraction,
        StateStore(str(tmp_path / "choice"), "t"),
    )
    receipts = manifest.split_shards("train")
    order = shuffled_numbers(
        [receipt.num_records for receipt in receipts],
        seeds=(0, 0),
        window=1024 * request_of_training.settings.input_queue_memory_factor,
        batch_size=8,
        only=np.flatnonzero(~part),
    )
    ends = np.cumsum([receipt.num_records for receipt in receipts])
    # The first batch, and the pictures that are shown with their augmentation.
    first = [*order[:8], *_choose_numbers(contents.class_ids)]
    needed = {receipts[i].shard for i in np.searchsorted(ends, first, side="right")}
    server.held = {receipt.shard for receipt in receipts} - needed
    server.downloads.clear()
    phases: list[str] = []
    finish_step = TrainingPosition.finish_step

    def note(position: TrainingPosition, sums: Sums, *, epoch_seconds: float) -> None:
        phases.append(position.phase)
        finish_step(position, sums, epoch_seconds=epoch_seconds)

    monkeypatch.setattr(TrainingPosition, "finish_step", note)
    monkeypatch.setattr(shard_cache, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(shard_cache, "_CLOSE_SECONDS", 0.1)
    with pytest.raises(StoppedError):
        train(request_of_training, should_stop=lambda: "fine_tune" in phases)

    assert "fine_tune" in phases
    assert set(server.downloads) == needed
    assert len(needed) < len(receipts) / 2
