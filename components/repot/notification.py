"""Notifications: tell a webhook, such as Slack's, that a run failed, promoted or was rejected.

Each task reports its own failure, so no additional pod is needed; the last task reports the outcome
of the run. A pod that is killed from outside, for example for its memory, cannot report that.

A notification never makes a run fail: errors are logged as warnings. The whole address is secret,
because the path of a webhook is its key; logs show only the host.
"""

import contextlib
import dataclasses
import datetime
import html
import logging
import os
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from repot import layout, progress, storage
from repot.cluster_names import RUN_ID_VARIABLE, name_sources
from repot.errors import (
    AlreadyExistsError,
    RepotError,
    StoppedError,
    innermost_reason,
    printable,
)
from repot.json_record import JsonRecord, checked_text, read_record
from repot.masking import mask, read_secrets, secret_parts
from repot.settings.integrations import Event, NotificationSettings, variable_name
from repot.tls import CA_VARIABLES, find_ca_bundle

POD_VARIABLE = "KFP_POD_NAME"

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Pause after the first failed attempt; it doubles after each."""
REPEAT_SECONDS = 600
"""A run that fails again after this time, such as one retried in the UI, is reported again."""

_URL_VARIABLE = variable_name("notify_url")
_TIMEOUT_SECONDS = (5.0, 10.0)  # connect, read
_MAX_REASON_CHARACTERS = 2000
_MAX_ANSWER_BYTES = 200
_SLACK_DOMAINS = ("slack.com", "slack-gov.com")
_HTTP_TOO_MANY_REQUESTS = 429

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification(JsonRecord):
    """One event of a run. The fields, and `text`, are those of the format "json".

    Attributes:
        event: What happened.
        title: The event in a few words.
        reason: Why; several lines for several reasons.
        storage_uri: Where the run stores its results.
        model_name, version, version_uri: The model, its version and that version's folder; ""
            where the run failed.
        report_uri: The report; "" where the run failed.
        task: The task that failed; "" for the outcome of a run.
        run_id, run_url: The run, and its page in Kubeflow Pipelines' UI; "" where unknown.
        pod: Name of the pod that sends it; "" outside a cluster.
        time: When, in UTC, e.g. 2026-11-27T14:05:00Z.
    """

    event: Event
    title: str
    reason: str
    storage_uri: str
    model_name: str = ""
    version: str = ""
    version_uri: str = ""
    report_uri: str = ""
    task: str = ""
    run_id: str = ""
    run_url: str = ""
    pod: str = ""
    time: str = ""

    @property
    def text(self) -> str:
        """Return the event for people: a title, the reason, and where to look."""
        places = {
            "Version": self.version_uri,
            "Report": self.report_uri,
            "Run": self.run_url or self.run_id,
            "Pod": self.pod if self.task else "",
            "Storage": "" if self.report_uri else self.storage_uri,
        }
        lines = [self.title, *self.reason.splitlines()]
        lines += [f"{name}: {place}" for name, place in places.items() if place]
        return "\n".join(map(printable, lines))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sent(JsonRecord):
    """The file that stands for a sent notification; it has the time at which it was sent."""

    time: str


class _NotSentError(RepotError):
    """A notification was not accepted."""


@contextlib.contextmanager
def notify_failure(task: str, storage_uri: str) -> Iterator[None]:
    """Send a notification if the block fails, then let the error pass.

    A training that was asked to stop did not fail: its next start resumes it.

    Args:
        task: Name of the task.
        storage_uri: Root of all stored files.
    """
    try:
        yield
    except StoppedError:
        raise
    except Exception as err:
        reason = str(err) if isinstance(err, RepotError) else f"{type(err).__name__}: {err}"
        reason = mask(reason, read_secrets(os.environ))
        notify(
            Notification(
                event="failed",
                title=f"repot: {task} failed",
                reason=_shorten(reason),
                storage_uri=storage_uri,
                task=task,
            )
        )
        raise


def notify(notification: Notification) -> None:
    """Send a notification if the environment has an address and wants the event.

    Of equal events of one run, such as many failing builders, about one is sent.

    Args:
        notification: The event; run, pod and time are added.
    """
    try:
        settings = NotificationSettings.from_environment(os.environ)
        if not settings.notify_url or notification.event not in settings.events:
            return
        run_id = os.environ.get(RUN_ID_VARIABLE, "")
        has_page = settings.kfp_ui_url and run_id
        url = f"{settings.kfp_ui_url.rstrip('/')}/#/runs/details/{run_id}" if has_page else ""
        complete = dataclasses.replace(
            notification,
            run_id=run_id,
            run_url=url,
            pod=os.environ.get(POD_VARIABLE, ""),
            time=_format_time(_now()),
        )
        _send_once(complete, settings)
    except RepotError as err:
        _warn(notification, str(err))
    except Exception as err:  # noqa: BLE001 - a notification must not change how a run ends
        _warn(notification, f"{type(err).__name__}.")  # its text might contain the address


def make_payload(notification: Notification, settings: NotificationSettings) -> dict[str, str]:
    """Return the JSON object that is posted."""
    if _is_slack(settings):
        # With these three escaped, no name of a file becomes a mention or a link:
        # https://docs.slack.dev/messaging/formatting-message-text#escaping
        return {"text": html.escape(notification.text, quote=False)}
    return {**notification.to_json(), "text": notification.text}


def _send_once(notification: Notification, settings: NotificationSettings) -> None:
    """Send unless the same event of the same run was sent recently.

    Raises:
        _NotSentError: The address did not accept it.
    """
    marker_uri = _claim(notification)
    if marker_uri is None:
        _log.info("Another task has sent the notification %r", notification.title)
        return
    try:
        _send(notification, settings)
    except _NotSentError:
        with contextlib.suppress(RepotError):
            if marker_uri:
                storage.delete(marker_uri)  # Another task may succeed.
        raise
    _log.info("Sent the notification %r", notification.title)


def _claim(notification: Notification) -> str | None:
    """Return the file that this task wrote to be the only sender, or None if another task is.

    Without a run's id or a storage that works, that is unknown, and "" is returned: two
    notifications are better than none.
    """
    if not notification.run_id:
        return ""
    record = _Sent(time=notification.time)
    try:
        uri = layout.notification_uri(
            notification.storage_uri, notification.run_id, notification.event
        )
        try:
            storage.write_text(uri, checked_text(record.to_json()), if_absent=True)
        except AlreadyExistsError:
            sent = read_record(uri, _Sent)
            if _now() - _parse_time(sent.time) < datetime.timedelta(seconds=REPEAT_SECONDS):
                return None
            storage.write_text(uri, checked_text(record.to_json()))
    except (RepotError, ValueError) as err:
        _log.info("Cannot tell whether the notification was sent already: %s", err)
        return ""
    return uri


def _send(notification: Notification, settings: NotificationSettings) -> None:
    """Post a notification, with a few attempts.

    Raises:
        _NotSentError: The address did not accept it, or is not reachable.
    """
    payload = make_payload(notification, settings)
    pause = PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        problem, is_final = _post(settings.notify_url, payload)
        if not problem:
            return
        if is_final or attempt == ATTEMPTS:
            break
        _log.info("%s; trying again in %.0f s", problem, pause)
        time.sleep(pause)
        pause *= 2
    raise _NotSentError(f"{problem}. Check {name_sources(_URL_VARIABLE)}.")


def _post(url: str, payload: dict[str, str]) -> tuple[str, bool]:
    """Post once; return what went wrong, "" for nothing, and whether it would go wrong again."""
    import requests

    host = urllib.parse.urlsplit(url).hostname
    try:
        with requests.post(
            url,
            json=payload,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
            verify=find_ca_bundle(*CA_VARIABLES) or True,
            stream=True,
        ) as answer:
            body = next(answer.iter_content(_MAX_ANSWER_BYTES), b"")
    except requests.RequestException as err:
        return f"{host} does not answer ({_mask(innermost_reason(err), url)})", False
    if 200 <= answer.status_code < 300:
        return "", False
    words = printable(_mask(body.decode(errors="replace").strip(), url))
    problem = f"{host} answered {answer.status_code}" + (f" ({words})" if words else "")
    is_final = answer.status_code < 500 and answer.status_code != _HTTP_TOO_MANY_REQUESTS
    return problem, is_final


def _is_slack(settings: NotificationSettings) -> bool:
    if settings.notify_format != "auto":
        return settings.notify_format == "slack"
    host = urllib.parse.urlsplit(settings.notify_url).hostname or ""
    return any(host == domain or host.endswith(f".{domain}") for domain in _SLACK_DOMAINS)


def _mask(text: str, url: str) -> str:
    """Return a text without any part of an address but its host."""
    path = urllib.parse.urlsplit(url).path.strip("/")
    parts = {url, path, *path.split("/")} if path else {url}
    return mask(text, [*(part for part in parts if len(part) > 3), *secret_parts(url)])


def _shorten(reason: str) -> str:
    is_long = len(reason) > _MAX_REASON_CHARACTERS
    return reason[: _MAX_REASON_CHARACTERS - 1] + "…" if is_long else reason


def _warn(notification: Notification, reason: str) -> None:
    text = f"The notification {notification.title!r} was not sent. {reason}"
    progress.notice("notify", text, is_warning=True)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _format_time(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
