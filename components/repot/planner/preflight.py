"""Preflight: check every parameter and access right of a run, and report all problems at once."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from repot import checkpoints, progress, storage
from repot.errors import RepotError, UsageError, is_task_pod
from repot.extras import check_export_formats
from repot.masking import find_credentials, mask, secret_parts
from repot.planner.inputs.read import check_location
from repot.settings import (
    CLUSTER_DEFAULT,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    InputSettings,
    JobSettings,
    ParameterValues,
    RunSettings,
    Settings,
    TaskSettings,
    TrainingSettings,
    empty_if_none,
    mode_problems,
    resolve_settings,
)

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The checked parameters of one run; every URI is in its normal form.

    Attributes:
        run, inputs, dataset, training, gate, task, job: Settings by subject.
        checkpoint_settings: Settings of the pre-trained checkpoint.
        checkpoint: The checkpoint that they name.
    """

    run: RunSettings
    inputs: InputSettings
    dataset: DatasetSettings
    training: TrainingSettings
    gate: GateSettings
    task: TaskSettings
    job: JobSettings
    checkpoint_settings: CheckpointSettings
    checkpoint: checkpoints.CheckpointSource

    @property
    def values(self) -> dict[str, Any]:
        """Return every setting by name."""
        parts: tuple[Settings, ...] = (
            *(self.run, self.inputs, self.dataset, self.training, self.gate, self.task, self.job),
            self.checkpoint_settings,
        )
        return {name: value for part in parts for name, value in part.to_json().items()}


def check_settings(
    form: ParameterValues,
    settings: Mapping[str, Any],
    *,
    compiled: ParameterValues,
    environment: Mapping[str, str],
) -> tuple[Parameters, str]:
    """Merge and check the settings of a run from all sources, see `resolve_settings`.

    Returns:
        The checked settings, and a Markdown table of every value and its source.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    resolved = resolve_settings(form, settings, compiled=compiled, environment=environment)
    secrets = [part for value in resolved.values.values() for part in secret_parts(str(value))]
    for line in resolved.chosen_lines():
        _log.info("%s", mask(line, secrets))
    try:
        parameters = check_parameters(resolved.values, problems=resolved.problems)
    except UsageError as err:
        raise UsageError(resolved.with_origins(err.problems)) from err
    return parameters, mask(resolved.table(), secrets)


def check_parameters(parameters: ParameterValues, problems: Iterable[str] = ()) -> Parameters:
    """Check the settings of a run, and the access to its pictures and storage.

    Values that are probably a mistake give warnings.

    Args:
        parameters: Every setting by name. Other keys are ignored.
        problems: What is known to be wrong already.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    collected = _Problems(problems)
    run = collected.settings(RunSettings, parameters)
    inputs = collected.settings(InputSettings, parameters)
    dataset = collected.settings(DatasetSettings, parameters)
    checkpoint = collected.settings(CheckpointSettings, parameters)
    training = collected.settings(TrainingSettings, parameters)
    gate = collected.settings(GateSettings, parameters)
    task = collected.settings(TaskSettings, parameters)
    job = collected.settings(JobSettings, parameters)

    source = None
    if checkpoint and training:
        backbone = training.backbone
        source = collected.collect(lambda: _check_checkpoint(checkpoint, backbone))
    pictures_uri = collected.collect(lambda: _normalise_uri(parameters, "pictures_uri"))
    storage_uri = collected.collect(lambda: _check_storage(parameters))
    labels_file = empty_if_none(parameters.get("labels_file_uri", ""))
    labels_file_uri = collected.collect(lambda: _check_file("labels file", labels_file))
    if inputs:
        inputs = _with_locations(inputs, collected)
    if gate:
        # Plan and Evaluate run in the same image.
        collected.collect(functools.partial(check_export_formats, gate.export_formats))
    if task and job and training:
        collected.found += mode_problems(
            task.trainer_mode,
            num_workers=job.num_workers,
            accelerator_count=job.accelerator_count,
            batch_size=training.batch_size,
        )
    if task and task.trainer_mode == "job" and storage_uri and storage.is_local(storage_uri):
        collected.found.append(
            "storage_uri must be in an object store with trainer_mode=job; "
            f"got storage_uri={storage_uri!r}. Pods of a Job cannot see folders of this machine."
        )
    if collected.found and pictures_uri:
        # Without other problems the plan lists the pictures anyway and reports the same.
        collected.collect(lambda: check_location(pictures_uri))
    if (
        collected.found
        or not (
            run
            and inputs
            and dataset
            and training
            and gate
            and task
            and job
            and checkpoint
            and source
        )
        or not (pictures_uri and storage_uri)
    ):
        raise UsageError(collected.found)
    for warning in (*training.warnings, *_stored_credentials(checkpoint)):
        progress.notice("plan", warning, is_warning=True)
    return Parameters(
        run=replace(
            run,
            pictures_uri=pictures_uri,
            storage_uri=storage_uri,
            labels_file_uri=labels_file_uri or "",
        ),
        inputs=inputs,
        dataset=dataset,
        training=training,
        gate=gate,
        task=task,
        job=job,
        checkpoint_settings=checkpoint,
        checkpoint=source,
    )


class _Problems:
    """Collects the messages of several checks, so that the user sees all of them at once."""

    def __init__(self, found: Iterable[str]) -> None:
        self.found = list(found)

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


def _stored_credentials(settings: CheckpointSettings) -> Iterator[str]:
    """Warn about credentials in a run that was started in the UI, which checks nothing."""
    found = find_credentials(settings.checkpoint)
    if found and is_task_pod():
        yield (
            f"checkpoint contains credentials ({found}), which Kubeflow Pipelines has stored and "
            "shows to all who see this run. Make them invalid, copy the file to a bucket, and give "
            "its URI"
        )


def _check_checkpoint(settings: CheckpointSettings, backbone: str) -> checkpoints.CheckpointSource:
    return checkpoints.check_source(
        settings.checkpoint,
        backbone=backbone,
        sha256=settings.checkpoint_sha256,
        values=settings.checkpoint_values,
    )


def _normalise_uri(parameters: ParameterValues, name: str) -> str:
    uri = empty_if_none(parameters.get(name, ""))
    if not uri:
        raise UsageError(f"{name} must be given: a folder, or a gs:// or s3:// prefix.")
    return storage.normalise(uri)


def _check_storage(parameters: ParameterValues) -> str:
    if empty_if_none(parameters["storage_uri"]) in ("", CLUSTER_DEFAULT):
        config_map = parameters["settings_config_map"]
        raise UsageError(
            "storage_uri must be given: this run does not set it, and the cluster has no default. "
            "Set storage_uri to gs://BUCKET/FOLDER or s3://BUCKET/FOLDER, or let an administrator "
            f"set STORAGE_URI in the ConfigMap {config_map} in the namespace of the run."
        )
    uri = _normalise_uri(parameters, "storage_uri")
    storage.check_writable(uri)
    return uri


def _check_file(name: str, location: str) -> str:
    if not location:
        return ""
    uri = storage.normalise(location)
    if not storage.exists(uri):
        raise UsageError(f"The {name} must exist; there is no {uri}. Check the name.")
    return uri


def _check_boxes(location: str) -> str:
    """Return the URI of a file or folder of bounding boxes."""
    if not location:
        return ""
    uri = storage.normalise(location)
    if not storage.exists(uri) and next(storage.scan_folder(uri), None) is None:
        raise UsageError(
            f"The bounding boxes must exist; there is nothing at {uri}. Check the name."
        )
    return uri


def _with_locations(inputs: InputSettings, problems: _Problems) -> InputSettings:
    """Return the settings with the URIs of files in their normal form."""
    checks: dict[str, Callable[[str], str]] = {
        "imagenet_metadata_file_uri": functools.partial(_check_file, "metadata file"),
        "bounding_box_file_uri": _check_boxes,
        "corrections_file_uri": functools.partial(_check_file, "corrections file"),
    }
    uris = {
        name: problems.collect(functools.partial(check, getattr(inputs, name))) or ""
        for name, check in checks.items()
    }
    return replace(inputs, **uris)
