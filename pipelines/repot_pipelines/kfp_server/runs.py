"""Runs on the server: start one, look at one, list those that a schedule started."""

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot_pipelines.kfp_server.registry import Version, ensure_experiment, ensure_version
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.run_request import Request

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
FINAL_STATES = (SUCCEEDED, FAILED, CANCELED, SKIPPED)
"""A run in any other state, or in none yet, is not over."""
_STOPPING = "CANCELING"
_NUM_LOOKED_AT = 100


def start_run(
    server: Server,
    source: Version | dict[str, Any],
    values: dict[str, Any],
    *,
    name: str,
    experiment_id: str,
    pipeline_root: str = "",
    service_account: str = "",
) -> str:
    """Start a run and return its id.

    Args:
        server: The server.
        source: A version on the server (without `version_id`: the latest one), or what `uncached_spec` returned.
        values: Parameters by name, in the pipeline's types.
        name: The run's name, for people.
        experiment_id: The experiment.
        pipeline_root: Where KFP's own small artifacts go; "" for the server's default.
        service_account: Kubernetes service account of the pods; "" for the server's default.
    """
    models = server.client.api_models
    is_version = isinstance(source, Version)
    run = models.V2beta1Run(
        display_name=name,
        experiment_id=experiment_id,
        pipeline_version_reference=version_reference(server, source)
        if isinstance(source, Version)
        else None,
        pipeline_spec=None if is_version else source,
        runtime_config=models.V2beta1RuntimeConfig(
            parameters=values, pipeline_root=pipeline_root or None
        ),
        service_account=service_account or None,
    )
    create = server.client.runs.run_service_create_run
    return str(server.call(f"start the run {name}", create, run=run).run_id)


def get_run(server: Server, run_id: str) -> Any:
    """Return the server's view of a run: its state, and the state of its tasks.

    Raises:
        MissingError: There is no such run, or none any more.
    """
    return server.call(
        f"read the run {run_id}", server.client.runs.run_service_get_run, run_id=run_id
    )


def read_spec(server: Server, run: Any) -> dict[str, Any]:
    """Return the pipeline spec that a run was started from."""
    reference = run.pipeline_version_reference
    spec = run.pipeline_spec
    if reference is not None and reference.pipeline_version_id:
        spec = server.call(
            "read the pipeline version",
            server.client.pipelines.pipeline_service_get_pipeline_version,
            pipeline_id=reference.pipeline_id,
            pipeline_version_id=reference.pipeline_version_id,
        ).pipeline_spec
    # With platform settings the spec is one of two members.
    return dict((spec or {}).get("pipeline_spec", spec or {}))


def open_runs(server: Server, schedule: Any) -> Iterator[Any]:
    """Yield the runs of a schedule that are not over.

    Args:
        server: The server.
        schedule: The server's recurring run.
    """
    runs = server.list_all(
        "list the runs of the schedule",
        server.client.runs.run_service_list_runs,
        "runs",
        experiment_id=schedule.experiment_id,
        sort_by="created_at desc",
    )
    for run in runs:
        if run.created_at < schedule.created_at:
            return  # older than the schedule, like all that follow
        if run.recurring_run_id == schedule.recurring_run_id and run.state not in FINAL_STATES:
            yield run


def find_open_run(
    server: Server, version: Version, values: dict[str, Any], *, experiment_id: str
) -> Any | None:
    """Return the newest run of a version with these parameters that is not over; None where there is none.

    Two of them at a time would train the same version at the same time.

    Args:
        server: The server.
        version: The version; without `version_id` any version of its pipeline.
        values: The parameters that were given.
        experiment_id: The experiment that is looked through, the newest runs first.
    """

    def is_same(run: Any) -> bool:
        reference, config = run.pipeline_version_reference, run.runtime_config
        return (
            reference is not None
            and reference.pipeline_id == version.pipeline_id
            and version.version_id in ("", reference.pipeline_version_id)
            and ((config and config.parameters) or {}) == values
        )

    runs = server.list_all(
        "list the runs",
        server.client.runs.run_service_list_runs,
        "runs",
        experiment_id=experiment_id,
        sort_by="created_at desc",
    )
    newest = itertools.islice(runs, _NUM_LOOKED_AT)
    return next(
        (run for run in newest if run.state not in (*FINAL_STATES, _STOPPING) and is_same(run)),
        None,
    )


def version_reference(server: Server, version: Version) -> Any:
    """Return the reference to a version; without its id the server takes the latest at every start."""
    return server.client.api_models.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id or None
    )


def uncached_spec(path: Path) -> dict[str, Any]:
    """Return a compiled pipeline, every task's cache switched off, as the body of a run.

    KFP's client switches it off in the tasks at the top only, and a version on the server cannot be changed at all.
    """
    spec: dict[str, Any]
    spec, *platforms = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "cachingOptions" in task:
                task["cachingOptions"] = {}
    return {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else spec


def run_name(prefix: str, now: datetime.datetime) -> str:
    """Return a run's name that sorts by time."""
    return f"{prefix} {now:%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StartOptions:
    """How a run is started.

    Attributes:
        experiment: The experiment's name.
        run_name: The run's name; "" for the model's name and the time.
        pipeline_name: The pipeline's name on the server; "" for its own.
        version_name: The version's name; "" for repot's version and the YAML's digest.
        service_account: Kubernetes service account of the pods; "" for the server's default.
        pipeline_root: Where KFP's own small artifacts go; "" for the server's default.
        use_cache: Whether finished tasks of earlier runs are taken over.
    """

    experiment: str = "repot"
    run_name: str = ""
    pipeline_name: str = ""
    version_name: str = ""
    service_account: str = ""
    pipeline_root: str = ""
    use_cache: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What was started.

    Attributes:
        run_id: The run.
        name: Its name.
        version: The version that it runs; None for a run without the cache, which carries its pipeline with it.
    """

    run_id: str
    name: str
    version: Version | None


def submit(server: Server, request: Request, options: StartOptions) -> Submitted:
    """Start a run of the request; pipeline, version and experiment are made where they are missing.

    Raises:
        ServerError: The server refused. What was made before stays and is used by the next try.
    """
    version = ensure_server_version(server, request, options) if options.use_cache else None
    experiment_id = ensure_experiment(server, options.experiment)
    name = options.run_name or default_run_name(request)
    run_id = start_run(
        server,
        version or uncached_spec(request.path),
        request.given,
        name=name,
        experiment_id=experiment_id,
        pipeline_root=options.pipeline_root,
        service_account=options.service_account,
    )
    return Submitted(run_id=run_id, name=name, version=version)


def ensure_server_version(server: Server, request: Request, options: StartOptions) -> Version:
    """Return the request's version on the server; upload it where it is missing."""
    return ensure_version(
        server,
        request.path,
        pipeline_name=options.pipeline_name or request.pipeline_name,
        name=options.version_name,
    )


def default_run_name(request: Request) -> str:
    """Return the model's name and the time."""
    return run_name(
        str(request.values.get("model_name", "repot")), datetime.datetime.now().astimezone()
    )
