"""Every setting of a run: name, type, default, rule and help text, each defined once, in its field.

A field's name is the name of the pipeline parameter. Command-line options, presets, the defaults of
the compiled pipeline, validation and the table in docs/kubeflow-ui.md are derived from the fields.

Zero means "choose for me" wherever a count or a rate allows it, because a number field in the
Kubeflow UI cannot be empty. NONE means the same for text: an empty field there looks forgotten.
"""

import dataclasses

from repot.settings.fields import (
    NONE,
    ParameterValues,
    Settings,
    empty_if_none,
    option_name,
    parameter_default,
)
from repot.settings.pods import MODES, JobSettings, TaskSettings, mode_problems
from repot.settings.run import (
    CHECKPOINT_VALUES,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    RunSettings,
    TrainingSettings,
)

ALL_SETTINGS: tuple[type[Settings], ...] = (
    RunSettings,
    DatasetSettings,
    CheckpointSettings,
    TrainingSettings,
    GateSettings,
    TaskSettings,
    JobSettings,
)
PARAMETERS = {field.name: field for each in ALL_SETTINGS for field in dataclasses.fields(each)}
"""The field of every pipeline parameter, by name."""

__all__ = [
    "ALL_SETTINGS",
    "CHECKPOINT_VALUES",
    "MODES",
    "NONE",
    "PARAMETERS",
    "CheckpointSettings",
    "DatasetSettings",
    "GateSettings",
    "JobSettings",
    "ParameterValues",
    "RunSettings",
    "Settings",
    "TaskSettings",
    "TrainingSettings",
    "empty_if_none",
    "mode_problems",
    "option_name",
    "parameter_default",
]
