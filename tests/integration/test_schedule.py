"""`repot schedule` against a server that speaks KFP's API over HTTP, through the real kfp.Client."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kfp_api.answers import plain
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.server import KfpApi

PLACES = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
NIGHTLY = ("--cron", "0 2 * * *")
WEEKLY = ("--cron", "0 3 * * 7")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    with KfpApi() as server:
        yield server


def use_version(api: KfpApi, minor: int) -> None:
    api.tag, api.store.minor = f"2.{minor}.0", minor


def apply(api: KfpApi, *arguments: str | Path, name: str = "nightly") -> CommandResult:
    return run_repot("schedule", "apply", name, *PLACES, "--host", api.address, *arguments)


def schedule(api: KfpApi, *arguments: str) -> CommandResult:
    command, *rest = arguments
    return run_repot("schedule", command, *rest, "--host", api.address)


def only(api: KfpApi) -> dict[str, Any]:
    (found,) = api.store.schedules.values()
    return found


def changes(api: KfpApi) -> list[str]:
    made = [f"{method} {path.removeprefix('/apis/v2beta1/')}" for method, path in api.changes]
    api.requests.clear()
    return made


def test_a_schedule_without_a_name_is_refused_before_anybody_is_asked(api: KfpApi) -> None:
    ended = apply(api, *NIGHTLY, name=" ")

    assert (ended.exit_code, api.requests) == (2, [])
    assert "name must have something in it" in ended.errors


def test_a_new_schedule_is_what_was_asked_for(api: KfpApi) -> None:
    ended = apply(
        api,
        *NIGHTLY,
        "--epochs",
        "2",
        "--service-account",
        "robot",
        "--pipeline-root",
        "gs://root/x",
    )

    assert ended.exit_code == 0, ended.errors
    made = only(api)
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert (made["no_catchup"], made["max_concurrency"], made["status"]) == (True, "1", "ENABLED")
    assert made["service_account"] == "robot"
    assert made["runtime_config"]["pipeline_root"] == "gs://root/x"
    assert made["runtime_config"]["parameters"]["epochs"] == 2
    assert made["pipeline_version_reference"]["pipeline_version_id"] in api.store.versions
    assert ended.output.startswith("nightly: created\n")
    assert "UTC, unless its CRON_SCHEDULE_TIMEZONE says otherwise" in ended.output
    assert f"/#/recurringrun/details/{made['recurring_run_id']}" in ended.output


def test_applied_twice_it_is_one_schedule(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    before = only(api)
    changes(api)

    ended = apply(api, *NIGHTLY)

    assert ended.output.startswith("nightly: unchanged\n")
    assert changes(api) == []
    assert only(api) == before


@pytest.mark.parametrize(
    "changed",
    [
        WEEKLY,
        (*NIGHTLY, "--epochs", "2"),
        (*NIGHTLY, "--follow-latest"),
        (*NIGHTLY, "--service-account", "robot"),
        (*NIGHTLY, "--experiment", "other"),
        (*NIGHTLY, "--pipeline-root", "gs://root/x"),
        (*NIGHTLY, "--version-name", "v2"),
    ],
)
def test_a_change_makes_the_new_one_before_the_old_one_goes(
    api: KfpApi, changed: tuple[str, ...]
) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    old = only(api)["recurring_run_id"]
    changes(api)

    ended = apply(api, *changed)

    assert ended.output.startswith("nightly: replaced\n"), ended.errors
    made = [change for change in changes(api) if "recurringruns" in change]
    assert made == [
        "POST recurringruns",
        f"POST recurringruns/{old}:disable",
        f"DELETE recurringruns/{old}",
    ]
    assert only(api)["status"] == "ENABLED"


def test_a_schedule_that_is_paused_stays_so(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    assert schedule(api, "pause", "nightly").exit_code == 0

    unchanged, replaced = apply(api, *NIGHTLY), apply(api, *WEEKLY)

    assert unchanged.output.startswith("nightly: unchanged, and it is paused\n")
    assert replaced.output.startswith("nightly: replaced, and it is paused\n")
    assert only(api)["status"] == "DISABLED"


def test_following_the_latest_names_no_version(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY, "--follow-latest").exit_code == 0
    assert set(only(api)["pipeline_version_reference"]) == {"pipeline_id"}
    assert "the latest" in schedule(api, "list").output

    assert apply(api, *NIGHTLY, "--follow-latest", "--version-name", "v2").output.startswith(
        "nightly: unchanged\n"
    )

    newest = max(api.store.versions.values(), key=lambda version: version["created_at"])
    run_id = api.store.fire(only(api)["recurring_run_id"])
    assert newest["name"] == "v2"
    assert (
        api.store.runs[run_id]["pipeline_version_reference"]["pipeline_version_id"]
        == newest["pipeline_version_id"]
    )


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 0 2 * * *", 'use "0 2 * * *"'),
        ("0 0 2 * * ? 2030", 'use "0 2 * * ?"'),
        ("nonsense", "must have five fields; got 1"),
        ("0 25 * * *", "The hour of a cron expression"),
    ],
)
def test_a_wrong_cron_is_told_before_anybody_is_contacted(
    api: KfpApi, cron: str, words: str
) -> None:
    ended = apply(api, "--cron", cron)

    assert ended.exit_code == 2
    assert words in ended.errors
    assert api.requests == []


def test_wrong_parameters_are_told_before_anybody_is_contacted(api: KfpApi) -> None:
    ended = apply(api, *NIGHTLY, "-p", "epoch=1", "--batch-size", "0")

    assert ended.exit_code == 2
    assert "Did you mean epochs?" in ended.errors
    assert "batch_size must lie" in ended.errors
    assert api.requests == []


def test_an_apply_that_was_cut_off_is_finished_by_the_next_one(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.answers = [("POST", ":disable$", plain("server is shutting down", status=500))]
    cut_off = apply(api, *WEEKLY)
    assert cut_off.exit_code == 1
    assert "Cannot pause the schedule nightly" in cut_off.errors
    assert [known["status"] for known in api.store.schedules.values()] == ["ENABLED", "ENABLED"]

    ended = apply(api, *WEEKLY)

    assert ended.output.startswith("nightly: unchanged\n")
    assert only(api)["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"


def test_an_apply_that_is_refused_leaves_the_old_one_in_force(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    before = only(api)
    api.answers = [("POST", "recurringruns$", plain("no", status=500))]

    assert apply(api, *WEEKLY).exit_code == 1

    assert only(api) == before


def test_changing_a_schedule_spares_its_run(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.store.fire(only(api)["recurring_run_id"])

    assert apply(api, *WEEKLY).output.startswith("nightly: replaced\n")

    assert api.store.killed_runs == []
    assert len(api.store.schedules) == 1


def test_before_2_16_the_old_schedule_waits_for_its_run(api: KfpApi) -> None:
    use_version(api, 15)
    assert apply(api, *NIGHTLY).exit_code == 0
    old = only(api)["recurring_run_id"]
    run_id = api.store.fire(old)

    ended = apply(api, *WEEKLY)

    assert ended.exit_code == 0
    assert f"{old}, is paused until its run is over" in ended.output
    assert api.store.schedules[old]["status"] == "DISABLED"
    assert "replaced" in schedule(api, "list").output
    # Its name alone means the new one, whatever happens to that next.
    assert (
        schedule(api, "pause", "nightly").exit_code
        == schedule(api, "resume", "nightly").exit_code
        == 0
    )
    assert api.store.schedules[old]["status"] == "DISABLED"
    assert apply(api, *NIGHTLY).output.startswith("nightly: replaced\n")
    assert old in api.store.schedules

    api.store.set_run(run_id, "SUCCEEDED")
    assert apply(api, *NIGHTLY).output.startswith("nightly: unchanged\n")
    assert old not in api.store.schedules
    assert len(api.store.schedules) == 1
    assert api.store.killed_runs == []


def test_before_2_16_a_schedule_with_a_run_is_paused_and_not_deleted(api: KfpApi) -> None:
    use_version(api, 15)
    assert apply(api, *NIGHTLY).exit_code == 0
    run_id = api.store.fire(only(api)["recurring_run_id"])

    ended = schedule(api, "delete", "nightly")

    assert ended.exit_code == 1
    assert f"paused, not deleted: its run {run_id} is active" in ended.errors
    assert only(api)["status"] == "DISABLED"
    api.store.set_run(run_id, "FAILED")
    assert schedule(api, "delete", "nightly").exit_code == 0
    assert api.store.schedules == {}
    assert api.store.killed_runs == []


def test_delete_spares_the_run(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.store.fire(only(api)["recurring_run_id"])

    assert schedule(api, "delete", "nightly").output == "nightly: deleted\n"

    assert api.store.schedules == {}
    assert api.store.killed_runs == []


def test_two_of_one_name_are_told_with_their_ids(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    first = only(api)
    second = api.store.create_schedule({**first, "mode": "ENABLE"})
    changes(api)

    for ended in (
        apply(api, *NIGHTLY),
        schedule(api, "pause", "nightly"),
        schedule(api, "delete", "nightly"),
    ):
        assert ended.exit_code == 2
        assert first["recurring_run_id"] in ended.errors
        assert second["recurring_run_id"] in ended.errors
        assert "repot schedule delete nightly --id ID" in ended.errors
    assert [change for change in changes(api) if "recurringruns" in change] == []

    assert schedule(api, "delete", "nightly", "--id", second["recurring_run_id"]).exit_code == 0
    assert only(api) == first


def test_a_schedule_that_repot_did_not_make_is_left_alone(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    only(api)["description"] = "made by hand"

    ended = apply(api, *WEEKLY)

    assert ended.exit_code == 2
    assert "was not created by repot" in ended.errors
    assert only(api)["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"


def test_pause_and_resume(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0

    assert schedule(api, "pause", "nightly").output == "nightly: paused\n"
    assert only(api)["status"] == "DISABLED"
    assert schedule(api, "resume", "nightly").output == "nightly: resumed\n"
    assert only(api)["status"] == "ENABLED"


@pytest.mark.parametrize("command", ["pause", "resume", "delete", "run-now"])
def test_an_unknown_name_lists_those_that_exist(api: KfpApi, command: str) -> None:
    assert "No schedules exist." in schedule(api, command, "nightly").errors
    for name in ("weekly", "hourly"):
        assert apply(api, *NIGHTLY, name=name).exit_code == 0

    ended = schedule(api, command, "nightly")

    assert ended.exit_code == 2
    assert "There is no schedule nightly. Existing schedules: hourly, weekly." in ended.errors


def test_run_now_starts_what_the_schedule_would(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY, "--epochs", "2", "--service-account", "robot").exit_code == 0

    ended = schedule(api, "run-now", "nightly")

    assert ended.exit_code == 0, ended.errors
    (run,) = api.store.runs.values()
    made = only(api)
    for field in (
        "runtime_config",
        "pipeline_version_reference",
        "experiment_id",
        "service_account",
    ):
        assert run[field] == made[field]
    assert run["display_name"].startswith("nightly ")
    assert run["run_id"] in ended.output


def test_run_now_waits_for_the_run_in_progress(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    run_id = api.store.fire(only(api)["recurring_run_id"])

    ended = schedule(api, "run-now", "nightly")

    assert ended.exit_code == 1
    assert f"is already running: {run_id}" in ended.errors
    api.store.set_run(run_id, "SUCCEEDED")
    assert schedule(api, "run-now", "nightly").exit_code == 0


@pytest.mark.parametrize("flags", [(), ("--follow-latest",)])
def test_run_now_waits_for_what_it_started_itself(api: KfpApi, flags: tuple[str, ...]) -> None:
    assert apply(api, *NIGHTLY, *flags).exit_code == 0
    assert schedule(api, "run-now", "nightly").exit_code == 0
    (run_id,) = api.store.runs

    ended = schedule(api, "run-now", "nightly")

    assert ended.exit_code == 1
    assert f"is already running: {run_id}" in ended.errors
    assert set(api.store.runs) == {run_id}


def test_list_shows_every_schedule_of_every_page(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    made = only(api)
    for number in range(130):
        api.store.create_schedule(
            {**made, "display_name": f"other-{number:03}", "description": "", "mode": "DISABLE"}
        )

    lines = schedule(api, "list").output.splitlines()

    assert lines[0].split() == ["NAME", "STATE", "CRON", "VERSION", "ID"]
    assert len(lines) == 1 + 131
    assert lines[1].split()[:2] == ["nightly", "enabled"]
    assert "0 2 * * *" in lines[1]
    assert lines[2].split()[:2] == ["other-000", "disabled"]


def test_names_with_signs_are_found_again(api: KfpApi) -> None:
    name = "a+b 100% é"

    assert apply(api, *NIGHTLY, name=name).exit_code == 0
    assert apply(api, *NIGHTLY, name=name).output.startswith(f"{name}: unchanged\n")
    assert apply(api, *NIGHTLY, name=name.upper()).output.startswith(f"{name.upper()}: created\n")
    assert schedule(api, "delete", name).exit_code == 0


def test_nobody_there_is_one_message() -> None:
    ended = run_repot("schedule", "list", "--host", "http://127.0.0.1:9")

    assert ended.exit_code == 1
    assert len(ended.errors.splitlines()) == 1
