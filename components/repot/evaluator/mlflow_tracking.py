"""MLflow: one run per training, with parameters, metrics by epoch, report, model card and verdict.

The training id is a tag, by which a later task finds the run again: a repeated report updates the
run and never makes a second one. What a training fixes is logged once; the verdict is logged each
time, because a later gate may decide otherwise.

Credentials are MLflow's own variables, such as MLFLOW_TRACKING_TOKEN; its client reads them.
"""

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import repot
from repot import storage
from repot.cluster_names import name_sources
from repot.errors import RepotError, UsageError, advise, innermost_reason
from repot.evaluator.summary import RunResult, comparable_metrics
from repot.evaluator.verdict import IN_PRODUCTION
from repot.extras import install_command
from repot.layout import METRICS_NAME, MODEL_CARD_NAME, MODEL_FOLDER, REPORT_NAME, VERDICT_NAME
from repot.masking import mask, read_secrets, secret_parts
from repot.settings.integrations import IntegrationSettings, variable_name

TRAINING_TAG = "repot.training_id"
MODEL_TAG = "repot.model"
CHAMPION_TAG = "repot.champion"
COMPLETE_TAG = "repot.complete"
"""Set last: without it, an earlier report was interrupted and is repeated."""

# MLflow's own are seven retries with growing pauses, and two minutes per request: a run would wait
# for a quarter of an hour. Its telemetry would report to Databricks.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_URI_VARIABLE = variable_name("mlflow_tracking_uri")
_MAX_METRICS = 1000  # of one request
_MAX_NOTE_CHARACTERS = 5000

_log = logging.getLogger(__name__)


class MlflowError(RepotError):
    """MLflow did not accept a run."""


def track_run(result: RunResult, settings: IntegrationSettings) -> str:
    """Create or update the MLflow run of a training, and return MLflow's id of it.

    Raises:
        UsageError: The package mlflow-skinny is not installed.
        MlflowError: The server is not reachable or does not accept the run.
    """
    name = _experiment_name(settings, result.verdict.model_name)
    with _converting_errors(settings.mlflow_tracking_uri):
        client = _make_client(settings.mlflow_tracking_uri)
        experiment_id = _find_experiment(client, name)
        run = _find_run(client, experiment_id, result.verdict.model_name, result.verdict.version)
        if run is None:
            run = client.create_run(
                experiment_id,
                run_name=f"{result.verdict.model_name} {result.verdict.version}",
                tags={
                    TRAINING_TAG: result.verdict.version,
                    MODEL_TAG: result.verdict.model_name,
                },
            )
        run_id: str = run.info.run_id
        if run.data.tags.get(COMPLETE_TAG) != "true":
            _log_training(client, run_id, result, settings)
        _log_verdict(client, run_id, result)
        if result.verdict.decision in IN_PRODUCTION:
            _move_champion(client, experiment_id, result.verdict.model_name, run_id)
        client.set_terminated(run_id)
    _log.info("MLflow: experiment %r, run %s", name, run_id)
    return run_id


def mark_champion(model_name: str, version: str, settings: IntegrationSettings) -> bool:
    """Move the champion's tag to the MLflow run of a version.

    Returns:
        Whether the version has a run. Without one, no run of the model has the tag.

    Raises:
        UsageError: The package mlflow-skinny is not installed.
        MlflowError: The server is not reachable or does not accept the change.
    """
    with _converting_errors(settings.mlflow_tracking_uri):
        client = _make_client(settings.mlflow_tracking_uri)
        experiment = client.get_experiment_by_name(_experiment_name(settings, model_name))
        if experiment is None:
            return False
        run = _find_run(client, experiment.experiment_id, model_name, version)
        run_id = run.info.run_id if run else None
        _move_champion(client, experiment.experiment_id, model_name, run_id)
    return run_id is not None


def _experiment_name(settings: IntegrationSettings, model_name: str) -> str:
    return settings.mlflow_experiment_name or f"repot-{model_name}"


def _make_client(tracking_uri: str) -> Any:
    for variable, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as err:
        raise UsageError(
            "MLflow tracking needs the package mlflow-skinny. "
            + advise(
                on_machine=f"Run {install_command('mlflow')}; or unset {_URI_VARIABLE}.",
                in_pod="Use a cpu_image with it, see docs/after-promotion.md, or remove "
                f"{name_sources(_URI_VARIABLE)}.",
            )
        ) from err
    return MlflowClient(tracking_uri=tracking_uri)


@contextlib.contextmanager
def _converting_errors(tracking_uri: str) -> Iterator[None]:
    """Convert what MLflow and its HTTP client raise.

    Raises:
        MlflowError: With the reason, without credentials.
    """
    try:
        yield
    except RepotError:
        raise
    except Exception as err:  # MLflow has no common class for what it and requests raise.
        secrets = {*read_secrets(os.environ), *secret_parts(tracking_uri)}
        reason = mask(innermost_reason(err), secrets).strip().rstrip(".")
        where = mask(tracking_uri, secrets)
        raise MlflowError(
            f"MLflow at {where} must accept what repot sends; got {reason}. Check "
            f"{name_sources(_URI_VARIABLE)}, and the credentials if the server requires them."
        ) from err


def _find_experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            created: str = client.create_experiment(name)
        except Exception:
            # Another run may have created it in the meantime.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
        else:
            return created
    if experiment.lifecycle_stage != "active":
        raise MlflowError(
            f"The MLflow experiment {name!r} must be active; it was deleted. Restore it, or set "
            "another MLFLOW_EXPERIMENT_NAME."
        )
    found: str = experiment.experiment_id
    return found


def _find_run(client: Any, experiment_id: str, model_name: str, version: str) -> Any:
    """Return the run of a training, or None."""
    tags = {TRAINING_TAG: version, MODEL_TAG: model_name}
    found = _search(client, experiment_id, tags)
    return found[0] if found else None


def _search(client: Any, experiment_id: str, tags: dict[str, str]) -> list[Any]:
    # Ids and names of models have no quotes.
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    return list(client.search_runs([experiment_id], " and ".join(conditions)))


def _log_training(
    client: Any, run_id: str, result: RunResult, settings: IntegrationSettings
) -> None:
    """Log what a training fixes: parameters, metrics, artifacts; the mark of completeness last."""
    from mlflow.entities import Metric, Param, RunTag

    data, verdict = result.data, result.verdict
    # A fixed time, so that a database keeps one of two equal values of a repeated report.
    time_ms = client.get_run(run_id).info.start_time
    metrics = [
        Metric(name, value, time_ms, step)
        for step, epoch in enumerate(data.history, start=1)
        for name, value in dataclasses.asdict(epoch).items()
        if isinstance(value, float)
    ]
    params = [Param(name, str(value)[:500]) for name, value in _parameters(result).items()]
    tags = [RunTag(name, value) for name, value in _training_tags(result).items()]
    client.log_batch(run_id, params=params, tags=tags)
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
    for name in (MODEL_CARD_NAME, METRICS_NAME):
        client.log_text(run_id, storage.read_text(storage.join(result.version_uri, name)), name)
    if settings.mlflow_log_model:
        with tempfile.TemporaryDirectory() as folder:
            storage.download_folder(result.version_uri, Path(folder))
            client.log_artifacts(run_id, folder, MODEL_FOLDER)
    client.set_tag(run_id, COMPLETE_TAG, "true")
    _log.info("MLflow: logged training %s", verdict.version)


def _parameters(result: RunResult) -> dict[str, Any]:
    data = result.data
    training = data.training
    counts = {name: split.num_examples for name, split in data.dataset.splits.items()}
    return {
        **(training.settings.to_json() if training else {}),
        **({"image_size": training.image_size} if training else {}),
        **({"checkpoint_id": training.checkpoint_id} if training else {}),
        **{f"{name}_examples": count for name, count in counts.items()},
        "dataset_id": data.dataset.dataset_id,
        "pictures_uri": mask(data.dataset.pictures_uri),
        "num_labels": len(training.labels) if training else len(data.evaluation.labels),
    }


def _training_tags(result: RunResult) -> dict[str, str]:
    training = result.data.training
    versions = training.versions if training else {}
    return {
        "repot.dataset_id": result.data.dataset.dataset_id,
        "repot.model_uri": result.version_uri,
        "repot.code_version": repot.__version__,
        **{f"repot.versions.{package}": version for package, version in versions.items()},
    }


def _log_verdict(client: Any, run_id: str, result: RunResult) -> None:
    """Log the verdict, the report that shows it, and the scores to compare runs by."""
    verdict = result.verdict
    for name, value in comparable_metrics(result.data.evaluation, verdict).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            client.log_metric(run_id, name, value)
    note = "\n\n".join((verdict.headline, *verdict.reasons))
    tags = {
        "repot.verdict": verdict.decision,
        "repot.compared_with": verdict.champion_version,
        "repot.report_uri": result.report_uri,
        "repot.run_id": result.run_id,
        "mlflow.note.content": note[:_MAX_NOTE_CHARACTERS],
    }
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.log_text(run_id, storage.read_text(result.report_uri), REPORT_NAME)
    client.log_dict(run_id, verdict.to_json(), VERDICT_NAME)


def _move_champion(client: Any, experiment_id: str, model_name: str, run_id: str | None) -> None:
    """Make a run the only one of its model that has the champion's tag; with None, none has it."""
    for run in _search(client, experiment_id, {CHAMPION_TAG: "true", MODEL_TAG: model_name}):
        if run.info.run_id != run_id:
            client.set_tag(run.info.run_id, CHAMPION_TAG, "false")
    if run_id is not None:
        client.set_tag(run_id, CHAMPION_TAG, "true")
