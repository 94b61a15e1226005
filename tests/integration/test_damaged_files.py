"""A flipped byte anywhere under a storage URI is found, and the file is named."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repot import keras_model, layout, storage
from repot.checkpoint_fetcher.fetch import fetch_checkpoint
from repot.errors import ModelError, UsageError
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.gate import decide_and_promote
from repot.evaluator.versions import promote_by_hand, rollback
from repot.hub_backbone import HubArchitecture
from repot.json_record import checked_text
from repot.layout import CHECKSUMS_NAME, MANIFEST_NAME, MODEL_RECORD_NAME, MODEL_SPEC_NAME
from repot.predictor import load_model
from repot.settings import GateSettings, TrainingSettings
from repot.storage_check import verify_folder
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
from tests.integration.kfp_api.command_line import run_repot

TIME = "2026-11-27T14:05:00Z"
NUM_FLIPS = 1000
INDEXES = (CHECKSUMS_NAME, MANIFEST_NAME, MODEL_RECORD_NAME)


@pytest.fixture(scope="module")
def complete_storage(sample_dataset_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a storage folder with everything that a pipeline run leaves."""
    folder = tmp_path_factory.mktemp("complete") / "storage"
    dataset_id = Path(sample_dataset_uri).name
    shutil.copytree(sample_dataset_uri, folder / "datasets" / dataset_id)
    checkpoint_id = fetch_checkpoint(
        "default",
        backbone="efficientnet_lite0",
        values="auto",
        checkpoints_uri=layout.checkpoints_uri(str(folder)),
    )
    request = TrainingRequest.from_ids(
        str(folder),
        dataset_id=dataset_id,
        checkpoint_id=checkpoint_id,
        settings=TrainingSettings(
            backbone="efficientnet_lite0", recipe="head", epochs=3, image_size=32
        ),
    )
    train(request)
    evaluate_run(
        storage_uri=str(folder),
        dataset_id=dataset_id,
        training_id=request.training_id,
        model_name="m",
    )
    decide_and_promote(
        storage_uri=str(folder),
        dataset_id=dataset_id,
        training_id=request.training_id,
        model_name="m",
        settings=GateSettings(force_promote="a test"),
        run_id="r",
        decided_at=TIME,
    )
    return folder


@pytest.fixture
def stored(complete_storage: Path, tmp_path: Path) -> Path:
    """Return a copy of the storage folder that a test may damage."""
    return Path(shutil.copytree(complete_storage, tmp_path / "storage"))


@pytest.fixture
def version(stored: Path) -> Path:
    """Return the folder of the published version."""
    return next(path.parent for path in stored.rglob(MODEL_RECORD_NAME))


def flip(path: Path, place: int, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_file_of_a_complete_run_is_verified(complete_storage: Path) -> None:
    report = verify_folder(str(complete_storage))

    assert (report.damaged, report.unverified) == ((), ())
    assert report.num_verified == len(files_of(complete_storage)) > 40


@pytest.mark.parametrize("is_index", [False, True])
def test_a_flipped_byte_in_every_file_is_found_in_each(stored: Path, is_index: bool) -> None:
    rng = random.Random(0)
    changed = [path for path in files_of(stored) if (path.name in INDEXES) == is_index]
    for path in changed:
        flip(path, rng.randrange(path.stat().st_size), 1 << rng.randrange(8))

    report = verify_folder(str(stored))

    damaged = {each.uri for each in report.damaged}
    assert damaged >= {str(path) for path in changed}
    if not is_index:
        assert damaged == {str(path) for path in changed}


def test_one_flipped_byte_is_named_by_the_command(stored: Path) -> None:
    path = next(stored.rglob("labels.txt"))
    flip(path, 0)

    done = run_repot("verify", str(stored))

    assert done.exit_code == 1
    assert f"damaged  {path}: its content was changed" in done.output
    assert ", 1 damaged or missing, 0 without a checksum" in done.output


@pytest.mark.slow
def test_a_thousand_flipped_bytes_are_found_one_by_one(stored: Path) -> None:
    rng = random.Random(1)
    files = files_of(stored)
    sizes = [path.stat().st_size for path in files]
    # Half of them anywhere in the bytes, which are mostly weights; half in any file.
    chosen = rng.choices(files, sizes, k=NUM_FLIPS // 2) + rng.choices(files, k=NUM_FLIPS // 2)
    for path in chosen:
        place, bits = rng.randrange(path.stat().st_size), rng.randrange(1, 256)
        flip(path, place, bits)

        damaged = [each.uri for each in verify_folder(str(stored)).damaged]

        assert str(path) in damaged, f"byte {place} of {path} ^ {bits}"
        flip(path, place, bits)


def test_missing_file_is_named(stored: Path) -> None:
    path = next(stored.rglob("history.csv"))
    path.unlink()

    (damaged,) = verify_folder(str(stored)).damaged

    assert (damaged.uri, damaged.problem) == (str(path), "it is missing")


def test_file_without_a_checksum_is_counted(stored: Path) -> None:
    (stored / "notes.txt").write_text("mine")
    assert verify_folder(str(stored)).unverified == (f"{stored}/notes.txt",)


def test_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must contain files"):
        verify_folder(str(tmp_path))


@pytest.mark.parametrize("scheme", ["gcs", "s3"])
def test_buckets_are_verified(
    scheme: str, complete_storage: Path, request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue(scheme)
    storage.upload_folder(complete_storage, f"{bucket}/repot")
    assert verify_folder(f"{bucket}/repot").damaged == ()
    (path,) = complete_storage.rglob("champion.json")
    champion_uri = f"{bucket}/repot/{path.relative_to(complete_storage)}"
    data = bytearray(path.read_bytes())
    data[20] ^= 4
    storage.write_bytes(champion_uri, bytes(data))

    assert [each.uri for each in verify_folder(f"{bucket}/repot").damaged] == [champion_uri]


@pytest.mark.parametrize("name", ["model.keras", "labels.txt", "model_spec.json", "model.json"])
def test_damaged_version_is_neither_loaded_nor_promoted(
    name: str, stored: Path, version: Path
) -> None:
    place = (version / name).read_bytes().index(b"e", 40 if name == "model.json" else 0)
    flip(version / name, place, 4)
    (champion,) = stored.rglob("champion.json")
    champion.unlink()

    with pytest.raises(ModelError, match=rf"{version}/{name}"):
        load_model(str(version))
    with pytest.raises(ModelError, match=rf"{version}/{name}"):
        promote_by_hand(str(stored), "m", version.name, reason="a test", time=TIME)


def test_changed_or_added_file_is_not_rolled_back_to(stored: Path, version: Path) -> None:
    (champion,) = stored.rglob("champion.json")
    text = json.loads(champion.read_text())
    text.pop("sha256_of_the_rest")
    champion.write_text(json.dumps(text | {"version": "other", "previous": version.name}))
    (version / "extra.py").write_text("")

    with pytest.raises(ModelError, match=r"extra\.py: it was added"):
        rollback(str(stored), "m", time=TIME)

    (version / "extra.py").unlink()
    flip(version / "saved_model" / "saved_model.pb", 9)
    with pytest.raises(ModelError, match=r"saved_model\.pb: its content was changed"):
        rollback(str(stored), "m", time=TIME)
    flip(version / "saved_model" / "saved_model.pb", 9)
    assert rollback(str(stored), "m", time=TIME).version == version.name


def rewrite(version: Path, edit_spec: Callable[[dict[str, Any]], object], **record: object) -> None:
    """Change model_spec.json and model.json, with checksums that fit, as who may write could."""
    spec_path, record_path = version / MODEL_SPEC_NAME, version / MODEL_RECORD_NAME
    spec = json.loads(spec_path.read_text())
    edit_spec(spec)
    spec_path.write_text(json.dumps(spec))
    value = json.loads(record_path.read_text()) | record
    del value["sha256_of_the_rest"]
    for file in value["files"]:
        if file["name"] == MODEL_SPEC_NAME:
            file["size_bytes"] = spec_path.stat().st_size
            file["sha256"] = hashlib.sha256(spec_path.read_bytes()).hexdigest()
    record_path.write_text(checked_text(value))


def test_version_that_can_be_rebuilt_is_not_loaded_as_one_of_an_earlier_repot(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(version, lambda spec: spec.pop("network"))

    with pytest.raises(ModelError, match=r"model_spec\.json must say how .* built.* says nothing"):
        load_model(str(version))

    # Without signatures, who may write can make an earlier version of it. It stays data.
    rewrite(version, lambda spec: None, network=None)
    assert load_model(str(version)).labels
    monkeypatch.setitem(keras_model._CLASSES, "keras.layers", frozenset())
    with pytest.raises(ModelError, match=r"could run foreign code: .*model\.keras has"):
        load_model(str(version))


def test_version_without_its_spec_is_not_loaded(version: Path) -> None:
    (version / MODEL_SPEC_NAME).unlink()
    value = json.loads((version / MODEL_RECORD_NAME).read_text())
    del value["sha256_of_the_rest"]
    value["files"] = [file for file in value["files"] if file["name"] != MODEL_SPEC_NAME]
    (version / MODEL_RECORD_NAME).write_text(checked_text(value))

    with pytest.raises(ModelError, match=r"model_spec\.json must say how .* built.* says nothing"):
        load_model(str(version))


ARCHITECTURE = HubArchitecture(class_name="X", config="{}", image_size=1, scale=(), offset=())
HOSTILE_SPECS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown backbone": ({"backbone": "\x1b[31mx"}, {}, "backbone must be one of"),
    "huge image": ({"image_size": 10**9}, {}, r"image_size must lie in 32\.\.4096; got"),
    "no view": ({"views": []}, {}, "views must be different ones, at least one; got"),
    "same views": ({"views": ["central"] * 2}, {}, "views must be different ones"),
    "views of another head": ({"views": ["whole"]}, {}, "must take the central view alone"),
    "huge score": ({}, {"num_unlike_axes": 10**12}, r"num_unlike_axes must lie in 0\.\.256"),
    "negative score": ({}, {"num_unlike_axes": -1}, r"num_unlike_axes must lie in 0\.\.256"),
    "other score": ({}, {"num_unlike_axes": 3}, "must have the weights of its network"),
    "without score": ({}, {"num_unlike_axes": 0}, "Of no use: layers/dense_"),
    "other head": (
        {},
        {"head": "normalised", "use_depths": True},
        r"Missing: probabilities/kernel 1584x4\.",
    ),
    "other network": ({"backbone": "mobilenet_v3_small"}, {}, "must have the weights of its"),
    "no hub": (
        {},
        {"architecture": ARCHITECTURE.to_json()},
        "architecture must be that of KerasHub's none",
    ),
    "code": ({}, {"architecture": "os.system"}, "must be a valid ModelSpec"),
    "unknown key": ({}, {"path": "/etc/passwd"}, "must be a valid ModelSpec"),
    "unknown head": ({}, {"head": "lambda"}, "must be a valid ModelSpec"),
}


@pytest.mark.parametrize("kind", HOSTILE_SPECS)
def test_hostile_spec_is_one_message_that_names_the_file(kind: str, stored: Path) -> None:
    (model,) = (stored / "runs").glob("*/model")
    (model.parent / CHECKSUMS_NAME).unlink()
    spec, network, message = HOSTILE_SPECS[kind]
    value = json.loads((model / MODEL_SPEC_NAME).read_text()) | spec
    value["network"] |= network
    (model / MODEL_SPEC_NAME).write_text(json.dumps(value))

    with pytest.raises(ModelError, match=message) as raised:
        load_model(str(model))

    assert str(model) in str(raised.value)
    assert str(raised.value).isprintable()


def test_more_labels_than_the_network_has_are_one_message(stored: Path) -> None:
    (model,) = (stored / "runs").glob("*/model")
    (model.parent / CHECKSUMS_NAME).unlink()
    (model / "labels.txt").write_text("x\n" * 1_000_000)  # a kernel of 5 GB

    with pytest.raises(ModelError, match=r"Missing: probabilities/kernel 1280x1000000\."):
        load_model(str(model))


def test_damaged_model_of_a_run_is_not_loaded(stored: Path) -> None:
    (model,) = (stored / "runs").glob("*/model")
    load_model(str(model))
    flip(model / "model.keras", 1000)

    with pytest.raises(ModelError, match=r"model\.keras: its content was changed"):
        load_model(str(model))


@pytest.fixture
def damaged_pointer(stored: Path) -> Path:
    (champion,) = stored.rglob("champion.json")
    data = champion.read_bytes()
    flip(champion, data.index(b"precision_at_1") + len('precision_at_1": 0.'), 1)
    return champion


def test_damaged_pointer_is_not_followed(damaged_pointer: Path) -> None:
    done = run_repot("predict", str(damaged_pointer), "x.jpg")

    assert done.exit_code == 1
    assert f"{damaged_pointer} must be a JSON object" in done.errors
    assert "its checksum is another one" in done.errors


def test_version_of_an_earlier_repot_is_loaded(version: Path) -> None:
    record = json.loads((version / MODEL_RECORD_NAME).read_text())
    for key in ("files", "network", "sha256_of_the_rest"):
        del record[key]
    (version / MODEL_RECORD_NAME).write_text(json.dumps(record))
    assert load_model(str(version)).labels


def test_every_byte_of_a_pointer_counts(stored: Path) -> None:
    """Also those of the key that says where its checksum is."""
    (champion,) = stored.rglob("champion.json")
    folder = champion.parent / "pointers"
    folder.mkdir()
    rng = random.Random(2)
    data = champion.read_bytes()
    for place in range(len(data)):
        path = folder / f"{place:04}.json"
        path.write_bytes(data)
        flip(path, place, rng.randrange(1, 256))

    damaged = [each.uri for each in verify_folder(str(folder)).damaged]

    assert damaged == [str(path) for path in files_of(folder)]


def test_white_space_counts(stored: Path) -> None:
    (champion,) = stored.rglob("champion.json")
    champion.write_bytes(champion.read_bytes().replace(b" ", b"\t", 1))
    assert [each.uri for each in verify_folder(str(stored)).damaged] == [str(champion)]
