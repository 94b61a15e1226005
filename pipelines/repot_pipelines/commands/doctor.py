"""`repot doctor`: what of this machine, the storage, Kubeflow Pipelines and the cluster is ready."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from repot.errors import UsageError
from repot_pipelines.commands.options import debug_option
from repot_pipelines.commands.server_options import CONNECTION_NAMES, connection_options

if TYPE_CHECKING:
    from repot_pipelines.doctor.checks import DoctorRequest
    from repot_pipelines.doctor.scheduling import TrainerPod

NOT_READY = 1
_PARAMETERS = {
    "accelerator_type": "accelerator_type",
    "accelerator_count": "accelerator_count",
    "node_selector": "trainer_node_selector",
    "tolerations": "trainer_tolerations",
}
"""The pipeline's parameter of the same meaning, by option."""

_T = TypeVar("_T")


@click.command("doctor")
@click.option(
    "--storage-uri", default="", help="Where everything is to be kept: a folder, gs:// or s3://."
)
@click.option(
    "--service-account", default="", help="Kubernetes service account of the pods of a run."
)
@click.option(
    "--accelerator-type", help="Resource name of the trainer's accelerator, e.g. nvidia.com/gpu."
)
@click.option("--accelerator-count", type=click.IntRange(min=0), help="How many; 0 for none.")
@click.option("--node-selector", metavar="JSON", help="Node labels that the trainer's pod needs.")
@click.option("--tolerations", metavar="JSON", help="Tolerations of the trainer's pod.")
@connection_options
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)
@debug_option
def doctor_command(*, output_format: str, **given: Any) -> int:
    """Say what is ready for a run, with the fix beside all that is not.

    Nothing is changed anywhere. What no option, variable or kubeconfig names is not checked. Without options about the
    trainer's pod the pipeline's own defaults hold. Exit code 0 when nothing is red, 1 otherwise.
    """
    from rich.console import Console

    from repot_pipelines.doctor.checks import run_checks
    from repot_pipelines.doctor.report import is_ready, print_section, print_summary, to_json

    console = Console()
    sections = []
    with _nothing_but_results():
        for section in run_checks(_read_request(given), os.environ):
            sections.append(section)
            if output_format == "table":
                print_section(console, section)
    if output_format == "table":
        print_summary(console, sections)
    else:
        click.echo(to_json(sections))
    return 0 if is_ready(sections) else NOT_READY


@contextlib.contextmanager
def _nothing_but_results() -> Iterator[None]:
    """Keep back that storage tries again: the result says what came of it."""
    log = logging.getLogger("repot.storage")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _read_request(given: dict[str, Any]) -> "DoctorRequest":
    """Put the options together and check them.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    from repot import storage
    from repot_pipelines.doctor.checks import DoctorRequest
    from repot_pipelines.doctor.installation import read_installed_pipeline
    from repot_pipelines.kfp_server.access import ConnectionOptions, resolve_access

    pipeline = read_installed_pipeline()
    problems: list[str] = []
    connection = ConnectionOptions(**{name: given.pop(name) for name in CONNECTION_NAMES})
    access = _collected(problems, lambda: resolve_access(connection, os.environ))
    storage_uri = _collected(
        problems, lambda: storage.normalise(given["storage_uri"]) if given["storage_uri"] else ""
    )
    trainer_pod = _collected(problems, lambda: _read_trainer_pod(given, pipeline.defaults))
    if problems or access is None:
        raise UsageError(problems)
    is_placed = any(given[option] is not None for option in _PARAMETERS)
    return DoctorRequest(
        storage_uri=storage_uri or "",
        access=access,
        namespace=given["namespace"],
        service_account=given["service_account"],
        trainer_pod=trainer_pod,
        needs_cluster=is_placed
        or any((given["service_account"], given["namespace"], connection.kube_context)),
        pipeline=pipeline,
    )


def _read_trainer_pod(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> "TrainerPod | None":
    """Return what the trainer's pod asks for; None where an option is missing and the pipeline's default not known.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    from repot_pipelines.cluster_rules import cluster_problems
    from repot_pipelines.doctor.scheduling import TrainerPod

    problems: list[str] = []
    read = {
        "accelerator_type": given["accelerator_type"],
        "accelerator_count": None
        if given["accelerator_count"] is None
        else str(given["accelerator_count"]),
        "node_selector": _collected(
            problems, lambda: _read_json("--node-selector", given["node_selector"], dict)
        ),
        "tolerations": _collected(
            problems, lambda: _read_json("--tolerations", given["tolerations"], list)
        ),
    }
    told = {_PARAMETERS[option]: value for option, value in read.items() if value is not None}
    values = {name: defaults[name] for name in _PARAMETERS.values() if name in defaults} | told
    problems += cluster_problems(values)
    if problems:
        raise UsageError(problems)
    if len(values) < len(_PARAMETERS):
        return None
    return TrainerPod(
        accelerator_type=values["accelerator_type"],
        accelerator_count=int(values["accelerator_count"]),
        node_selector=values["trainer_node_selector"],
        tolerations=values["trainer_tolerations"],
    )


def _read_json(option: str, text: str | None, kind: type) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        form = '{"label": "value"}' if kind is dict else '[{"key": "label", "operator": "Exists"}]'
        raise UsageError(f"{option} must be JSON of the form {form}; got {text!r}.")
    return value


def _collected(problems: list[str], read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except UsageError as err:
        problems.extend(err.problems)
        return None
