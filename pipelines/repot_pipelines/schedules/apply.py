"""Make the schedule with a given name match its spec.

KFP cannot update a schedule. So the new one is created first, and the old one is deleted after
that: at every moment there is at least one, and the next apply completes an interrupted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from repot.errors import UsageError
from repot.layout import content_id
from repot.settings import ParameterValues
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.registry import PipelineVersion
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.schedules.actions import ENABLED, retire_schedules
from repot_pipelines.schedules.cron import Cron
from repot_pipelines.schedules.lookup import (
    current_schedule,
    format_note,
    read_digest,
    schedules_named,
)

CREATED, REPLACED, UNCHANGED = "created", "replaced", "unchanged"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec:
    """What a schedule runs, and when.

    Attributes:
        name: Name of the schedule.
        cron: When it starts a run.
        version: The pipeline version; without `version_id` the latest one at every start.
        values: Parameter values by name, in the pipeline's types.
        experiment_id: Id of the experiment of its runs.
        pipeline_root: URI for KFP's own small artifacts; "" for the server's default.
        service_account: Kubernetes service account of the pods; "" for the server's default.
    """

    name: str
    cron: Cron
    version: PipelineVersion
    values: ParameterValues
    experiment_id: str
    pipeline_root: str = ""
    service_account: str = ""

    @property
    def digest(self) -> str:
        """Return a digest of everything except the name; equal specs have equal digests."""
        return content_id(
            [
                self.cron.kfp_expression,
                self.version.pipeline_id,
                self.version.version_id,
                dict(self.values),
                self.experiment_id,
                self.pipeline_root,
                self.service_account,
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyResult:
    """What `apply_schedule` did.

    Attributes:
        action: CREATED, REPLACED or UNCHANGED.
        schedule: The current schedule, a recurring run of the server.
        not_deleted: Replaced schedules that are paused until their active run ends.
    """

    action: str
    schedule: ApiObject
    not_deleted: tuple[ApiObject, ...]


def apply_schedule(server: Server, spec: ScheduleSpec) -> ApplyResult:
    """Create or replace the schedule; do nothing if it matches the spec already.

    A new schedule that replaces a paused one is paused too.

    Raises:
        UsageError: Several schedules have the name, or the one that has it is not repot's.
        ServerError: A call failed; the old schedule is still there.
    """
    found = schedules_named(server, spec.name)
    current = current_schedule(found, spec.name)
    if current is not None and not read_digest(current):
        raise UsageError(
            f"The schedule {spec.name} ({current.recurring_run_id}) was not created by repot. "
            f"Use another name, or delete it first: `repot schedule delete {spec.name}`."
        )
    if current is not None and read_digest(current) == spec.digest:
        older = [schedule for schedule in found if schedule is not current]
        return ApplyResult(
            action=UNCHANGED, schedule=current, not_deleted=retire_schedules(server, older)
        )
    is_enabled = current is None or current.status == ENABLED
    created = _create(server, spec, replaced=found, is_enabled=is_enabled)
    return ApplyResult(
        action=CREATED if current is None else REPLACED,
        schedule=created,
        not_deleted=retire_schedules(server, found),
    )


def _create(
    server: Server, spec: ScheduleSpec, *, replaced: Sequence[ApiObject], is_enabled: bool
) -> ApiObject:
    models = server.client.api_models
    note = format_note(spec.digest, replaced)
    schedule = models.V2beta1RecurringRun(
        display_name=spec.name,
        description=f"Created by `repot schedule apply {spec.name}`; change it there. {note}",
        experiment_id=spec.experiment_id,
        namespace=server.namespace or None,
        mode=models.RecurringRunMode.ENABLE if is_enabled else models.RecurringRunMode.DISABLE,
        trigger=models.V2beta1Trigger(
            cron_schedule=models.V2beta1CronSchedule(cron=spec.cron.kfp_expression)
        ),
        no_catchup=True,
        max_concurrency="1",
        pipeline_version_reference=spec.version.to_api(server),
        runtime_config=models.V2beta1RuntimeConfig(
            parameters=dict(spec.values), pipeline_root=spec.pipeline_root or None
        ),
        service_account=spec.service_account or None,
    )
    create = server.client.recurring_runs.recurring_run_service_create_recurring_run
    return server.call(f"create the schedule {spec.name}", create, recurring_run=schedule)
