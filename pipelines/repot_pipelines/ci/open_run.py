"""The run that an earlier job of the same commit started and that is still going on: a job started again follows it.

Two runs of the same parameters would train the same version at the same time.
"""

import itertools
from typing import Any

from repot_pipelines.kfp_server.registry import Version, ensure_experiment
from repot_pipelines.kfp_server.request import Request
from repot_pipelines.kfp_server.runs import FINAL_STATES
from repot_pipelines.kfp_server.server import Server

_NUM_LOOKED_AT = 100
_STOPPING = "CANCELING"


def find_open_run(server: Server, version: Version, request: Request, *, experiment: str) -> Any | None:
    """Return the server's newest run of this version with these parameters that is not over; None where there is none.

    Args:
        server: The server.
        version: The version.
        request: The parameters.
        experiment: Name of the experiment that is looked through, the newest runs first.
    """
    if version.is_new:
        return None
    runs = server.list_all(
        "list the runs",
        server.client.runs.run_service_list_runs,
        "runs",
        experiment_id=ensure_experiment(server, experiment),
        sort_by="created_at desc",
    )
    newest = itertools.islice(runs, _NUM_LOOKED_AT)
    return next((run for run in newest if _is_open(run) and _is_same(run, version, request)), None)


def _is_open(run: Any) -> bool:
    return run.state not in (*FINAL_STATES, _STOPPING)


def _is_same(run: Any, version: Version, request: Request) -> bool:
    reference, config = run.pipeline_version_reference, run.runtime_config
    return (
        reference is not None
        and reference.pipeline_version_id == version.version_id
        and ((config and config.parameters) or {}) == request.given
    )
