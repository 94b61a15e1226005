"""Submit a run request: upload the pipeline version, ensure the experiment, start the run."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import yaml

from repot_pipelines import defaults
from repot_pipelines.compiled import PipelineSpec
from repot_pipelines.kfp_server.registry import PipelineVersion, ensure_experiment, ensure_version
from repot_pipelines.kfp_server.runs import start_run
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.run_request import RunRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class StartOptions:
    """How to start a run.

    Attributes:
        experiment: Name of the experiment.
        run_name: Name of the run; "" for the model's name and the time.
        pipeline_name: Name of the pipeline on the server; "" for the compiled pipeline's own name.
        version_name: Name of the version; "" for repot's version and the YAML file's digest.
        service_account: Kubernetes service account of the pods; "" for the server's default.
        pipeline_root: URI for KFP's own small artifacts; "" for the server's default.
        use_cache: Whether to reuse the finished tasks of earlier runs.
    """

    experiment: str = defaults.EXPERIMENT
    run_name: str = ""
    pipeline_name: str = ""
    version_name: str = ""
    service_account: str = ""
    pipeline_root: str = ""
    use_cache: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedRun:
    """A run that was started.

    Attributes:
        run_id: Id of the run.
        name: Name of the run.
        version: Its pipeline version; None for a run without the cache, which carries the pipeline.
    """

    run_id: str
    name: str
    version: PipelineVersion | None


def submit(
    server: Server,
    request: RunRequest,
    options: StartOptions,
    *,
    version: PipelineVersion | None = None,
) -> SubmittedRun:
    """Start a run of the request; create pipeline, version and experiment if they are missing.

    Args:
        server: The server.
        request: Pipeline and parameters.
        options: How to start the run.
        version: What `ensure_request_version` has returned; None if it has not been called.

    Raises:
        ServerError: A call failed. What was created before stays, and the next attempt uses it.
    """
    if version is None and options.use_cache:
        version = ensure_request_version(server, request, options)
    experiment_id = ensure_experiment(server, options.experiment)
    name = options.run_name or timestamped_name(str(request.values.get("model_name", "repot")))
    run_id = start_run(
        server,
        version or _uncached_spec(request.path),
        request.sent,
        name=name,
        experiment_id=experiment_id,
        pipeline_root=options.pipeline_root,
        service_account=options.service_account,
    )
    return SubmittedRun(run_id=run_id, name=name, version=version)


def ensure_request_version(
    server: Server, request: RunRequest, options: StartOptions
) -> PipelineVersion:
    """Return the request's pipeline version on the server; upload it if it is missing."""
    return ensure_version(
        server,
        request.path,
        pipeline_name=options.pipeline_name or request.pipeline_name,
        name=options.version_name,
    )


def timestamped_name(prefix: str) -> str:
    """Return a run name that sorts by time, e.g. "flowers 2026-03-01 02:00:00"."""
    return f"{prefix} {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


def _uncached_spec(path: Path) -> PipelineSpec:
    """Return a compiled pipeline with caching disabled for every task.

    kfp.Client disables caching for top-level tasks only, and a version on the server is immutable.
    """
    spec: PipelineSpec
    spec, *platforms = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "cachingOptions" in task:
                task["cachingOptions"] = {}
    return {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else spec
