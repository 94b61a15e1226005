"""The first minute of a run: every parameter and every access right checked, all problems said at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from repot import checkpoints, storage
from repot.errors import RepotError, UsageError
from repot.job_settings import JobSettings, mode_problems, read_job_settings
from repot.planner.listing import list_folder
from repot.settings import DatasetSettings, GateSettings, TrainingSettings, given
from repot.zoo import BACKBONES

MAX_BUILDER_PODS = 64
_T = TypeVar("_T")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The parameters of one run, checked, with every URI in its normal form."""

    pictures_uri: str
    storage_uri: str
    labels_file_uri: str
    dataset: DatasetSettings
    training: TrainingSettings
    gate: GateSettings
    checkpoint: checkpoints.Source
    trainer_mode: str
    job: JobSettings
    builder_pods: int
    model_name: str


def check_parameters(
    *,
    pictures_uri: str,
    storage_uri: str,
    labels_file_uri: str,
    dataset: dict[str, Any],
    training: dict[str, Any],
    gate: dict[str, Any],
    trainer_mode: str,
    job: dict[str, Any],
    checkpoint: dict[str, str],
    builder_pods: int,
    model_name: str,
) -> Parameters:
    """Return the parameters of a run after checking them and the access to its storage.

    Args:
        pictures_uri: Folder of the pictures.
        storage_uri: Folder that everything is written to.
        labels_file_uri: A labels file, or NONE for the folder names.
        dataset, training, gate: Fields of the three settings classes.
        trainer_mode: Where training runs: one of `repot.job_settings.MODES`.
        job: Fields of JobSettings, with `accelerator_count` as text.
        checkpoint: `source`, `sha256` and `values` of the pre-trained checkpoint.
        builder_pods: Pods that build shards, in 1..64.
        model_name: Name that versions are published under.

    Raises:
        UsageError: Lists everything that is wrong, not only the first.
    """
    problems: list[str] = []
    dataset_settings = _collect(problems, lambda: DatasetSettings.from_json(dataset))
    training_settings = _collect(problems, lambda: TrainingSettings.from_json(training))
    gate_settings = _collect(problems, lambda: GateSettings.from_json(gate))
    job_settings = _collect(problems, lambda: read_job_settings(job))
    source = None
    if training["backbone"] in BACKBONES:  # another one was said to be wrong already
        source = _collect(problems, lambda: _source(training["backbone"], **checkpoint))
    pictures = _collect(problems, lambda: _required("pictures_uri", pictures_uri))
    labels_file = _collect(problems, lambda: _existing_file(given(labels_file_uri)))
    writable = _collect(problems, lambda: _writable("storage_uri", storage_uri))
    problems += run_problems(builder_pods=builder_pods, model_name=model_name)
    problems += mode_problems(
        trainer_mode,
        num_workers=job.get("num_workers", 1),
        accelerator_count=int(job["accelerator_count"])
        if job["accelerator_count"].isdecimal()
        else 0,
        batch_size=training_settings.batch_size if training_settings else 0,
    )
    if trainer_mode == "job" and writable and storage.is_local(writable):
        problems.append(
            f"storage_uri must be in an object store with trainer_mode=job; got storage_uri={writable!r}. "
            "The pods of a Job do not see this machine's folders."
        )
    if problems and pictures:
        # Where all is well, the plan lists them, and says the same.
        _collect(problems, lambda: list_folder(pictures))
    if (
        problems
        or dataset_settings is None
        or training_settings is None
        or gate_settings is None
        or job_settings is None
        or source is None
        or pictures is None
        or labels_file is None
        or writable is None
    ):
        raise UsageError(problems)
    return Parameters(
        pictures_uri=pictures,
        storage_uri=writable,
        labels_file_uri=labels_file,
        dataset=dataset_settings,
        training=training_settings,
        gate=gate_settings,
        checkpoint=source,
        trainer_mode=trainer_mode,
        job=job_settings,
        builder_pods=builder_pods,
        model_name=model_name,
    )


def run_problems(*, builder_pods: int, model_name: str) -> list[str]:
    """Return a sentence for a number of pods and for a name that no run can have."""
    problems = []
    if not 1 <= builder_pods <= MAX_BUILDER_PODS:
        problems.append(
            f"builder_pods must lie in 1..{MAX_BUILDER_PODS}; got builder_pods={builder_pods!r}."
        )
    if not _MODEL_NAME.fullmatch(model_name):
        problems.append(
            f"model_name must be 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first; "
            f"got model_name={model_name!r}."
        )
    return problems


def _collect(problems: list[str], check: Callable[[], _T]) -> _T | None:
    try:
        return check()
    except UsageError as err:
        problems.extend(err.problems)
    except RepotError as err:
        problems.append(str(err))
    return None


def _source(backbone: str, *, source: str, sha256: str, values: str) -> checkpoints.Source:
    return checkpoints.check_source(
        backbone=backbone, source=source, sha256=given(sha256), values=values
    )


def _required(name: str, uri: str) -> str:
    if not uri.strip():
        raise UsageError(f"{name} must be given: a folder, or a gs:// or s3:// prefix.")
    return storage.normalise(uri)


def _existing_file(uri: str) -> str:
    if not uri:
        return ""
    normal = storage.normalise(uri)
    if not storage.exists(normal):
        raise UsageError(f"The labels file must exist; there is no {normal}.")
    return normal


def _writable(name: str, uri: str) -> str:
    normal = _required(name, uri)
    storage.check_writable(normal)
    return normal
