"""Schedules on the cluster: create, pause, resume, run now, run at the scheduled time, delete."""

from collections.abc import Iterator

import pytest

from tests.cluster.command_line import CommandResult
from tests.cluster.session import Session
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

NEVER = "0 3 29 2 *"
EVERY_MINUTE = "* * * * *"
TRIGGER_SECONDS = 300.0


@pytest.fixture
def name(session: Session, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the name of a schedule, which is paused after the test."""
    name = f"{session.name}-{request.node.name.removeprefix('test_').replace('_', '-')[:30]}"
    yield name
    for schedule in session.kubeflow.schedules(name):
        session.commands.run(
            "schedule",
            "pause",
            name,
            "--id",
            schedule.recurring_run_id,
            *session.settings.server_options,
        )


def schedule(session: Session, command: str, *arguments: str) -> CommandResult:
    return session.commands.run(
        "schedule", command, *arguments, *session.settings.server_options, seconds=300
    ).expect(0)


def apply(session: Session, name: str, cron: str) -> CommandResult:
    return session.commands.run(
        "schedule", "apply", name, *session.run_arguments("first"), "--cron", cron, seconds=300
    ).expect(0)


def row(session: Session, name: str) -> list[str]:
    """Return the columns of the schedule in `repot schedule list`; empty if it is not listed."""
    rows = [line.split() for line in schedule(session, "list").output.splitlines()]
    found = [columns for columns in rows if columns[0] == name]
    assert len(found) <= 1, rows
    return found[0] if found else []


def test_schedule_is_created_once_and_deleted_completely(session: Session, name: str) -> None:
    before = session.cluster.scheduled_workflows()

    assert apply(session, name, NEVER).output.startswith(f"{name}: made\n")
    assert apply(session, name, NEVER).output.startswith(f"{name}: unchanged\n")

    assert row(session, name)[1] == "enabled"
    (created,) = session.kubeflow.schedules(name)
    assert session.cluster.scheduled_workflows() - before == {created.recurring_run_id}
    schedule(session, "pause", name)
    assert row(session, name)[1] == "disabled"
    schedule(session, "resume", name)
    assert row(session, name)[1] == "enabled"
    schedule(session, "delete", name)
    assert row(session, name) == []
    wait_for(
        "the end of the schedule's object",
        lambda: created.recurring_run_id not in session.cluster.scheduled_workflows(),
        seconds=60,
    )


def test_run_now_starts_a_run(session: Session, promoted: CommandResult, name: str) -> None:
    del promoted
    apply(session, name, NEVER)

    run_id = schedule(session, "run-now", name).run_id

    assert session.kubeflow.end_of(run_id, RUN_SECONDS) == "SUCCEEDED"
    assert session.kubeflow.run(run_id).runtime_config.parameters["model_name"] == "first"
    schedule(session, "delete", name)
    assert session.kubeflow.run(run_id).state == "SUCCEEDED"


def test_schedule_starts_a_run_at_its_time(
    session: Session, promoted: CommandResult, name: str
) -> None:
    del promoted
    champion = session.champion("first")
    apply(session, name, EVERY_MINUTE)

    run = wait_for(
        "a run of the schedule",
        lambda: session.kubeflow.runs_of_schedule(name, session.name),
        seconds=TRIGGER_SECONDS,
    )[0]
    schedule(session, "pause", name)

    assert session.kubeflow.end_of(run.run_id, RUN_SECONDS) == "SUCCEEDED"
    assert session.champion("first") == champion
