"""Pipelines, pipeline versions and experiments: find them by name, create what is missing."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from repot import __version__
from repot.errors import UsageError
from repot_pipelines.cluster_rules import stored_name_problems
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import NameTakenError, ServerError
from repot_pipelines.kfp_server.server import Server, name_filter

_DIGEST_LENGTH = 12

_Object = TypeVar("_Object")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineVersion:
    """One version of a pipeline on the server.

    Attributes:
        pipeline_id: Id of the pipeline.
        version_id: Id of the version; "" for whichever is the latest when a run starts.
        name: Name of the version.
        is_new: Whether this process uploaded it.
    """

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool = False

    def to_api(self, server: Server) -> ApiObject:
        """Return the reference to this version in a run or schedule."""
        return server.client.api_models.V2beta1PipelineVersionReference(
            pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id or None
        )


def default_version_name(path: Path) -> str:
    """Return the version name of a compiled pipeline: repot's version and the file's SHA-256."""
    return f"{__version__}-{_sha256(path)[:_DIGEST_LENGTH]}"


def ensure_version(
    server: Server, path: Path, *, pipeline_name: str, name: str = ""
) -> PipelineVersion:
    """Return the server's version of a compiled pipeline; upload it if it is missing.

    Args:
        server: The server.
        path: The compiled YAML file.
        pipeline_name: Name of the pipeline; it is created if it is missing.
        name: Name of the version; "" for `default_version_name`, which changes with the file.

    Raises:
        NameTakenError: Another YAML file has this version name.
        UsageError: This server does not accept such a name.
        ServerError: The upload failed; a pipeline that was created for it is deleted again.
    """
    name = name or default_version_name(path)
    if server.pipeline_store == "kubernetes":
        names = {"--pipeline-name": pipeline_name, "--version-name": name}
        if problems := stored_name_problems(names):
            raise UsageError(problems)
    pipeline_id = _find_pipeline(server, pipeline_name)
    if pipeline_id is not None:
        return _ensure_version(server, path, pipeline_id, name)
    pipeline_id = _create_or_find(
        lambda: _create_pipeline(server, pipeline_name),
        lambda: _find_pipeline(server, pipeline_name),
    )
    try:
        return _ensure_version(server, path, pipeline_id, name)
    except ServerError:
        _delete_empty_pipeline(server, pipeline_id)
        raise


def ensure_experiment(server: Server, name: str) -> str:
    """Return the id of the experiment with this name; create it if it is missing."""
    return _find_experiment(server, name) or _create_or_find(
        lambda: _create_experiment(server, name), lambda: _find_experiment(server, name)
    )


def get_version(server: Server, pipeline_id: str, version_id: str) -> ApiObject:
    """Return a pipeline version.

    Raises:
        MissingObjectError: The version was deleted.
    """
    return server.call(
        "read the pipeline version",
        server.client.pipelines.pipeline_service_get_pipeline_version,
        pipeline_id=pipeline_id,
        pipeline_version_id=version_id,
    )


def version_label(server: Server, pipeline_id: str, version_id: str) -> str:
    """Return the name of a version, or its id if it cannot be read."""
    try:
        version = get_version(server, pipeline_id, version_id)
    except ServerError:
        return version_id
    return str(version.display_name or version_id)


def _ensure_version(server: Server, path: Path, pipeline_id: str, name: str) -> PipelineVersion:
    return _find_version(server, path, pipeline_id, name) or _create_or_find(
        lambda: _upload(server, path, pipeline_id, name),
        lambda: _find_version(server, path, pipeline_id, name),
    )


def _create_or_find(create: Callable[[], _Object], find: Callable[[], _Object | None]) -> _Object:
    """Create an object; if another process was faster, return the one that it created."""
    try:
        return create()
    except NameTakenError:
        found = find()
        if found is None:
            raise
        return found


def _find_pipeline(server: Server, name: str) -> str | None:
    found = server.list_all(
        "look up the pipeline",
        server.client.pipelines.pipeline_service_list_pipelines,
        "pipelines",
        filter=name_filter(name),
        namespace=server.namespace,
    )
    ids = (str(pipeline.pipeline_id) for pipeline in found if pipeline.display_name == name)
    return next(ids, None)


def _create_pipeline(server: Server, name: str) -> str:
    pipeline = server.client.api_models.V2beta1Pipeline(
        name=name,
        display_name=name,
        namespace=server.namespace or None,
        description="Created by repot.",
    )
    create = server.client.pipelines.pipeline_service_create_pipeline
    return str(server.call(f"create the pipeline {name}", create, pipeline=pipeline).pipeline_id)


def _delete_empty_pipeline(server: Server, pipeline_id: str) -> None:
    # An error here must not hide the one that made the pipeline useless.
    with contextlib.suppress(ServerError):
        delete = server.client.pipelines.pipeline_service_delete_pipeline
        server.call("delete the empty pipeline", delete, pipeline_id=pipeline_id)


def _find_version(
    server: Server, path: Path, pipeline_id: str, name: str
) -> PipelineVersion | None:
    found = server.list_all(
        "look up the pipeline version",
        server.client.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=name_filter(name),
    )
    version = next((version for version in found if version.display_name == name), None)
    if version is None:
        return None
    if _sha256(path) not in (version.description or ""):
        raise NameTakenError(
            f"The pipeline version {name} exists and was made from another YAML file than {path}. "
            "Use another --version-name, or leave it out."
        )
    return PipelineVersion(
        pipeline_id=pipeline_id, version_id=str(version.pipeline_version_id), name=name
    )


def _upload(server: Server, path: Path, pipeline_id: str, name: str) -> PipelineVersion:
    version = server.call(
        f"upload the pipeline version {name}",
        server.client.pipeline_uploads.upload_pipeline_version,
        str(path),
        name=name,
        pipelineid=pipeline_id,
        # `_find_version` compares the digest.
        description=f"repot {__version__}, SHA-256 of the YAML {_sha256(path)}",
    )
    return PipelineVersion(
        pipeline_id=pipeline_id, version_id=str(version.pipeline_version_id), name=name, is_new=True
    )


def _find_experiment(server: Server, name: str) -> str | None:
    found = server.list_all(
        "look up the experiment",
        server.client.experiments.experiment_service_list_experiments,
        "experiments",
        filter=name_filter(name),
        namespace=server.namespace,
    )
    ids = (str(each.experiment_id) for each in found if each.display_name == name)
    return next(ids, None)


def _create_experiment(server: Server, name: str) -> str:
    experiment = server.client.api_models.V2beta1Experiment(
        display_name=name, namespace=server.namespace or None
    )
    create = server.client.experiments.experiment_service_create_experiment
    answer = server.call(f"create the experiment {name}", create, experiment=experiment)
    return str(answer.experiment_id)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
