"""After the verdict: tell the services that the administrator chose how a run ended.

The task that ends a run calls `report_outcome` once, after a promotion if there is one.
"""

from repot import layout, storage
from repot.evaluator.verdict import Decision, Verdict
from repot.json_record import read_record
from repot.layout import REPORT_NAME
from repot.notification import Notification, notify
from repot.settings.integrations import Event

_EVENTS: dict[Decision, Event] = {
    "promote": "promoted",
    "reject": "rejected",
    "unchanged": "unchanged",
}


def report_outcome(storage_uri: str, verdict_name: str) -> None:
    """Report how a run ended; a promoted version is in production by then.

    Args:
        storage_uri: Root of all stored files.
        verdict_name: Name of the gate's verdict.json under it.
    """
    verdict_uri = storage.join(storage.normalise(storage_uri), verdict_name)
    verdict = read_record(verdict_uri, Verdict)
    event = _EVENTS[verdict.decision]
    notify(
        Notification(
            event=event,
            title=f"repot: {verdict.model_name} {event}",
            reason="\n".join((verdict.headline, *verdict.reasons)),
            storage_uri=storage.normalise(storage_uri),
            model_name=verdict.model_name,
            version=verdict.version,
            version_uri=layout.model_uri(storage_uri, verdict.model_name, verdict.version),
            report_uri=storage.join(storage.parent(verdict_uri), REPORT_NAME),
        )
    )
