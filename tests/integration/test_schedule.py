"""`repot schedule` against a fake KFP API over HTTP, through the real kfp.Client."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kfp_api.answers import plain
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.server import KfpApi

LOCATIONS = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
NIGHTLY = ("--cron", "0 2 * * *")
WEEKLY = ("--cron", "0 3 * * 7")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    with KfpApi() as server:
        yield server


def hide_old_version(api: KfpApi) -> None:
    """Make the server one of KFP 2.15 that does not report its version."""
    api.tag, api.store.minor = "unknown", 15


def apply(api: KfpApi, *arguments: str | Path, name: str = "nightly") -> CommandResult:
    return run_repot("schedule", "apply", name, *LOCATIONS, "--host", api.address, *arguments)


def schedule(api: KfpApi, *arguments: str) -> CommandResult:
    command, *rest = arguments
    return run_repot("schedule", command, *rest, "--host", api.address)


def only_schedule(api: KfpApi) -> dict[str, Any]:
    (found,) = api.store.schedules.values()
    return found


def take_writes(api: KfpApi) -> list[str]:
    """Return all requests that are not GET, and forget them."""
    writes = [f"{method} {path.removeprefix('/apis/v2beta1/')}" for method, path in api.changes]
    api.requests.clear()
    return writes


def test_empty_name_is_rejected_before_any_request(api: KfpApi) -> None:
    result = apply(api, *NIGHTLY, name=" ")

    assert (result.exit_code, api.requests) == (2, [])
    assert "'NAME': it must be 1 to 235 bytes of printable text" in result.errors


def test_new_schedule_has_all_options(api: KfpApi) -> None:
    options = "--epochs 2 --service-account robot --pipeline-root gs://root/x"

    result = apply(api, *NIGHTLY, *options.split())

    assert result.exit_code == 0, result.errors
    made = only_schedule(api)
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert (made["no_catchup"], made["max_concurrency"], made["status"]) == (True, "1", "ENABLED")
    assert made["service_account"] == "robot"
    assert made["runtime_config"]["pipeline_root"] == "gs://root/x"
    assert made["runtime_config"]["parameters"]["epochs"] == 2
    assert made["pipeline_version_reference"]["pipeline_version_id"] in api.store.versions
    assert result.output.startswith("nightly: created\n")
    assert "UTC, unless it sets CRON_SCHEDULE_TIMEZONE" in result.output
    assert f"/#/recurringrun/details/{made['recurring_run_id']}" in result.output


def test_applying_twice_changes_nothing(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    before = only_schedule(api)
    take_writes(api)

    result = apply(api, *NIGHTLY)

    assert result.output.startswith("nightly: unchanged\n")
    assert take_writes(api) == []
    assert only_schedule(api) == before


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
def test_change_creates_the_new_schedule_before_deleting_the_old_one(
    api: KfpApi, changed: tuple[str, ...]
) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    old = only_schedule(api)["recurring_run_id"]
    take_writes(api)

    result = apply(api, *changed)

    assert result.output.startswith("nightly: replaced\n"), result.errors
    writes = [write for write in take_writes(api) if "recurringruns" in write]
    assert writes == [
        "POST recurringruns",
        f"POST recurringruns/{old}:disable",
        f"DELETE recurringruns/{old}",
    ]
    assert only_schedule(api)["status"] == "ENABLED"


def test_paused_schedule_stays_paused(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    assert schedule(api, "pause", "nightly").exit_code == 0

    unchanged, replaced = apply(api, *NIGHTLY), apply(api, *WEEKLY)

    assert unchanged.output.startswith("nightly: unchanged, paused\n")
    assert replaced.output.startswith("nightly: replaced, paused\n")
    assert only_schedule(api)["status"] == "DISABLED"


def test_follow_latest_refers_to_no_version(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY, "--follow-latest").exit_code == 0
    assert set(only_schedule(api)["pipeline_version_reference"]) == {"pipeline_id"}
    assert "latest" in schedule(api, "list").output

    assert apply(api, *NIGHTLY, "--follow-latest", "--version-name", "v2").output.startswith(
        "nightly: unchanged\n"
    )

    newest = max(api.store.versions.values(), key=lambda version: version["created_at"])
    run_id = api.store.fire(only_schedule(api)["recurring_run_id"])
    assert newest["name"] == "v2"
    assert (
        api.store.runs[run_id]["pipeline_version_reference"]["pipeline_version_id"]
        == newest["pipeline_version_id"]
    )


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 2 * * *", 'use "0 2 * * *"'),
        ("0 0 2 * * ? 2030", 'use "0 2 * * ?"'),
        ("nonsense", "must have five fields; got 1"),
        ("0 25 * * *", "The hour of a cron expression"),
    ],
)
def test_wrong_cron_expression_is_reported_before_any_request(
    api: KfpApi, cron: str, message: str
) -> None:
    result = apply(api, "--cron", cron)

    assert result.exit_code == 2
    assert message in result.errors
    assert api.requests == []


def test_wrong_parameters_are_reported_before_any_request(api: KfpApi) -> None:
    result = apply(api, *NIGHTLY, "-p", "epoch=1", "--batch-size", "0")

    assert result.exit_code == 2
    assert "Did you mean epochs?" in result.errors
    assert "batch_size must lie" in result.errors
    assert api.requests == []


def test_interrupted_apply_is_completed_by_the_next_one(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.answers = [("POST", ":disable$", plain("server is shutting down", status=500))]
    interrupted = apply(api, *WEEKLY)
    assert interrupted.exit_code == 1
    assert "Cannot pause the schedule nightly" in interrupted.errors
    assert [known["status"] for known in api.store.schedules.values()] == ["ENABLED", "ENABLED"]

    result = apply(api, *WEEKLY)

    assert result.output.startswith("nightly: unchanged\n")
    assert only_schedule(api)["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"


def test_failed_apply_keeps_the_old_schedule(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    before = only_schedule(api)
    api.answers = [("POST", "recurringruns$", plain("no", status=500))]

    assert apply(api, *WEEKLY).exit_code == 1

    assert only_schedule(api) == before


def test_replacing_a_schedule_keeps_its_active_run(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.store.fire(only_schedule(api)["recurring_run_id"])

    assert apply(api, *WEEKLY).output.startswith("nightly: replaced\n")

    assert api.store.killed_runs == []
    assert len(api.store.schedules) == 1


def test_with_unknown_version_the_replaced_schedule_is_deleted_after_its_run(api: KfpApi) -> None:
    hide_old_version(api)
    assert apply(api, *NIGHTLY).exit_code == 0
    old = only_schedule(api)["recurring_run_id"]
    run_id = api.store.fire(old)

    result = apply(api, *WEEKLY)

    assert result.exit_code == 0
    assert f"{old} is paused while its run is in progress" in result.output
    assert api.store.schedules[old]["status"] == "DISABLED"
    assert "replaced" in schedule(api, "list").output
    # The name refers to the new schedule, also after more changes to it.
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


def test_with_unknown_version_deleting_a_schedule_with_an_active_run_pauses_it(api: KfpApi) -> None:
    hide_old_version(api)
    assert apply(api, *NIGHTLY).exit_code == 0
    run_id = api.store.fire(only_schedule(api)["recurring_run_id"])

    result = schedule(api, "delete", "nightly")

    assert result.exit_code == 1
    assert f"paused, not deleted: its run {run_id} is active" in result.errors
    assert only_schedule(api)["status"] == "DISABLED"
    api.store.set_run(run_id, "FAILED")
    assert schedule(api, "delete", "nightly").exit_code == 0
    assert api.store.schedules == {}
    assert api.store.killed_runs == []


def test_delete_keeps_the_active_run(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    api.store.fire(only_schedule(api)["recurring_run_id"])

    assert schedule(api, "delete", "nightly").output == "nightly: deleted\n"

    assert api.store.schedules == {}
    assert api.store.killed_runs == []


def test_duplicate_name_is_reported_with_the_ids(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    first = only_schedule(api)
    second = api.store.create_schedule({**first, "mode": "ENABLE"})
    take_writes(api)

    for result in (
        apply(api, *NIGHTLY),
        schedule(api, "pause", "nightly"),
        schedule(api, "delete", "nightly"),
    ):
        assert result.exit_code == 2
        assert first["recurring_run_id"] in result.errors
        assert second["recurring_run_id"] in result.errors
        assert "repot schedule delete nightly --id ID" in result.errors
    assert [write for write in take_writes(api) if "recurringruns" in write] == []

    assert schedule(api, "delete", "nightly", "--id", second["recurring_run_id"]).exit_code == 0
    assert only_schedule(api) == first


def test_schedule_that_repot_did_not_create_is_not_replaced(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    only_schedule(api)["description"] = "made by hand"

    result = apply(api, *WEEKLY)

    assert result.exit_code == 2
    assert "was not created by repot" in result.errors
    assert only_schedule(api)["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"


def test_pause_and_resume(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0

    assert schedule(api, "pause", "nightly").output == "nightly: paused\n"
    assert only_schedule(api)["status"] == "DISABLED"
    assert schedule(api, "resume", "nightly").output == "nightly: resumed\n"
    assert only_schedule(api)["status"] == "ENABLED"


@pytest.mark.parametrize("command", ["pause", "resume", "delete", "run-now"])
def test_unknown_name_is_reported_with_the_existing_names(api: KfpApi, command: str) -> None:
    assert "No schedules exist." in schedule(api, command, "nightly").errors
    for name in ("weekly", "hourly"):
        assert apply(api, *NIGHTLY, name=name).exit_code == 0

    result = schedule(api, command, "nightly")

    assert result.exit_code == 2
    assert "There is no schedule nightly. Existing schedules: hourly, weekly." in result.errors


def test_run_now_starts_the_same_run_as_the_schedule(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY, "--epochs", "2", "--service-account", "robot").exit_code == 0

    result = schedule(api, "run-now", "nightly")

    assert result.exit_code == 0, result.errors
    (run,) = api.store.runs.values()
    made = only_schedule(api)
    for field in (
        "runtime_config",
        "pipeline_version_reference",
        "experiment_id",
        "service_account",
    ):
        assert run[field] == made[field]
    assert run["display_name"].startswith("nightly ")
    assert run["run_id"] in result.output


def test_run_now_is_rejected_while_a_run_is_active(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    run_id = api.store.fire(only_schedule(api)["recurring_run_id"])

    result = schedule(api, "run-now", "nightly")

    assert result.exit_code == 1
    assert f"is already running: {run_id}" in result.errors
    api.store.set_run(run_id, "SUCCEEDED")
    assert schedule(api, "run-now", "nightly").exit_code == 0


@pytest.mark.parametrize("flags", [(), ("--follow-latest",)])
def test_run_now_is_rejected_while_its_own_run_is_active(
    api: KfpApi, flags: tuple[str, ...]
) -> None:
    assert apply(api, *NIGHTLY, *flags).exit_code == 0
    assert schedule(api, "run-now", "nightly").exit_code == 0
    (run_id,) = api.store.runs

    result = schedule(api, "run-now", "nightly")

    assert result.exit_code == 1
    assert f"is already running: {run_id}" in result.errors
    assert set(api.store.runs) == {run_id}


def test_list_shows_the_schedules_of_all_pages(api: KfpApi) -> None:
    assert apply(api, *NIGHTLY).exit_code == 0
    made = only_schedule(api)
    for number in range(130):
        api.store.create_schedule(
            {**made, "display_name": f"other-{number:03}", "description": "", "mode": "DISABLE"}
        )

    lines = schedule(api, "list").output.splitlines()

    assert lines[0].split() == ["NAME", "STATE", "CRON", "VERSION", "ID"]
    assert len(lines) == 1 + 131
    assert lines[1].split()[:2] == ["nightly", "enabled"]
    assert "0 2 * * *" in lines[1]
    assert lines[2].split()[:2] == ["other-000", "paused"]


def test_names_with_special_characters_are_found(api: KfpApi) -> None:
    name = "a+b 100% é"

    assert apply(api, *NIGHTLY, name=name).exit_code == 0
    assert apply(api, *NIGHTLY, name=name).output.startswith(f"{name}: unchanged\n")
    assert apply(api, *NIGHTLY, name=name.upper()).output.startswith(f"{name.upper()}: created\n")
    assert schedule(api, "delete", name).exit_code == 0


def test_unreachable_server_is_one_line_of_error() -> None:
    result = run_repot("schedule", "list", "--host", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert len(result.errors.splitlines()) == 1
