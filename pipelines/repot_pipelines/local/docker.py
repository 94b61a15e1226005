"""Containers of `repot run --runner docker`: images, mounts, environment and removal.

KFP's DockerRunner starts one container per task. Each gets the label of the run, the folders that
the run uses mounted at the same paths as on this machine, and the caller's user id, so that the
caller owns the files it writes.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from repot import cluster_names, storage
from repot.errors import RepotError, UsageError
from repot.extras import install_command
from repot.progress import EVENTS_VARIABLE
from repot.settings import ParameterValues

LABEL = "repot-run"

_READ_ONLY_PARAMETERS = (
    "pictures_uri",
    "labels_file_uri",
    "imagenet_metadata_file_uri",
    "bounding_box_file_uri",
    "corrections_file_uri",
    "checkpoint",
)
_PATH_PARAMETERS = (*_READ_ONLY_PARAMETERS, "storage_uri")
# A container does not inherit this process's environment.
_FORWARDED_VARIABLES = (
    EVENTS_VARIABLE,
    cluster_names.RUN_ID_VARIABLE,
    *cluster_names.INTEGRATION_VARIABLES.values(),
    *cluster_names.INTEGRATION_SECRET_VARIABLES.values(),
    *cluster_names.TRACKING_SECRET_VARIABLES.values(),
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_REQUEST_PAYER",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "STORAGE_EMULATOR_HOST",
    *(name for each in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (each, each.lower())),
)
_GOOGLE_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def check_docker() -> None:
    """Check that containers can be started.

    Raises:
        UsageError: The docker package is not installed.
        RepotError: No Docker daemon answers.
    """
    try:
        import docker
    except ImportError as err:
        raise UsageError(
            f"--runner docker needs the package docker. Run {install_command('docker')}."
        ) from err
    try:
        docker.from_env(timeout=10).ping()
    except docker.errors.DockerException as err:
        raise RepotError(
            f"A Docker daemon must answer; got: {err}. "
            "Start Docker, or set DOCKER_HOST to its address."
        ) from err


def pull_images(references: Iterable[str], console: Console) -> None:
    """Pull the container images that are not on this machine.

    Args:
        references: The image references.
        console: Where each pull is announced, because it may take minutes.

    Raises:
        RepotError: An image is not on this machine and cannot be pulled.
    """
    import docker

    client = docker.from_env()
    for reference in sorted(set(references)):
        try:
            client.images.get(reference)
        except docker.errors.ImageNotFound:
            console.print(f"pull image {reference} ...", highlight=False)
            try:
                client.images.pull(reference)
            except docker.errors.APIError as err:
                raise RepotError(
                    f"The image {reference} must be on this machine, or Docker must be able to "
                    f"pull it; got: {err.explanation}. Build it with `make images`, or choose "
                    "another one with --cpu-image and --trainer-image."
                ) from err


def make_runner(arguments: ParameterValues, work_folder: Path) -> Any:
    """Return a kfp.local.DockerRunner for one run.

    Args:
        arguments: Settings by name; the local folders among them are mounted.
        work_folder: Folder of the run's small artifacts and events; its name is the label's value.
    """
    from docker.types import Mount
    from kfp import local

    if storage.is_local(arguments["storage_uri"]):
        storage.local_path(arguments["storage_uri"]).mkdir(parents=True, exist_ok=True)
    mounts = [
        Mount(path, path, type="bind", read_only=read_only)
        for path, read_only in _paths_to_mount(arguments).items()
    ]
    environment = {name: os.environ[name] for name in _FORWARDED_VARIABLES if name in os.environ}
    if google_file := _google_file():
        environment[_GOOGLE_FILE_VARIABLE] = google_file
    return local.DockerRunner(
        environment=environment,
        labels={LABEL: work_folder.name},
        mounts=[*mounts, Mount(str(work_folder), str(work_folder), type="bind")],
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
    )


def run_container(
    client: Any, image: str, command: Sequence[str], volumes: Mapping[str, Any], **options: Any
) -> int:
    """Run a task's container to its end, print what it prints, and return its exit status.

    Unlike KFP's function it lets Docker keep the container until its status is known: Docker
    removes a container that ends with an error as quickly, and KFP then takes 0 for its status.

    Args:
        client: The docker.DockerClient.
        image: Image reference.
        command: What the container runs.
        volumes: Mounts, as KFP gives them.
        options: Other arguments of `docker run`, see `make_runner`.
    """
    import docker

    container = client.containers.run(
        image=image, command=command, volumes=volumes, detach=True, **options
    )
    try:
        for line in container.logs(stream=True, follow=True):
            print(line.decode(errors="replace"), end="")  # noqa: T201 - KFP logs what is printed
        return int(container.wait()["StatusCode"])
    finally:
        with contextlib.suppress(docker.errors.APIError):  # it is being removed
            container.remove(force=True)


def remove_containers(work_folder: Path) -> None:
    """Stop and remove every container of a run.

    Args:
        work_folder: Folder of the run, as in `make_runner`.
    """
    import docker

    client = docker.from_env(timeout=10)
    label = f"{LABEL}={work_folder.name}"
    for container in client.containers.list(all=True, filters={"label": label}):
        try:
            container.remove(force=True)
        except docker.errors.APIError:
            continue  # another process is removing it


def _paths_to_mount(arguments: ParameterValues) -> dict[str, bool]:
    """Return the existing local paths among the parameters, each with whether it is read-only."""
    paths: dict[str, bool] = {}
    for name in _PATH_PARAMETERS:
        value = str(arguments.get(name, ""))
        if name == "pictures_uri" and Path(value).is_file():
            # A manifest names files beside it.
            value = str(Path(value).parent)
        if value.startswith("/") and Path(value).exists():
            paths[value] = name in _READ_ONLY_PARAMETERS and paths.get(value, True)
    google_file = _google_file()
    return paths | ({google_file: True} if google_file else {})


def _google_file() -> str:
    """Return the absolute path of the Google credentials; "" without any."""
    value = os.environ.get(_GOOGLE_FILE_VARIABLE, "")
    return str(Path(value).absolute()) if value else ""
