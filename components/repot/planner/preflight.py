"""Preflight: check every parameter and access right of a run, and report all problems at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from repot import checkpoints, progress, storage
from repot.errors import RepotError, UsageError
from repot.planner.listing import list_folder
from repot.settings import (
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    JobSettings,
    ParameterValues,
    RunSettings,
    Settings,
    TaskSettings,
    TrainingSettings,
    mode_problems,
)

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The checked parameters of one run; every URI is in its normal form.

    Attributes:
        run, dataset, training, gate, task, job: Settings by subject.
        checkpoint: The pre-trained checkpoint that the parameters name.
    """

    run: RunSettings
    dataset: DatasetSettings
    training: TrainingSettings
    gate: GateSettings
    task: TaskSettings
    job: JobSettings
    checkpoint: checkpoints.CheckpointSource


def check_parameters(parameters: ParameterValues) -> Parameters:
    """Check the parameters of a run, and the access to its pictures and storage.

    Values that are probably a mistake give warnings.

    Args:
        parameters: Every pipeline parameter by name, in the types that the pipeline declares.
            Other keys are ignored.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    problems = _Problems()
    run = problems.settings(RunSettings, parameters)
    dataset = problems.settings(DatasetSettings, parameters)
    checkpoint = problems.settings(CheckpointSettings, parameters)
    training = problems.settings(TrainingSettings, parameters)
    gate = problems.settings(GateSettings, parameters)
    task = problems.settings(TaskSettings, parameters)
    job = problems.settings(JobSettings, parameters)

    source = None
    if checkpoint and training:
        backbone = training.backbone
        source = problems.collect(lambda: _check_checkpoint(checkpoint, backbone))
    pictures_uri = problems.collect(lambda: _normalise_uri(parameters, "pictures_uri"))
    storage_uri = problems.collect(lambda: _check_storage(parameters))
    labels_file_uri = problems.collect(lambda: _check_labels_file(run)) if run else ""
    if task and job and training:
        problems.found += mode_problems(
            task.trainer_mode,
            num_workers=job.num_workers,
            accelerator_count=job.accelerator_count,
            batch_size=training.batch_size,
        )
    if task and task.trainer_mode == "job" and storage_uri and storage.is_local(storage_uri):
        problems.found.append(
            "storage_uri must be in an object store with trainer_mode=job; "
            f"got storage_uri={storage_uri!r}. Pods of a Job cannot see folders of this machine."
        )
    if problems.found and pictures_uri:
        # Without other problems the plan lists the pictures anyway and reports the same.
        problems.collect(lambda: list_folder(pictures_uri))
    if (
        problems.found
        or not (run and dataset and training and gate and task and job and source)
        or not (pictures_uri and storage_uri)
    ):
        raise UsageError(problems.found)
    for warning in training.warnings:
        progress.notice("plan", warning, is_warning=True)
    return Parameters(
        run=replace(
            run,
            pictures_uri=pictures_uri,
            storage_uri=storage_uri,
            labels_file_uri=labels_file_uri or "",
        ),
        dataset=dataset,
        training=training,
        gate=gate,
        task=task,
        job=job,
        checkpoint=source,
    )


class _Problems:
    """Collects the messages of several checks, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def collect(self, check: Callable[[], _T]) -> _T | None:
        """Return the check's result, or None after collecting its error."""
        try:
            return check()
        except UsageError as err:
            self.found.extend(err.problems)
        except RepotError as err:
            self.found.append(str(err))
        return None

    def settings(self, settings: type[_S], parameters: ParameterValues) -> _S | None:
        """Return the settings of a class, or None after collecting what is wrong with them."""
        return self.collect(lambda: settings.from_parameters(parameters))


def _check_checkpoint(settings: CheckpointSettings, backbone: str) -> checkpoints.CheckpointSource:
    return checkpoints.check_source(
        settings.checkpoint,
        backbone=backbone,
        sha256=settings.checkpoint_sha256,
        values=settings.checkpoint_values,
    )


def _normalise_uri(parameters: ParameterValues, name: str) -> str:
    uri: str = parameters[name]
    if not uri.strip():
        raise UsageError(f"{name} must be given: a folder, or a gs:// or s3:// prefix.")
    return storage.normalise(uri)


def _check_storage(parameters: ParameterValues) -> str:
    uri = _normalise_uri(parameters, "storage_uri")
    storage.check_writable(uri)
    return uri


def _check_labels_file(run: RunSettings) -> str:
    if not run.labels_file_uri:
        return ""
    uri = storage.normalise(run.labels_file_uri)
    if not storage.exists(uri):
        raise UsageError(f"The labels file must exist; there is no {uri}.")
    return uri
