"""The containers of `repot run --runner docker`: what they see of this machine, and that none is left behind.

kfp's DockerRunner starts one container a task. Each gets the run's label, the folders that the run names at the very
paths that they have here, and the caller's user id, so that what it writes is the caller's.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from repot import storage
from repot.errors import RepotError, UsageError
from repot.progress import EVENTS_VARIABLE

LABEL = "repot-run"

_LOCATIONS = ("pictures_uri", "labels_file_uri", "checkpoint", "storage_uri")
_READ_ONLY = ("pictures_uri", "labels_file_uri", "checkpoint")
_PASSED_ON = (
    EVENTS_VARIABLE,
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "STORAGE_EMULATOR_HOST",
)


def check_docker() -> None:
    """Ask whether containers can be started at all.

    Raises:
        UsageError: The docker package is not installed.
        RepotError: No Docker daemon answers.
    """
    try:
        import docker
    except ImportError as err:
        raise UsageError(
            "--runner docker needs the package docker. Run `pip install 'repot[docker]'`."
        ) from err
    try:
        docker.from_env(timeout=10).ping()
    except docker.errors.DockerException as err:
        raise RepotError(
            f"A Docker daemon must answer; got: {err}. Start Docker, or set DOCKER_HOST to where it listens."
        ) from err


def pull_images(names: Iterable[str], console: Console) -> None:
    """Pull the images that are not here.

    Args:
        names: Of the images.
        console: Where it is said, for it may take minutes.

    Raises:
        RepotError: One is neither here nor to be had.
    """
    import docker

    client = docker.from_env()
    for name in sorted(set(names)):
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            console.print(f"pull image {name} ...", highlight=False)
            try:
                client.images.pull(name)
            except docker.errors.APIError as err:
                raise RepotError(
                    f"The image {name} must be on this machine, or Docker must be able to pull it; got: "
                    f"{err.explanation}. Build it with `make images`, or name another one with --cpu-image and "
                    "--trainer-image."
                ) from err


def make_runner(arguments: Mapping[str, Any], work_folder: Path) -> Any:
    """Return kfp's DockerRunner for one run.

    Args:
        arguments: Pipeline parameters by name; the folders among them are mounted.
        work_folder: Folder of the run's small artifacts and events; its name is the containers' label.
    """
    from docker.types import Mount
    from kfp import local

    if storage.is_local(arguments["storage_uri"]):
        storage.local_path(arguments["storage_uri"]).mkdir(parents=True, exist_ok=True)
    mounts = [
        Mount(path, path, type="bind", read_only=read_only)
        for path, read_only in _folders(arguments).items()
    ]
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return local.DockerRunner(
        environment=environment,
        labels={LABEL: work_folder.name},
        mounts=[*mounts, Mount(str(work_folder), str(work_folder), type="bind")],
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
    )


def remove_containers(work_folder: Path) -> None:
    """Stop and remove every container of a run."""
    import docker

    client = docker.from_env(timeout=10)
    for container in client.containers.list(
        all=True, filters={"label": f"{LABEL}={work_folder.name}"}
    ):
        try:
            container.remove(force=True)
        except (docker.errors.NotFound, docker.errors.APIError):
            continue  # it is being removed already


def _folders(arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Return the local paths that a run names, and whether they are read-only."""
    paths: dict[str, bool] = {}
    for name in _LOCATIONS:
        value = str(arguments.get(name, ""))
        if value.startswith("/") and Path(value).exists():
            paths[value] = name in _READ_ONLY and paths.get(value, True)
    credentials = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    return paths | ({credentials: True} if credentials else {})
