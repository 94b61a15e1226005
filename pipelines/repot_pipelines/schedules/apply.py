"""Make the schedule of a name what it should be.

KFP has no update. So the new schedule is made first and the old one taken away after that: at no moment is there
none, and an apply that was cut off is finished by the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repot.errors import UsageError
from repot.layout import content_id
from repot_pipelines.kfp_server.registry import Version
from repot_pipelines.kfp_server.runs import version_reference
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.schedules.actions import ENABLED, take_away
from repot_pipelines.schedules.cron import Cron
from repot_pipelines.schedules.lookup import in_force, read_digest, schedules_named, write_note

MADE, REPLACED, UNCHANGED = "made", "replaced", "unchanged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a schedule should be.

    Attributes:
        name: Its name.
        cron: When it fires.
        version: The pipeline version; without `version_id` the latest one at every start.
        values: Parameters by name, in the pipeline's types.
        experiment_id: The experiment of its runs.
        pipeline_root: Where KFP's own small artifacts go; "" for the server's default.
        service_account: Kubernetes service account of the pods; "" for the server's default.
    """

    name: str
    cron: Cron
    version: Version
    values: dict[str, Any]
    experiment_id: str
    pipeline_root: str = ""
    service_account: str = ""

    @property
    def digest(self) -> str:
        """Return the same text for the same schedule."""
        facts = (self.cron.for_kfp, self.version.pipeline_id, self.version.version_id, self.values)
        return content_id([*facts, self.experiment_id, self.pipeline_root, self.service_account])


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What `apply` did.

    Attributes:
        action: made, replaced or unchanged.
        schedule: The server's recurring run that is in force.
        lingering: Older ones that are paused and wait for their run to end.
    """

    action: str
    schedule: Any
    lingering: tuple[Any, ...]


def apply_schedule(server: Server, wanted: Wanted) -> Applied:
    """Make the server's schedule of that name what it should be; nothing happens where it is so already.

    Args:
        server: The server.
        wanted: The schedule.

    Raises:
        UsageError: Two schedules have the name, or the one that has it was not made by repot.
        ServerError: The server refused; the schedule that was there is still in force.
    """
    found = schedules_named(server, wanted.name)
    current = in_force(found, wanted.name)
    if current is not None and not read_digest(current):
        raise UsageError(
            f"The schedule {wanted.name} ({current.recurring_run_id}) was not made by repot. Take another name, or "
            f"delete it first: `repot schedule delete {wanted.name}`."
        )
    if current is not None and read_digest(current) == wanted.digest:
        older = [schedule for schedule in found if schedule is not current]
        return Applied(action=UNCHANGED, schedule=current, lingering=take_away(server, older))
    made = _make(
        server, wanted, replaced=found, enabled=current is None or current.status == ENABLED
    )
    action = MADE if current is None else REPLACED
    return Applied(action=action, schedule=made, lingering=take_away(server, found))


def _make(server: Server, wanted: Wanted, *, replaced: Sequence[Any], enabled: bool) -> Any:
    models, note = server.client.api_models, write_note(wanted.digest, replaced)
    schedule = models.V2beta1RecurringRun(
        display_name=wanted.name,
        description=f"Made by `repot schedule apply {wanted.name}`: change it there. {note}",
        experiment_id=wanted.experiment_id,
        namespace=server.namespace or None,
        mode=models.RecurringRunMode.ENABLE if enabled else models.RecurringRunMode.DISABLE,
        trigger=models.V2beta1Trigger(
            cron_schedule=models.V2beta1CronSchedule(cron=wanted.cron.for_kfp)
        ),
        no_catchup=True,
        max_concurrency="1",
        pipeline_version_reference=version_reference(server, wanted.version),
        runtime_config=models.V2beta1RuntimeConfig(
            parameters=wanted.values, pipeline_root=wanted.pipeline_root or None
        ),
        service_account=wanted.service_account or None,
    )
    create = server.client.recurring_runs.recurring_run_service_create_recurring_run
    return server.call(f"make the schedule {wanted.name}", create, recurring_run=schedule)
