"""Everything that is derived from a settings field must exist for every field."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.planner.component import plan
from repot.settings import (
    ALL_SETTINGS,
    DEFAULTS,
    FORM_FIELDS,
    NONE,
    PARAMETERS,
    SETTINGS_FIELD,
    CheckpointSettings,
    RunSettings,
    TrainingSettings,
    choices,
    empty_if_none,
    parameter_default,
)
from repot_pipelines.finetune import finetune
from repot_pipelines.presets import PRESETS

SIGNATURE = inspect.signature(finetune.pipeline_func).parameters
MAX_FORM_FIELDS = 14


def test_no_two_settings_have_the_same_name() -> None:
    assert len(PARAMETERS) == sum(
        len(inspect.signature(settings).parameters) for settings in ALL_SETTINGS
    )


def test_pipeline_has_exactly_the_form_fields_and_settings() -> None:
    assert set(SIGNATURE) == {*FORM_FIELDS, SETTINGS_FIELD}
    assert len(SIGNATURE) <= MAX_FORM_FIELDS


def test_plan_takes_exactly_the_form_and_the_compiled_settings() -> None:
    assert set(plan.component_spec.inputs) == {*SIGNATURE, "compiled_settings"}


@pytest.mark.parametrize("name", FORM_FIELDS)
def test_pipeline_default_is_the_settings_default(name: str) -> None:
    default = SIGNATURE[name].default

    assert (None if default is inspect.Parameter.empty else default) == parameter_default(
        PARAMETERS[name]
    )


@pytest.mark.parametrize("name", FORM_FIELDS)
def test_compiled_pipeline_describes_the_parameter(name: str) -> None:
    assert f"{name}: {PARAMETERS[name].metadata['help']}" in (finetune.pipeline_func.__doc__ or "")


@pytest.mark.parametrize("name", PARAMETERS)
def test_help_is_a_sentence(name: str) -> None:
    text = PARAMETERS[name].metadata["help"]

    assert re.fullmatch(r"[A-Z`p].*\.", text), text


@pytest.mark.parametrize("name", [name for name in PARAMETERS if choices(name)])
def test_default_is_the_first_choice(name: str) -> None:
    assert choices(name)[0] == DEFAULTS[name]


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_values_are_valid_settings(preset: str, tmp_path: Path) -> None:
    values = {**PRESETS[preset], "pictures_uri": str(tmp_path), "storage_uri": str(tmp_path)}

    for settings in ALL_SETTINGS:
        settings.from_parameters(values)


@pytest.mark.parametrize(("text", "value"), [(NONE, ""), ("", ""), (" ", ""), ("a", "a")])
def test_none_and_blank_are_empty(text: str, value: str) -> None:
    assert empty_if_none(text) == value
    assert CheckpointSettings.from_parameters({"checkpoint_sha256": NONE}).checkpoint_sha256 == ""


@pytest.mark.parametrize(("value", "fits"), [(8.0, True), (8, True), (8.5, False), ("8", False)])
def test_whole_floats_are_accepted_as_integers(value: Any, fits: bool) -> None:
    if fits:
        assert TrainingSettings.from_parameters({"batch_size": value}).batch_size == 8
        return
    with pytest.raises(UsageError, match="batch_size"):
        TrainingSettings.from_parameters({"batch_size": value})


def test_settings_ignore_parameters_of_other_classes() -> None:
    settings = RunSettings.from_parameters(
        {"pictures_uri": "a", "storage_uri": "b", "batch_size": 3}
    )

    assert settings == RunSettings(pictures_uri="a", storage_uri="b")


@pytest.mark.parametrize("typo", ["effientnet_lite0", "EfficientNet_Lite0"])
def test_misspelt_name_suggests_the_nearest(typo: str) -> None:
    with pytest.raises(UsageError, match=r"Did you mean efficientnet_lite0\?"):
        TrainingSettings(backbone=typo)
