"""The schedules of a server by name: which one is in force, and which ones it replaced.

KFP's names are not unique. A note in the description tells what a schedule was made from, and which ones it replaces.
"""

import re
from collections.abc import Sequence
from typing import Any

from repot.errors import UsageError
from repot_pipelines.kfp_server.server import Server, named

_NOTE = re.compile(r"\[repot digest=(?P<digest>\w+)(?: replaces=(?P<replaces>\S+))?\]")


def list_schedules(server: Server) -> list[Any]:
    """Return every schedule of the namespace, by name."""
    found = server.list_all(
        "list the schedules",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=server.namespace,
    )
    return sorted(found, key=lambda schedule: (schedule.display_name, schedule.created_at))


def find_schedule(server: Server, name: str, schedule_id: str = "") -> Any:
    """Return the schedule in force of a name.

    Args:
        server: The server.
        name: Its name.
        schedule_id: Which one, where several have the name.

    Raises:
        UsageError: There is none, or there are several and the id tells none of them.
    """
    found = schedules_named(server, name)
    if schedule_id:
        found = [schedule for schedule in found if schedule.recurring_run_id == schedule_id]
    current = in_force(found, name)
    if current is None:
        names = ", ".join(
            sorted({str(schedule.display_name) for schedule in list_schedules(server)})
        )
        which = f"{name} with the id {schedule_id}" if schedule_id else name
        raise UsageError(
            f"There is no schedule {which}. {f'The names are: {names}.' if names else 'There is none at all.'}"
        )
    return current


def schedules_named(server: Server, name: str) -> list[Any]:
    """Return every schedule of a name."""
    found = server.list_all(
        "look for the schedule",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        namespace=server.namespace,
        filter=named(name),
    )
    return [schedule for schedule in found if schedule.display_name == name]


def in_force(found: Sequence[Any], name: str) -> Any:
    """Return the one schedule that no other one replaces; None where there is none.

    Args:
        found: Every schedule of a name.
        name: The name.

    Raises:
        UsageError: There are several.
    """
    replaced = {identifier for schedule in found for identifier in replaced_by(schedule)}
    current = [schedule for schedule in found if schedule.recurring_run_id not in replaced]
    if len(current) > 1:
        ids = ", ".join(
            f"{schedule.recurring_run_id} ({str(schedule.status).lower()}, made {schedule.created_at:%Y-%m-%d %H:%M})"
            for schedule in current
        )
        raise UsageError(
            f"A schedule's name must be its own; {len(current)} are called {name}: {ids}. "
            f"Delete all but one: `repot schedule delete {name} --id ID`."
        )
    return current[0] if current else None


def write_note(digest: str, replaced: Sequence[Any]) -> str:
    """Return the note for a schedule that was made from what has this digest and replaces those."""
    ids = ",".join(str(schedule.recurring_run_id) for schedule in replaced)
    return f"[repot digest={digest} replaces={ids}]" if ids else f"[repot digest={digest}]"


def read_digest(schedule: Any) -> str:
    """Return the digest that a schedule was made from; "" where repot did not make it."""
    note = _NOTE.search(schedule.description or "")
    return note["digest"] if note else ""


def replaced_by(schedule: Any) -> list[str]:
    """Return the ids of the schedules that this one replaces."""
    note = _NOTE.search(schedule.description or "")
    return note["replaces"].split(",") if note and note["replaces"] else []
