"""After the verdict: tell the services that the administrator chose how a run ended.

Evaluate calls `report_outcome` once, when a promoted version is in production. What fails here is a
warning, because the run has its result, unless the administrator requires it.
"""

import os
from collections.abc import Callable

from repot import layout, progress, storage
from repot.cluster_names import RUN_ID_VARIABLE
from repot.errors import RepotError, UsageError
from repot.evaluator.inference_service import write_inference_service
from repot.evaluator.kubeflow_registry import register_version
from repot.evaluator.mlflow_tracking import track_run
from repot.evaluator.report.data import ReportData
from repot.evaluator.summary import RunResult
from repot.evaluator.verdict import IN_PRODUCTION, Decision, Verdict
from repot.json_record import read_record
from repot.layout import EVALUATION_FOLDER, REPORT_DATA_NAME, REPORT_NAME
from repot.notification import Notification, notify
from repot.settings.integrations import Event, IntegrationSettings, variable_name

_EVENTS: dict[Decision, Event] = {
    "promote": "promoted",
    "reject": "rejected",
    "undecided": "undecided",
    "unchanged": "unchanged",
}
_REQUIRED_VARIABLE = variable_name("integrations_required")


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
            lambda: track_run(_read_result(storage_uri, verdict, report_uri), settings),
        )
    if is_champion and settings.model_registry_url:
        failures += _attempt(
            "The version was not entered in the Model Registry",
            lambda: register_version(_read_result(storage_uri, verdict, report_uri), settings),
        )
    if failures and settings.integrations_required:
        raise RepotError(
            "\n".join([*failures, "The gate's verdict stands. Correct it and run again."])
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
