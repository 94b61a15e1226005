"""Notifications, sent to a real web server."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from repot import layout, notification, storage
from repot.errors import DataError, RepotError, StoppedError
from repot.notification import Notification, make_payload, notify, notify_failure
from repot.settings.integrations import NotificationSettings, environment_problems
from tests.web_server import WebServer, running_web_server

SECRET_PATH = "/services/T0001/B0002/x9secretx9"
RUN_ID = "1b2c3d4e-0000-4000-8000-000000000001"
PROMOTED = Notification(
    event="promoted",
    title="repot: classifier promoted",
    reason="Promoted: 0.910 on 40 pictures\nIt is the first version.",
    storage_uri="s3://bucket/repot",
    model_name="classifier",
    version="0123456789abcdef",
    version_uri="s3://bucket/repot/models/classifier/0123456789abcdef",
    report_uri="s3://bucket/repot/runs/0123456789abcdef/report.html",
)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """Run a server, and name a secret path of it in the environment."""
    monkeypatch.setattr(notification, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("REPOT_RUN_ID", RUN_ID)
    with running_web_server() as server:
        monkeypatch.setenv("REPOT_NOTIFY_URL", server.url + SECRET_PATH)
        yield server


def received(web: WebServer) -> list[dict[str, Any]]:
    return [json.loads(body) for body in web.posts]


def at(storage_uri: Path) -> Notification:
    return dataclasses.replace(PROMOTED, storage_uri=str(storage_uri))


def test_json_has_every_field_and_the_text(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPOT_KFP_UI_URL", "https://kubeflow.example/pipeline/")
    web.serve(SECRET_PATH, b"ok")

    notify(at(tmp_path))

    (sent,) = received(web)
    url = f"https://kubeflow.example/pipeline/#/runs/details/{RUN_ID}"
    assert sent["text"].splitlines() == [
        "repot: classifier promoted",
        "Promoted: 0.910 on 40 pictures",
        "It is the first version.",
        f"Version: {PROMOTED.version_uri}",
        f"Report: {PROMOTED.report_uri}",
        f"Run: {url}",
    ]
    assert set(sent) == {*Notification.__dataclass_fields__, "text"}
    assert (sent["event"], sent["run_id"], sent["run_url"]) == ("promoted", RUN_ID, url)


@pytest.mark.parametrize(
    ("url", "chosen", "is_slack"),
    [
        ("https://hooks.slack.com/services/a", "auto", True),
        ("https://hooks.slack-gov.com/services/a", "auto", True),
        ("https://notslack.com/services/a", "auto", False),
        ("https://hooks.slack.com/services/a", "json", False),
        ("https://chat.example/hooks/a", "auto", False),
        ("https://chat.example/hooks/a", "slack", True),
    ],
)
def test_format_follows_the_setting_then_the_host(url: str, chosen: str, is_slack: bool) -> None:
    settings = NotificationSettings(notify_url=url, notify_format=chosen)

    assert (set(make_payload(PROMOTED, settings)) == {"text"}) == is_slack


def test_text_for_slack_cannot_mention_anyone(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPOT_NOTIFY_FORMAT", "slack")
    web.serve(SECRET_PATH, b"ok")

    with pytest.raises(DataError), notify_failure("plan", str(tmp_path)):
        raise DataError("<!channel>&.jpg is empty.")

    assert "&lt;!channel&gt;&amp;.jpg is empty." in received(web)[0]["text"]


@pytest.mark.parametrize(
    ("events", "is_sent"), [(None, False), ("rejected", True), ("failed, rejected", True)]
)
def test_rejections_are_sent_only_if_chosen(
    web: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: str | None,
    is_sent: bool,
) -> None:
    if events is not None:
        monkeypatch.setenv("REPOT_NOTIFY_EVENTS", events)
    web.serve(SECRET_PATH, b"ok")

    notify(dataclasses.replace(at(tmp_path), event="rejected"))

    assert len(web.posts) == is_sent


def test_failure_is_sent_with_its_reason_and_passes(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "repot-finetune-abcde-1")
    web.serve(SECRET_PATH, b"ok")
    error = DataError("a.jpg is empty.\nb.jpg is empty.")

    with pytest.raises(DataError) as caught, notify_failure("merge", str(tmp_path)):
        raise error

    assert caught.value is error
    (sent,) = received(web)
    assert sent["text"].splitlines() == [
        "repot: merge failed",
        "a.jpg is empty.",
        "b.jpg is empty.",
        f"Run: {RUN_ID}",
        "Pod: repot-finetune-abcde-1",
        f"Storage: {tmp_path}",
    ]
    assert (sent["event"], sent["task"]) == ("failed", "merge")


@pytest.mark.parametrize(("length", "sent_length"), [(2000, 2000), (2001, 2000)])
def test_long_reason_is_cut_visibly(
    web: WebServer, tmp_path: Path, length: int, sent_length: int
) -> None:
    web.serve(SECRET_PATH, b"ok")

    with pytest.raises(DataError), notify_failure("merge", str(tmp_path)):
        raise DataError("x" * length)

    reason = received(web)[0]["reason"]
    assert len(reason) == sent_length
    assert reason.endswith("…") == (length > sent_length)


def test_reason_is_masked(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ACCESS_TOKEN", "x9secretx9")
    web.serve(SECRET_PATH, b"ok")

    with pytest.raises(DataError), notify_failure("merge", str(tmp_path)):
        raise DataError("https://u:p@host/x?sig=abcdefgh with x9secretx9 failed.")

    assert received(web)[0]["reason"] == "https://***@host/x?sig=*** with *** failed."


def test_unexpected_error_is_sent_with_its_type(web: WebServer, tmp_path: Path) -> None:
    web.serve(SECRET_PATH, b"ok")

    with pytest.raises(ZeroDivisionError), notify_failure("train", str(tmp_path)):
        _ = 1 / 0

    assert received(web)[0]["reason"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [StoppedError("Stopped."), KeyboardInterrupt()])
def test_stopped_task_sends_nothing(web: WebServer, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), notify_failure("train", str(tmp_path)):
        raise error

    assert web.requests == []


def test_of_many_failing_builders_one_notification_is_sent(web: WebServer, tmp_path: Path) -> None:
    web.serve(SECRET_PATH, b"ok")

    def fail(number: int) -> None:
        with pytest.raises(DataError), notify_failure("build shards", str(tmp_path)):
            raise DataError(f"Shard {number} is damaged.")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(8)))

    assert len(web.posts) == 1


def test_runs_and_events_are_reported_separately(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.serve(SECRET_PATH, b"ok")

    notify(at(tmp_path))
    notify(dataclasses.replace(at(tmp_path), event="failed"))
    monkeypatch.setenv("REPOT_RUN_ID", "another")
    notify(at(tmp_path))

    assert len(web.posts) == 3


def test_run_that_fails_again_later_is_reported_again(web: WebServer, tmp_path: Path) -> None:
    web.serve(SECRET_PATH, b"ok")
    marker = layout.notification_uri(str(tmp_path), RUN_ID, "promoted")
    storage.write_json(marker, {"time": "2026-01-01T00:00:00Z"})

    notify(at(tmp_path))
    notify(at(tmp_path))

    assert len(web.posts) == 1


@pytest.mark.parametrize("storage_uri", ["/dev/null/storage", "nosuch://bucket"])
def test_without_a_usable_storage_it_is_sent_anyway(web: WebServer, storage_uri: str) -> None:
    web.serve(SECRET_PATH, b"ok")

    notify(dataclasses.replace(PROMOTED, storage_uri=storage_uri))

    assert len(web.posts) == 1


@pytest.mark.parametrize(
    ("statuses", "num_requests"),
    [([503, 200], 2), ([429, 500, 200], 3), ([500], 3), ([404], 1), ([302], 1)],
)
def test_only_failures_that_may_pass_are_tried_again(
    web: WebServer, tmp_path: Path, statuses: list[int], num_requests: int
) -> None:
    for status in statuses:
        web.serve(SECRET_PATH, b"no_service", status=status)

    notify(at(tmp_path))

    assert len(web.requests) == num_requests
    is_sent = statuses[-1] == 200
    assert storage.exists(layout.notification_uri(str(tmp_path), RUN_ID, "promoted")) == is_sent


@pytest.mark.parametrize("is_reachable", [True, False])
def test_problem_is_a_warning_that_keeps_the_address_secret(
    web: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_reachable: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    web.serve(SECRET_PATH, f"no such hook: {SECRET_PATH}".encode(), status=403)
    if not is_reachable:
        monkeypatch.setenv("REPOT_NOTIFY_URL", f"http://user:pass9word@127.0.0.1:1{SECRET_PATH}")
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("REPOT_EVENTS", str(events))

    with pytest.raises(RepotError, match="It broke"), notify_failure("merge", str(tmp_path)):
        raise RepotError("It broke")

    said = [record.getMessage() for record in caplog.records if record.name.startswith("repot")]
    shown = "\n".join([*said, events.read_text()])
    problem = "127.0.0.1 answered 403" if is_reachable else "127.0.0.1 does not answer"
    assert f"The notification 'repot: merge failed' was not sent. {problem}" in shown
    assert json.loads(events.read_text())["is_warning"]
    for secret in ("x9secretx9", "T0001", "B0002", "pass9word"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (("REPOT_NOTIFY_URL", "hooks.slack.com/x9secretx9"), "notify_url must be an http:// or"),
        (("REPOT_NOTIFY_URL", "https://h:port/x9secretx9"), "notify_url must be an http:// or"),
        (("REPOT_NOTIFY_EVENTS", "failed,promotd"), "Did you mean promoted?"),
        (("REPOT_NOTIFY_FORMAT", "Slack"), "Did you mean slack?"),
        (("REPOT_KFP_UI_URL", "kubeflow"), "kfp_ui_url must be an http:// or https:// address"),
    ],
)
def test_wrong_setting_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    setting: tuple[str, str],
    problem: str,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("REPOT_NOTIFY_URL", "http://127.0.0.1:1/hook")
    monkeypatch.setenv(*setting)

    notify(at(tmp_path))

    (found,) = environment_problems(os.environ)
    assert problem in found
    assert f"was not sent. {found}" in caplog.text
    assert "x9secretx9" not in caplog.text


def test_without_an_address_nothing_is_sent_or_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPOT_RUN_ID", RUN_ID)
    monkeypatch.setenv("REPOT_NOTIFY_URL", " ")

    notify(at(tmp_path))

    assert list(tmp_path.iterdir()) == []
