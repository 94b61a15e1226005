"""Runs on the server: start one, read its state and spec, find the active ones."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from repot.settings import ParameterValues
from repot_pipelines.compiled import PipelineSpec
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import UnreachableError
from repot_pipelines.kfp_server.registry import PipelineVersion, get_version
from repot_pipelines.kfp_server.server import Server

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
FINAL_STATES = (SUCCEEDED, FAILED, CANCELED, SKIPPED)
"""A run in any other state, or without one, is active."""
CANCELING = "CANCELING"

_MAX_SEARCHED_RUNS = 100


def start_run(
    server: Server,
    pipeline: PipelineVersion | PipelineSpec,
    values: ParameterValues,
    *,
    name: str,
    experiment_id: str,
    pipeline_root: str = "",
    service_account: str = "",
) -> str:
    """Start a run and return its id.

    Args:
        server: The server.
        pipeline: A version on the server, or a spec that the run carries itself.
        values: Parameter values by name, in the pipeline's types.
        name: Display name of the run.
        experiment_id: Id of the experiment.
        pipeline_root: URI for KFP's own small artifacts; "" for the server's default.
        service_account: Kubernetes service account of the pods; "" for the server's default.

    Raises:
        ServerError: The server did not start the run; or, if it is an UnreachableError, it may have
            started the run, and its answer is lost.
    """
    models = server.client.api_models
    is_version = isinstance(pipeline, PipelineVersion)
    run = models.V2beta1Run(
        display_name=name,
        experiment_id=experiment_id,
        pipeline_version_reference=pipeline.to_api(server)
        if isinstance(pipeline, PipelineVersion)
        else None,
        pipeline_spec=None if is_version else pipeline,
        runtime_config=models.V2beta1RuntimeConfig(
            parameters=dict(values), pipeline_root=pipeline_root or None
        ),
        service_account=service_account or None,
    )
    create = server.client.runs.run_service_create_run
    try:
        return str(server.call(f"start the run {name}", create, run=run).run_id)
    except UnreachableError as err:
        raise UnreachableError(
            f"{err} It may have started the run all the same: look for it in the UI before you try "
            "again, and follow it with `repot submit --attach RUN_ID`."
        ) from err


def get_run(server: Server, run_id: str) -> ApiObject:
    """Return a run with its state and the state of its tasks.

    Raises:
        MissingObjectError: There is no such run, or it was deleted.
    """
    return server.call(
        f"read the run {run_id}", server.client.runs.run_service_get_run, run_id=run_id
    )


def terminate_run(server: Server, run_id: str) -> None:
    """End an active run; its finished work is kept."""
    method = server.client.runs.run_service_terminate_run
    server.call(f"terminate the run {run_id}", method, run_id=run_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowPod:
    """A pod in the server's copy of a run's Argo workflow; the pod itself may be gone.

    Attributes:
        name: Name of the pod.
        path: Path of its node, e.g. "repot-x7k2p.root.train.executor".
        phase: Argo's phase of the node: Pending, Running, Succeeded, Failed, Error, ...
        message: Why it is in that phase, according to Argo; "" if Argo says nothing.
    """

    name: str
    path: str
    phase: str
    message: str


def list_workflow_pods(server: Server, run_id: str) -> list[WorkflowPod]:
    """Return the pods of a run's workflow; none if the server does not return the workflow.

    Only the old API does: `GetRunV1` in backend/src/apiserver/server/run_server.go of KFP 2.16 and
    2.17.
    """
    text = server.get_text(f"/apis/v1beta1/runs/{run_id}", {})
    try:
        workflow = json.loads(json.loads(text)["pipeline_runtime"]["workflow_manifest"])
        workflow_name = workflow["metadata"]["name"]
        return [
            WorkflowPod(
                name=f"{workflow_name}-{node['templateName']}-{node['id'].rpartition('-')[2]}",
                path=node["name"],
                phase=node.get("phase", ""),
                message=str(node.get("message") or ""),
            )
            for node in workflow["status"]["nodes"].values()
            if node.get("type") == "Pod"
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def get_pipeline_spec(server: Server, run: ApiObject) -> PipelineSpec:
    """Return the pipeline spec of a run.

    Raises:
        MissingObjectError: The run's pipeline version was deleted.
    """
    reference = run.pipeline_version_reference
    spec = run.pipeline_spec
    if reference is not None and reference.pipeline_version_id:
        version = get_version(server, reference.pipeline_id, reference.pipeline_version_id)
        spec = version.pipeline_spec
    spec = spec or {}
    # With platform settings the spec is nested: {"pipeline_spec": ..., "platform_spec": ...}.
    return dict(spec.get("pipeline_spec", spec))


def active_runs_of_schedule(server: Server, schedule: ApiObject) -> Iterator[ApiObject]:
    """Yield the active runs that a recurring run started."""
    for run in _runs_newest_first(server, schedule.experiment_id):
        if run.created_at < schedule.created_at:
            return  # this run and all that follow are older than the schedule
        if run.recurring_run_id == schedule.recurring_run_id and run.state not in FINAL_STATES:
            yield run


def find_active_run(
    server: Server, version: PipelineVersion, values: ParameterValues, *, experiment_id: str
) -> ApiObject | None:
    """Return the newest active run of a version with the same parameter values, or None.

    Two such runs would train the same model version at the same time.

    Args:
        server: The server.
        version: The pipeline version; without `version_id` any version of its pipeline.
        values: Parameter values as they were sent, without the pipeline's defaults.
        experiment_id: Id of the experiment; its newest 100 runs are searched.
    """

    def is_same(run: ApiObject) -> bool:
        reference, config = run.pipeline_version_reference, run.runtime_config
        return (
            reference is not None
            and reference.pipeline_id == version.pipeline_id
            and version.version_id in ("", reference.pipeline_version_id)
            and ((config and config.parameters) or {}) == values
        )

    newest = itertools.islice(_runs_newest_first(server, experiment_id), _MAX_SEARCHED_RUNS)
    active = (run for run in newest if run.state not in (*FINAL_STATES, CANCELING))
    return next(filter(is_same, active), None)


def _runs_newest_first(server: Server, experiment_id: str) -> Iterator[ApiObject]:
    return server.list_all(
        "list the runs",
        server.client.runs.run_service_list_runs,
        "runs",
        experiment_id=experiment_id,
        sort_by="created_at desc",
    )
