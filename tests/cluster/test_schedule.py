"""Recurring runs on the cluster: made once, run by hand and by the clock, paused, deleted without a trace."""

from collections.abc import Iterator

import pytest

from tests.cluster.command_line import Ended
from tests.cluster.site import Site
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TEST_SECONDS)]

NEVER = "0 3 29 2 *"
EVERY_MINUTE = "* * * * *"
CLOCK_SECONDS = 300.0


@pytest.fixture
def name(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a schedule that starts nothing any more after the test."""
    name = f"{site.name}-{request.node.name.removeprefix('test_').replace('_', '-')[:30]}"
    yield name
    for schedule in site.kubeflow.schedules(name):
        site.commands.run(
            "schedule",
            "pause",
            name,
            "--id",
            schedule.recurring_run_id,
            *site.settings.server_options,
        )


def schedule(site: Site, command: str, *words: str) -> Ended:
    return site.commands.run(
        "schedule", command, *words, *site.settings.server_options, seconds=300
    ).expect(0)


def apply(site: Site, name: str, cron: str) -> Ended:
    return site.commands.run(
        "schedule", "apply", name, *site.request("first"), "--cron", cron, seconds=300
    ).expect(0)


def row(site: Site, name: str) -> list[str]:
    """Return the words in the schedule's row of `repot schedule list`."""
    rows = [line.split() for line in schedule(site, "list").output.splitlines()]
    found = [words for words in rows if words[0] == name]
    assert len(found) <= 1, rows
    return found[0] if found else []


def test_schedule_is_made_once_and_deleted_without_a_trace(site: Site, name: str) -> None:
    before = site.cluster.scheduled_workflows()

    assert apply(site, name, NEVER).output.startswith(f"{name}: made\n")
    assert apply(site, name, NEVER).output.startswith(f"{name}: unchanged\n")

    assert row(site, name)[1] == "enabled"
    (made,) = site.kubeflow.schedules(name)
    assert site.cluster.scheduled_workflows() - before == {made.recurring_run_id}
    schedule(site, "pause", name)
    assert row(site, name)[1] == "disabled"
    schedule(site, "resume", name)
    assert row(site, name)[1] == "enabled"
    schedule(site, "delete", name)
    assert row(site, name) == []
    wait_for(
        "the end of the schedule's object",
        lambda: made.recurring_run_id not in site.cluster.scheduled_workflows(),
        seconds=60,
    )


def test_run_now_starts_the_run_of_the_schedule(site: Site, promoted: Ended, name: str) -> None:
    del promoted
    apply(site, name, NEVER)

    run_id = schedule(site, "run-now", name).run_id

    assert site.kubeflow.end_of(run_id, RUN_SECONDS) == "SUCCEEDED"
    assert site.kubeflow.run(run_id).runtime_config.parameters["model_name"] == "first"
    schedule(site, "delete", name)
    assert site.kubeflow.run(run_id).state == "SUCCEEDED"


def test_clock_starts_a_run(site: Site, promoted: Ended, name: str) -> None:
    del promoted
    champion = site.champion("first")
    apply(site, name, EVERY_MINUTE)

    run = wait_for(
        "a run of the schedule",
        lambda: site.kubeflow.runs_of_schedule(name, site.name),
        seconds=CLOCK_SECONDS,
    )[0]
    schedule(site, "pause", name)

    assert site.kubeflow.end_of(run.run_id, RUN_SECONDS) == "SUCCEEDED"
    assert site.champion("first") == champion
