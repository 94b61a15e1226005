import json
from typing import Any

import pytest

from repot.errors import UsageError
from repot.recipes import AUGMENTATIONS, RECIPES
from repot.settings import (
    INPUT_FORMATS,
    DatasetSettings,
    GateSettings,
    InputSettings,
    TrainingSettings,
)
from repot.zoo import BACKBONES

Settings = type[InputSettings] | type[DatasetSettings] | type[TrainingSettings] | type[GateSettings]
SETTINGS: list[Settings] = [InputSettings, DatasetSettings, TrainingSettings, GateSettings]

# For each field: the outermost valid values, and their invalid neighbours.
BOUNDARIES: list[tuple[Settings, str, list[Any], list[Any]]] = [
    (DatasetSettings, "validation_fraction", [1e-9, 1 - 1e-9], [0, 1, -0.1, float("nan")]),
    (DatasetSettings, "test_fraction", [0, 0.79], [-1e-9, 1, float("nan")]),
    (DatasetSettings, "group_pattern", ["", r"^([^/]+)/", r"patient\d+"], ["(", "[", "a{2,1}"]),
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
    settings: Settings, field: str, valid: list[Any], invalid: list[Any]
) -> None:
    for value in valid:
        assert getattr(settings(**{field: value}), field) == value
    for value in invalid:
        with pytest.raises(UsageError) as caught:
            settings(**{field: value})
        (problem,) = caught.value.problems
        assert problem.startswith(f"{field} must ")
        assert f"got {field}={value!r}" in problem


def test_boundaries_cover_every_field() -> None:
    covered = {(row[0], row[1]) for row in BOUNDARIES}

    assert covered == {(settings, field) for settings in SETTINGS for field in settings().to_json()}


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        TrainingSettings(
            backbone="vgg16", recipe="none", epochs=-1, batch_size=0, learning_rate=-1, seed=-1
        )

    named = [problem.split(" ", 1)[0] for problem in caught.value.problems]
    assert named == ["backbone", "recipe", "epochs", "batch_size", "learning_rate", "seed"]


@pytest.mark.parametrize(
    "recipe", [name for name, recipe in RECIPES.items() if not recipe.selects_itself]
)
def test_learning_rate_above_the_sensible_range_of_the_recipe_gives_a_warning(recipe: str) -> None:
    own, high = RECIPES[recipe].main_learning_rate, RECIPES[recipe].max_learning_rate

    for rate in (0, own / 10, own, high):
        assert TrainingSettings(recipe=recipe, learning_rate=rate).warnings == ()
    for rate in (high * 1.01, 1, 100):
        (warning,) = TrainingSettings(recipe=recipe, learning_rate=rate).warnings
        assert warning.startswith(
            f"learning_rate should be at most {high:g} with recipe={recipe}; got "
            f"learning_rate={rate:g}."
        )
        assert warning.endswith(f"Choose {own:g} to {high:g}, or 0 for the recipe's own, {own:g}.")


def test_learning_rate_of_2016_gives_a_warning_for_the_whole_network_with_adamw_only() -> None:
    (warning,) = TrainingSettings(recipe="fine_tune", learning_rate=0.001).warnings
    assert "with AdamW, the recipe's optimizer" in warning
    assert not TrainingSettings(recipe="head", learning_rate=0.001).warnings
    assert not TrainingSettings(recipe="inception_2016", learning_rate=0.001).warnings


@pytest.mark.parametrize(
    ("name", "value"), [("num_epochs_per_decay", 2.5), ("learning_rate_decay_factor", 0.94)]
)
def test_decay_in_steps_gives_a_warning_with_other_recipes_than_that_of_2016(
    name: str, value: float
) -> None:
    values: dict[str, Any] = {name: value}

    (warning,) = TrainingSettings(recipe="fine_tune", **values).warnings

    assert warning.startswith(f"{name} should be set with recipe=inception_2016 only; got {name}=")
    assert f"={value:g} with recipe=fine_tune" in warning
    assert TrainingSettings(recipe="inception_2016", **values).warnings == ()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_of_one_backbone_is_refused_for_others(recipe: str) -> None:
    only = RECIPES[recipe].backbone
    for backbone in BACKBONES:
        if only in ("", backbone):
            assert TrainingSettings(recipe=recipe, backbone=backbone).recipe == recipe
            continue
        with pytest.raises(UsageError) as caught:
            TrainingSettings(recipe=recipe, backbone=backbone)
        (problem,) = caught.value.problems
        assert problem == (
            f"recipe={recipe} must be used with backbone={only}; got backbone={backbone!r}. "
            f"Use recipe=fine_tune for {backbone}."
        )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentation_without_effect_gives_a_warning(augmentation: str) -> None:
    assert TrainingSettings(recipe="fine_tune", augmentation=augmentation).warnings == ()

    warnings = TrainingSettings(recipe="head", augmentation=augmentation).warnings

    assert len(warnings) == (augmentation != "none")
    assert all(warning.startswith("augmentation should be default") for warning in warnings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_augmentation_is_the_recipes_own_unless_it_is_chosen(recipe: str) -> None:
    assert TrainingSettings(recipe=recipe).chosen_augmentation == RECIPES[recipe].augmentation
    assert TrainingSettings(recipe=recipe, augmentation="flip").chosen_augmentation == "flip"


def test_batch_has_at_least_one_example_per_part() -> None:
    assert TrainingSettings(batch_size=4, gradient_accumulation=4).gradient_accumulation == 4
    with pytest.raises(UsageError, match="gradient_accumulation must be at most batch_size=4"):
        TrainingSettings(batch_size=4, gradient_accumulation=5)


def test_flip_alone_cannot_be_combined_with_no_flip() -> None:
    with pytest.raises(UsageError, match="augmentation must not be flip with no_flip"):
        TrainingSettings(augmentation="flip", no_flip=True)
    assert TrainingSettings(augmentation="light", no_flip=True).no_flip


@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_image_size_is_the_backbones(name: str) -> None:
    smallest = BACKBONES[name].min_image_size

    assert TrainingSettings(backbone=name, image_size=smallest).image_size == smallest
    with pytest.raises(UsageError, match=rf"{smallest}\.\.4096 for {name}"):
        TrainingSettings(backbone=name, image_size=smallest - 1)


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
def test_from_json_reports_unknown_keys_and_lists_the_known_ones(settings: Settings) -> None:
    with pytest.raises(UsageError) as caught:
        settings.from_json({**settings().to_json(), "zeta": 1, "alpha": 2})

    (problem,) = caught.value.problems
    assert f"{settings.__name__} must not have alpha, zeta" in problem
    assert all(field in problem for field in settings().to_json())


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


@pytest.mark.parametrize(("name", "value"), [("epochs", 5), ("learning_rate", 0.1)])
def test_settings_of_the_optimizer_have_no_effect_with_auto(name: str, value: float) -> None:
    assert TrainingSettings(recipe="auto").warnings == ()

    (warning,) = TrainingSettings(recipe="auto", **{name: value}).warnings  # type: ignore[arg-type]

    assert warning.startswith(f"{name} should be 0 with recipe=auto; got {name}={value}")
