import json
from typing import Any

import pytest

from repot.errors import UsageError
from repot.recipes import AUGMENTATIONS, RECIPES
from repot.settings import (
    ALL_SETTINGS,
    INPUT_FORMATS,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    InputSettings,
    JobSettings,
    RunSettings,
    Settings,
    TaskSettings,
    TrainingSettings,
)
from repot.zoo import BACKBONES

SETTINGS = [each for each in ALL_SETTINGS if each not in (TaskSettings, JobSettings)]
REQUIRED = {"pictures_uri": "pictures", "storage_uri": "storage"}

# For each field: the outermost valid values, and their invalid neighbours.
BOUNDARIES: list[tuple[type[Settings], str, list[Any], list[Any]]] = [
    (RunSettings, "pictures_uri", ["", "gs://bucket/pictures"], []),
    (RunSettings, "storage_uri", ["default", "s3://bucket/folder"], []),
    (RunSettings, "labels_file_uri", ["", "labels.txt"], []),
    (
        RunSettings,
        "model_name",
        ["a", "9", "A.b_c-9", "x" * 63],
        ["", "x" * 64, "_a", ".a", "a/b", "a b", "a\n", "\u00e9"],
    ),
    (RunSettings, "rebuild", ["", "2026-11-28 again"], []),
    (RunSettings, "builder_pods", [1, 64], [0, 65]),
    (CheckpointSettings, "checkpoint", ["default", "gs://bucket/weights.h5"], []),
    (
        CheckpointSettings,
        "checkpoint_sha256",
        ["", "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789"],
        ["0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n"],
    ),
    (CheckpointSettings, "checkpoint_values", ["auto", "ema", "raw"], ["", "EMA"]),
    (DatasetSettings, "validation_fraction", [1e-9, 1 - 1e-9], [0, 1, -0.1, float("nan")]),
    (DatasetSettings, "test_fraction", [0, 0.79], [-1e-9, 1, float("nan")]),
    (
        DatasetSettings,
        "group_pattern",
        ["", r"^([^/]+)/", r"patient\d+"],
        ["(", "[", "a{2,1}", "[[:alpha:]]"],
    ),
    (DatasetSettings, "train_shards", [0, 1, 99_999], [-1, 100_000]),
    (DatasetSettings, "validation_shards", [0, 1, 99_999], [-1, 100_000]),
    (DatasetSettings, "test_shards", [0, 1, 99_999], [-1, 100_000]),
    (DatasetSettings, "num_threads", [1, 1024], [0, 1025]),
    (TrainingSettings, "epochs", [0, 10_000], [-1, 10_001]),
    (TrainingSettings, "batch_size", [1, 65_536], [0, 65_537]),
    (TrainingSettings, "learning_rate", [0, 100], [-1e-9, 100.1, float("nan")]),
    (TrainingSettings, "image_size", [0, 75, 4096], [-1, 1, 74, 4097]),
    (TrainingSettings, "seed", [0, 2**31 - 1], [-1, 2**31]),
    (TrainingSettings, "input_queue_memory_factor", [1, 1024], [0, 1025]),
    (TrainingSettings, "shard_cache_gib", [0, 1_000_000], [-1, 1_000_001]),
    (TrainingSettings, "num_epochs_per_decay", [1e-9, 10_000], [0, 10_001, float("nan")]),
    (TrainingSettings, "learning_rate_decay_factor", [1e-9, 1], [0, 1.001, float("nan")]),
    (
        TrainingSettings,
        "augmentation",
        ["default", *AUGMENTATIONS],
        ["", "Inception", "autoaugment"],
    ),
    (TrainingSettings, "no_flip", [False, True], []),
    (TrainingSettings, "budget", ["auto", "0", "1s", "10m", "999999h"], ["", "10", "0m", "-1m"]),
    (TrainingSettings, "class_weights", ["auto", "on", "off"], ["", "On", "balanced"]),
    (TrainingSettings, "gradient_accumulation", [1, 32], [0, 1025]),
    (TrainingSettings, "set_coverage", [1e-9, 1 - 1e-9], [0, 1, float("nan")]),
    (TrainingSettings, "unlike_rate", [1e-9, 1 - 1e-9], [0, 1, float("nan")]),
    (TrainingSettings, "calibration_fraction", [0, 0.5], [-1e-9, 0.51, float("nan")]),
    (TrainingSettings, "precision", ["auto", "float32", "bfloat16", "float16"], ["", "fp16"]),
    (TrainingSettings, "xla", ["auto", "on", "off"], ["", "yes"]),
    (TrainingSettings, "deterministic", [False, True], []),
    (TrainingSettings, "backbone", list(BACKBONES), ["", "Inception_V3", "vgg16"]),
    (TrainingSettings, "recipe", list(RECIPES), ["", "fine-tune"]),
    (GateSettings, "min_precision", [0, 1], [-0.001, 1.001, float("nan")]),
    (GateSettings, "allow_label_removal", [False, True], []),
    (GateSettings, "when_undecided", ["keep", "prefer_new"], ["", "Keep", "promote"]),
    (GateSettings, "comparisons_per_year", [1, 365, 1_000_000], [0, -1, 1_000_001]),
    (GateSettings, "allow_poor_model", [False, True], []),
    (GateSettings, "force_promote", ["", "hotfix for camera 4"], []),
    (
        GateSettings,
        "exports",
        ["", "onnx", "litert,litert-int8", "keras,saved_model"],
        ["tflite", "onnx,", "onnx, litert", "onnx,onnx", "none"],
    ),
    (GateSettings, "gate_split", ["validation", "test"], ["", "train", "Test"]),
    (DatasetSettings, "shard_layout", ["tutorial", "stable"], ["", "Stable", "2016"]),
    (DatasetSettings, "nested", [False, True], []),
    (DatasetSettings, "crop_to_boxes", [False, True], []),
    (InputSettings, "input_format", list(INPUT_FORMATS), ["", "zip", "Vertex"]),
    (InputSettings, "imagenet_metadata_file_uri", ["", "gs://bucket/x.txt"], []),
    (InputSettings, "bounding_box_file_uri", ["", "gs://bucket/boxes"], []),
    (InputSettings, "corrections_file_uri", ["", "s3://bucket/suspects.csv"], []),
    (GateSettings, "max_rejected_fraction", [0, 1], [-0.001, 1.001, float("nan")]),
    (GateSettings, "max_leaked_fraction", [0, 0.5, 1], [-0.001, 1.001]),
    (GateSettings, "min_pictures_per_label", [0, 1_000_000], [-1, 1_000_001]),
    (GateSettings, "max_conflicts", [-1, 0, 1_000_000_000], [-2, 1_000_000_001]),
]


@pytest.mark.parametrize(
    ("settings", "field", "valid", "invalid"), BOUNDARIES, ids=[row[1] for row in BOUNDARIES]
)
def test_boundaries_are_accepted_and_their_neighbours_rejected(
    settings: type[Settings], field: str, valid: list[Any], invalid: list[Any]
) -> None:
    for value in valid:
        assert getattr(_make(settings, field, value), field) == value
    for value in invalid:
        with pytest.raises(UsageError) as caught:
            _make(settings, field, value)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{field} must ")
        assert f"got {field}={value!r}" in problem


def _make(settings: type[Settings], field: str, value: object) -> Settings:
    required = REQUIRED if settings is RunSettings else {}
    return settings.from_json({**required, field: value})


def test_boundaries_cover_every_field() -> None:
    covered = {(row[0], row[1]) for row in BOUNDARIES}

    assert covered == {
        (settings, field) for settings in SETTINGS for field in settings.__dataclass_fields__
    }


@pytest.mark.parametrize(
    ("shards", "num_threads", "fits"), [(7, 8, False), (8, 8, True), (9, 8, False), (0, 8, True)]
)
def test_shard_counts_must_be_multiples_of_num_threads(
    shards: int, num_threads: int, fits: bool
) -> None:
    if fits:
        DatasetSettings(train_shards=shards, validation_shards=shards, num_threads=num_threads)
        return
    with pytest.raises(UsageError) as caught:
        DatasetSettings(train_shards=shards, validation_shards=shards, num_threads=num_threads)
    assert [problem.split(" ", 1)[0] for problem in caught.value.problems] == [
        "train_shards",
        "validation_shards",
    ]


def test_num_threads_of_zero_is_one_problem_without_division_by_zero() -> None:
    with pytest.raises(UsageError) as caught:
        DatasetSettings(train_shards=8, num_threads=0)

    assert [problem.split(" ", 1)[0] for problem in caught.value.problems] == ["num_threads"]


@pytest.mark.parametrize(
    "settings",
    [
        DatasetSettings(
            validation_fraction=0.25, train_shards=128, validation_shards=24, num_threads=8
        ),
        TrainingSettings(
            backbone="mobilenet_v2", recipe="head", learning_rate=0.001, image_size=96
        ),
        GateSettings(min_precision=0.9),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_json_round_trip(
    settings: DatasetSettings | TrainingSettings | GateSettings,
) -> None:
    assert type(settings).from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_from_json_reports_unknown_keys_and_lists_the_known_ones(settings: type[Settings]) -> None:
    with pytest.raises(UsageError) as caught:
        settings.from_json({"zeta": 1, "alpha": 2})

    (problem,) = caught.value.problems
    assert f"{settings.__name__} must not have alpha, zeta" in problem
    assert all(field in problem for field in settings.__dataclass_fields__)


def test_from_json_checks_the_rules() -> None:
    with pytest.raises(UsageError, match="batch_size must"):
        TrainingSettings.from_json({"batch_size": 0})


def test_from_json_of_an_empty_object_is_the_defaults() -> None:
    assert DatasetSettings.from_json({}) == DatasetSettings()


def test_whole_number_for_a_float_gives_the_same_json() -> None:
    # KFP's server passes 0.0 on as 0, and ids are made from the JSON.
    assert json.dumps(TrainingSettings(learning_rate=0).to_json()) == json.dumps(
        TrainingSettings().to_json()
    )
    assert json.dumps(GateSettings(min_precision=1).to_json()) == json.dumps(
        GateSettings(min_precision=1.0).to_json()
    )


@pytest.mark.parametrize(
    ("validation", "test", "fits"), [(0.5, 0.49, True), (0.5, 0.5, False), (0.9, 0.2, False)]
)
def test_fractions_must_leave_pictures_for_training(
    validation: float, test: float, fits: bool
) -> None:
    if fits:
        DatasetSettings(validation_fraction=validation, test_fraction=test)
        return
    with pytest.raises(UsageError) as caught:
        DatasetSettings(validation_fraction=validation, test_fraction=test)
    (problem,) = caught.value.problems
    assert problem == (
        "test_fraction must leave pictures for training beside "
        f"validation_fraction={validation:g}; got test_fraction={test!r}."
    )
