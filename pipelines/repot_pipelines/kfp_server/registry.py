"""The pipeline, its versions and the experiment on the server: found by name, made where they are missing."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repot import __version__
from repot_pipelines.kfp_server.errors import ServerError, TakenError
from repot_pipelines.kfp_server.server import Server, named

DIGEST_LENGTH = 12

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of the pipeline on the server.

    Attributes:
        pipeline_id: The pipeline.
        version_id: The version.
        name: The version's name.
        is_new: Whether it was uploaded just now.
    """

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool = False


def version_name(path: Path) -> str:
    """Return the name of a compiled pipeline: repot's version, and the start of the YAML's SHA-256."""
    return f"{__version__}-{_digest(path)[:DIGEST_LENGTH]}"


def ensure_version(server: Server, path: Path, *, pipeline_name: str, name: str = "") -> Version:
    """Return the server's version of a compiled pipeline; upload it where it is missing.

    Args:
        server: The server.
        path: The compiled YAML.
        pipeline_name: The pipeline, made where it is missing.
        name: The version's name; "" for `version_name`, which is the same as long as the YAML is.

    Raises:
        TakenError: The name is in use for another YAML.
        ServerError: The server refused; a pipeline that was made for this version is gone again.
    """
    name = name or version_name(path)
    pipeline_id = find_pipeline(server, pipeline_name)
    if pipeline_id is not None:
        return _ensure_version(server, path, pipeline_id, name)
    pipeline_id = _make(
        lambda: _create_pipeline(server, pipeline_name),
        lambda: find_pipeline(server, pipeline_name),
    )
    try:
        return _ensure_version(server, path, pipeline_id, name)
    except ServerError:
        _forget_pipeline(server, pipeline_id)
        raise


def find_pipeline(server: Server, name: str) -> str | None:
    """Return the id of a pipeline, or None where there is none of that name."""
    found = server.list_all(
        "look for the pipeline",
        server.client.pipelines.pipeline_service_list_pipelines,
        "pipelines",
        filter=named(name),
        namespace=server.namespace,
    )
    return next(
        (str(pipeline.pipeline_id) for pipeline in found if pipeline.display_name == name), None
    )


def ensure_experiment(server: Server, name: str) -> str:
    """Return the id of an experiment; make it where it is missing."""
    found = _find_experiment(server, name)
    return found or _make(
        lambda: _create_experiment(server, name), lambda: _find_experiment(server, name)
    )


def version_label(server: Server, pipeline_id: str, version_id: str) -> str:
    """Return the name of a version, or its id where it is gone."""
    try:
        version = server.call(
            "read the pipeline version",
            server.client.pipelines.pipeline_service_get_pipeline_version,
            pipeline_id=pipeline_id,
            pipeline_version_id=version_id,
        )
    except ServerError:
        return version_id
    return str(version.display_name or version_id)


def _ensure_version(server: Server, path: Path, pipeline_id: str, name: str) -> Version:
    found = _find_version(server, path, pipeline_id, name)
    return found or _make(
        lambda: _upload(server, path, pipeline_id, name),
        lambda: _find_version(server, path, pipeline_id, name),
    )


def _make(create: Callable[[], _T], find: Callable[[], _T | None]) -> _T:
    """Create; where somebody else was faster, take what that one made."""
    try:
        return create()
    except TakenError:
        found = find()
        if found is None:
            raise
        return found


def _create_pipeline(server: Server, name: str) -> str:
    pipeline = server.client.api_models.V2beta1Pipeline(
        name=name,
        display_name=name,
        namespace=server.namespace or None,
        description="Made by repot.",
    )
    create = server.client.pipelines.pipeline_service_create_pipeline
    return str(server.call(f"make the pipeline {name}", create, pipeline=pipeline).pipeline_id)


def _forget_pipeline(server: Server, pipeline_id: str) -> None:
    """Delete a pipeline that has no version yet; the failure that led here matters more than one of this."""
    with contextlib.suppress(ServerError):
        delete = server.client.pipelines.pipeline_service_delete_pipeline
        server.call("delete the empty pipeline", delete, pipeline_id=pipeline_id)


def _find_version(server: Server, path: Path, pipeline_id: str, name: str) -> Version | None:
    versions = server.list_all(
        "look for the pipeline version",
        server.client.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=named(name),
    )
    version = next((version for version in versions if version.display_name == name), None)
    if version is None:
        return None
    if _digest(path) not in (version.description or ""):
        raise TakenError(
            f"The pipeline version {name} exists and was made from another YAML than {path}. "
            "Give another --version-name, or none."
        )
    return Version(pipeline_id=pipeline_id, version_id=str(version.pipeline_version_id), name=name)


def _upload(server: Server, path: Path, pipeline_id: str, name: str) -> Version:
    version = server.call(
        f"upload the pipeline version {name}",
        server.client.pipeline_uploads.upload_pipeline_version,
        str(path),
        name=name,
        pipelineid=pipeline_id,
        description=f"repot {__version__}, SHA-256 of the YAML {_digest(path)}",
    )
    return Version(
        pipeline_id=pipeline_id, version_id=str(version.pipeline_version_id), name=name, is_new=True
    )


def _find_experiment(server: Server, name: str) -> str | None:
    found = server.list_all(
        "look for the experiment",
        server.client.experiments.experiment_service_list_experiments,
        "experiments",
        filter=named(name),
        namespace=server.namespace,
    )
    return next(
        (str(experiment.experiment_id) for experiment in found if experiment.display_name == name),
        None,
    )


def _create_experiment(server: Server, name: str) -> str:
    experiment: Any = server.client.api_models.V2beta1Experiment(
        display_name=name, namespace=server.namespace or None
    )
    create = server.client.experiments.experiment_service_create_experiment
    return str(
        server.call(f"make the experiment {name}", create, experiment=experiment).experiment_id
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
