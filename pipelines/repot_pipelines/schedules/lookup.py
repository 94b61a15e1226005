"""Find schedules by name, and tell the current one from those that it replaced.

KFP has no unique names for schedules. So repot writes a note into the description of every schedule
that it creates: a digest of its spec, and the ids of the schedules that it replaces.
"""

import re
from collections.abc import Sequence

from repot.errors import UsageError
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.server import Server, name_filter

_NOTE = re.compile(r"\[repot digest=(?P<digest>\w+)(?: replaces=(?P<replaces>\S+))?\]")


def list_schedules(server: Server) -> list[ApiObject]:
    """Return every schedule of the namespace, sorted by name."""
    found = server.list_all(
        "list the schedules",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=server.namespace,
    )
    return sorted(found, key=lambda schedule: (schedule.display_name, schedule.created_at))


def schedules_named(server: Server, name: str) -> list[ApiObject]:
    """Return every schedule with this name, replaced ones included."""
    found = server.list_all(
        "look up the schedule",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=server.namespace,
        filter=name_filter(name),
    )
    return [schedule for schedule in found if schedule.display_name == name]


def find_schedule(server: Server, name: str, schedule_id: str = "") -> ApiObject:
    """Return the current schedule with this name.

    Args:
        server: The server.
        name: Name of the schedule.
        schedule_id: Id of the schedule, if several have the name.

    Raises:
        UsageError: There is no such schedule, or there are several and `schedule_id` is not set.
    """
    found = schedules_named(server, name)
    if schedule_id:
        found = [schedule for schedule in found if schedule.recurring_run_id == schedule_id]
    current = current_schedule(found, name)
    if current is None:
        names = sorted({str(schedule.display_name) for schedule in list_schedules(server)})
        which = f"{name} with the id {schedule_id}" if schedule_id else name
        existing = f"Existing schedules: {', '.join(names)}." if names else "No schedules exist."
        raise UsageError(f"There is no schedule {which}. {existing}")
    return current


def current_schedule(found: Sequence[ApiObject], name: str) -> ApiObject | None:
    """Return the one schedule that no other schedule replaces, or None.

    Args:
        found: Every schedule with the name.
        name: The name, for the message.

    Raises:
        UsageError: There are several.
    """
    replaced = replaced_ids(found)
    current = [schedule for schedule in found if schedule.recurring_run_id not in replaced]
    if len(current) > 1:
        ids = ", ".join(
            f"{schedule.recurring_run_id} ({str(schedule.status).lower()}, "
            f"created {schedule.created_at:%Y-%m-%d %H:%M})"
            for schedule in current
        )
        raise UsageError(
            f"A schedule's name must be unique; {len(current)} schedules are named {name}: {ids}. "
            f"Delete all but one: `repot schedule delete {name} --id ID`."
        )
    return current[0] if current else None


def replaced_ids(schedules: Sequence[ApiObject]) -> set[str]:
    """Return the ids of all schedules that these schedules replace."""
    notes = [_NOTE.search(schedule.description or "") for schedule in schedules]
    return {
        schedule_id
        for note in notes
        if note and note["replaces"]
        for schedule_id in note["replaces"].split(",")
    }


def format_note(digest: str, replaced: Sequence[ApiObject]) -> str:
    """Return the note for a schedule with this spec digest that replaces other schedules."""
    ids = ",".join(str(schedule.recurring_run_id) for schedule in replaced)
    return f"[repot digest={digest} replaces={ids}]" if ids else f"[repot digest={digest}]"


def read_digest(schedule: ApiObject) -> str:
    """Return the spec digest in a schedule's note; "" if repot did not create the schedule."""
    note = _NOTE.search(schedule.description or "")
    return note["digest"] if note else ""
