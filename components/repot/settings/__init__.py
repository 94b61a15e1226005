"""Every setting of a run: name, type, default, rule and help text, each defined once, in its field.

Command-line options, the form in the Kubeflow UI, presets, the defaults of the compiled pipeline,
validation and the tables in docs/kubeflow-ui.md are derived from the fields. `sources` has where a
value comes from: the form, its JSON field `settings`, the cluster's ConfigMap, the pipeline.

Zero means "choose for me" wherever a count or a rate allows it, because a number field in the
Kubeflow UI cannot be empty. NONE means the same for text: an empty field there looks forgotten.
"""

from repot.settings.fields import (
    CLUSTER_DEFAULT,
    NONE,
    ParameterValues,
    Settings,
    empty_if_none,
    option_name,
    parameter_default,
)
from repot.settings.pods import MODES, JobSettings, TaskSettings, mode_problems
from repot.settings.run import (
    INPUT_FORMATS,
    STABLE_LAYOUT,
    DatasetSettings,
    GateSettings,
    InputSettings,
    RunSettings,
)
from repot.settings.sources import (
    ALL_SETTINGS,
    CLUSTER_KEYS,
    CLUSTER_VARIABLES,
    DEFAULTS,
    FORM_FIELDS,
    PARAMETERS,
    PIPELINE_SETTINGS,
    SETTINGS_FIELD,
    ResolvedSettings,
    choices,
    cluster_default_problems,
    read_cluster_defaults,
    read_values,
    resolve_settings,
    run_storage_uri,
    to_arguments,
    value_type,
)
from repot.settings.training import CHECKPOINT_VALUES, CheckpointSettings, TrainingSettings

__all__ = [
    "ALL_SETTINGS",
    "CHECKPOINT_VALUES",
    "CLUSTER_DEFAULT",
    "CLUSTER_KEYS",
    "CLUSTER_VARIABLES",
    "DEFAULTS",
    "FORM_FIELDS",
    "INPUT_FORMATS",
    "MODES",
    "NONE",
    "PARAMETERS",
    "PIPELINE_SETTINGS",
    "SETTINGS_FIELD",
    "STABLE_LAYOUT",
    "CheckpointSettings",
    "DatasetSettings",
    "GateSettings",
    "InputSettings",
    "JobSettings",
    "ParameterValues",
    "ResolvedSettings",
    "RunSettings",
    "Settings",
    "TaskSettings",
    "TrainingSettings",
    "choices",
    "cluster_default_problems",
    "empty_if_none",
    "mode_problems",
    "option_name",
    "parameter_default",
    "read_cluster_defaults",
    "read_values",
    "resolve_settings",
    "run_storage_uri",
    "to_arguments",
    "value_type",
]
