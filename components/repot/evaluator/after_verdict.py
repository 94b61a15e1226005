"""After the verdict: tell the services that the administrator chose how a run ended.

Evaluate calls `report_outcome` once, when a promoted version is in production. What fails here is a
warning: the run has its result.
"""

import os
from collections.abc import Callable

from repot import layout, progress, storage
from repot.errors import RepotError
from repot.evaluator.inference_service import write_inference_service
from repot.evaluator.verdict import Decision, Verdict
from repot.json_record import read_record
from repot.layout import REPORT_NAME
from repot.notification import Notification, notify
from repot.settings.integrations import Event, IntegrationSettings

_EVENTS: dict[Decision, Event] = {
    "promote": "promoted",
    "reject": "rejected",
    "unchanged": "unchanged",
}


def report_outcome(storage_uri: str, verdict_name: str) -> None:
    """Report how a run ended to every service that the environment names.

    Args:
        storage_uri: Root of all stored files.
        verdict_name: Name of the gate's verdict.json under it.
    """
    try:
        settings = IntegrationSettings.from_environment(os.environ)
        verdict_uri = storage.join(storage.normalise(storage_uri), verdict_name)
        verdict = read_record(verdict_uri, Verdict)
    except RepotError as err:
        _warn("The outcome was not reported", err)
        return
    version_uri = layout.model_uri(storage_uri, verdict.model_name, verdict.version)
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
            report_uri=storage.join(storage.parent(verdict_uri), REPORT_NAME),
        )
    )
    # Also for a version that is the champion already: an earlier attempt may have failed.
    if verdict.decision != "reject" and settings.kserve_manifest:
        _attempt(
            "The manifest for KServe was not written",
            lambda: write_inference_service(version_uri, settings),
        )


def _attempt(failure: str, action: Callable[[], object]) -> None:
    """Do something; if it fails, warn."""
    try:
        action()
    except RepotError as err:
        _warn(failure, err)


def _warn(failure: str, err: RepotError) -> None:
    progress.notice("gate", f"{failure}. {err}", is_warning=True)
