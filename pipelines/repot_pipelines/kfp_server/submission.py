"""Submit: the version on the server, the experiment, the run."""

import datetime
from dataclasses import dataclass

from repot_pipelines.kfp_server.registry import Version, ensure_experiment, ensure_version
from repot_pipelines.kfp_server.request import Request
from repot_pipelines.kfp_server.runs import run_name, start_run, uncached_spec
from repot_pipelines.kfp_server.server import Server


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
    return run_name(str(request.values.get("model_name", "repot")), datetime.datetime.now().astimezone())
