"""The two sets of defaults: `cluster` is what the compiled pipeline holds, `laptop` what `repot run` starts from."""

from typing import Any

from repot.settings import NONE, DatasetSettings, GateSettings, TrainingSettings

_COMMON: dict[str, Any] = {
    "labels_file_uri": NONE,
    **DatasetSettings().to_json(),
    **TrainingSettings().to_json(),
    **GateSettings().to_json(),
    "checkpoint": "default",
    "checkpoint_sha256": NONE,
    "checkpoint_values": "auto",
    "builder_pods": 8,
    "model_name": "classifier",
    "rebuild": NONE,
    "trainer_mode": "pod",
    "num_workers": 1,
    "job_deadline_hours": 72,
    "job_priority_class": NONE,
    "job_queue": NONE,
    "job_service_account": "repot-worker",
}

PRESETS: dict[str, dict[str, Any]] = {
    "cluster": _COMMON,
    "laptop": {**_COMMON, "backbone": "efficientnet_lite0", "recipe": "head", "builder_pods": 1},
}
