"""After the verdict: tell the services that the administrator chose which version is in production.

Evaluate calls `report_outcome` once, when a promoted version is in production. The commands that
change the champion without a run call `report_champion`. What fails here is a warning, because
champion.json is written already, unless the administrator requires it.
"""

import logging
import os
from collections.abc import Callable

from repot import layout, progress, storage
from repot.cluster_names import RUN_ID_VARIABLE
from repot.errors import RepotError, UsageError
from repot.evaluator import kubeflow_registry, mlflow_tracking
from repot.evaluator.inference_service import write_inference_service
from repot.evaluator.report.data import ReportData
from repot.evaluator.summary import RunResult
from repot.evaluator.verdict import IN_PRODUCTION, Decision, Verdict
from repot.json_record import read_record
from repot.layout import EVALUATION_FOLDER, REPORT_DATA_NAME, REPORT_NAME
from repot.model_registry import Champion, read_champion
from repot.notification import Notification, notify
from repot.settings.integrations import Event, IntegrationSettings, variable_name

_EVENTS: dict[Decision, Event] = {
    "promote": "promoted",
    "reject": "rejected",
    "undecided": "undecided",
    "unchanged": "unchanged",
}
_REQUIRED_VARIABLE = variable_name("integrations_required")

_log = logging.getLogger(__name__)


def report_outcome(storage_uri: str, verdict_name: str) -> None:
    """Report how a run ended to every service that the environment names.

    Args:
        storage_uri: Root of all stored files.
        verdict_name: Name of the gate's verdict.json under it.

    Raises:
        RepotError: A service did not accept the report, and `integrations_required` is set.
    """
    verdict_uri = storage.join(storage.normalise(storage_uri), verdict_name)
    verdict = read_record(verdict_uri, Verdict)
    version_uri = layout.model_uri(storage_uri, verdict.model_name, verdict.version)
    report_uri = storage.join(storage.parent(verdict_uri), REPORT_NAME)
    event = _EVENTS[verdict.decision]
    notify(
        Notification(
            event=event,
            title=f"repot: {verdict.model_name} {event}",
            reason="\n".join((verdict.headline, *verdict.reasons)),
            storage_uri=storage.normalise(storage_uri),
            model_name=verdict.model_name,
            version=verdict.version,
            version_uri=version_uri,
            report_uri=report_uri,
        )
    )
    try:
        settings = IntegrationSettings.from_environment(os.environ)
    except UsageError as err:
        _warn("The outcome was only notified", err)
        if os.environ.get(_REQUIRED_VARIABLE, "").strip().lower() == "true":
            raise
        return
    failures = []
    # Also for a version that is the champion already: an earlier attempt may have failed.
    is_champion = verdict.decision in IN_PRODUCTION
    if is_champion and settings.kserve_manifest:
        failures += _attempt(
            "The manifest for KServe was not written",
            lambda: write_inference_service(version_uri, settings),
        )
    if settings.mlflow_tracking_uri:
        failures += _attempt(
            "The run was not logged to MLflow",
            lambda: mlflow_tracking.track_run(
                _read_result(storage_uri, verdict, report_uri), settings
            ),
        )
    if is_champion and settings.model_registry_url:
        failures += _attempt(
            "The version was not entered in the Model Registry",
            lambda: kubeflow_registry.register_version(
                _read_result(storage_uri, verdict, report_uri), settings
            ),
        )
    if not is_champion:
        # A rollback on a machine that knows none of the services has not reached them yet.
        champion = read_champion(layout.champion_uri(storage_uri, verdict.model_name)).champion
        failures += _move_marks(champion, settings) if champion else []
    if failures and settings.integrations_required:
        raise RepotError(
            "\n".join([*failures, "The gate's verdict stands. Correct it and run again."])
        )


def report_champion(
    storage_uri: str, champion: Champion, settings: IntegrationSettings
) -> list[str]:
    """Tell the services that a person chose another champion.

    Args:
        storage_uri: Root of all stored files.
        champion: The content of champion.json.
        settings: The services.

    Returns:
        What failed, a warning each.

    Raises:
        RepotError: A service did not accept the report, and `integrations_required` is set.
    """
    version_uri = layout.model_uri(storage_uri, champion.model_name, champion.version)
    failures = []
    if settings.kserve_manifest:
        failures += _attempt(
            "The manifest for KServe was not written",
            lambda: write_inference_service(version_uri, settings),
        )
    failures += _move_marks(champion, settings)
    if failures and settings.integrations_required:
        raise RepotError(
            "\n".join([*failures, "champion.json has the new champion. The next run reports it."])
        )
    return failures


def _move_marks(champion: Champion, settings: IntegrationSettings) -> list[str]:
    """Move the mark of the champion in MLflow and the Model Registry; return what failed."""
    failures = []
    if settings.mlflow_tracking_uri:
        failures += _attempt(
            "The champion was not marked in MLflow",
            lambda: _mark("MLflow", mlflow_tracking.mark_champion, champion, settings),
        )
    if settings.model_registry_url:
        failures += _attempt(
            "The champion was not marked in the Model Registry",
            lambda: _mark("Model Registry", kubeflow_registry.mark_champion, champion, settings),
        )
    return failures


def _mark(
    service: str,
    mark_champion: Callable[[str, str, IntegrationSettings], bool],
    champion: Champion,
    settings: IntegrationSettings,
) -> None:
    name, version = champion.model_name, champion.version
    if mark_champion(name, version, settings):
        _log.info("%s: the champion of %s is %s", service, name, version)
    else:
        _log.warning(
            "%s has no entry of %s %s; the next run of that training makes one",
            service,
            name,
            version,
        )


def _read_result(storage_uri: str, verdict: Verdict, report_uri: str) -> RunResult:
    run_uri = layout.run_uri(storage_uri, verdict.version)
    return RunResult(
        data=read_record(storage.join(run_uri, EVALUATION_FOLDER, REPORT_DATA_NAME), ReportData),
        verdict=verdict,
        version_uri=layout.model_uri(storage_uri, verdict.model_name, verdict.version),
        report_uri=report_uri,
        run_id=os.environ.get(RUN_ID_VARIABLE, ""),
    )


def _attempt(failure: str, action: Callable[[], object]) -> list[str]:
    """Do something; if it fails, warn and return the warning."""
    try:
        action()
    except RepotError as err:
        return [_warn(failure, err)]
    return []


def _warn(failure: str, err: RepotError) -> str:
    warning = f"{failure}. {err}"
    progress.notice("gate", warning, is_warning=True)
    return warning
