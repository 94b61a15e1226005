"""`repot doctor`: check whether this machine, the storage, the server and the cluster are ready."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import click

from repot import storage
from repot.errors import EXIT_FAILED, UsageError
from repot.settings import ParameterValues
from repot_pipelines.cluster_rules import settings_problems
from repot_pipelines.commands.option_types import SERVICE_ACCOUNT, NameChoice
from repot_pipelines.commands.options import connection_options, debug_option
from repot_pipelines.kfp_server.access import ConnectionOptions, resolve_access

_T = TypeVar("_T")


@click.command("doctor")
@click.option(
    "--storage-uri",
    default="",
    help="Where everything will be stored: a folder, gs:// or s3://.",
)
@click.option(
    "--service-account",
    type=SERVICE_ACCOUNT,
    default="",
    help="Kubernetes service account of the pods of a run.",
)
@click.option(
    "--accelerator-type", help="Resource name of the trainer's accelerator, e.g. nvidia.com/gpu."
)
@click.option("--accelerator-count", type=click.IntRange(min=0), help="Accelerators; 0 for none.")
@click.option(
    "--node-selector", metavar="JSON", help="Node labels that the trainer's pod requires."
)
@click.option("--tolerations", metavar="JSON", help="Tolerations of the trainer's pod.")
@click.option("--cpu-image", help="Container image of every task except Train.")
@click.option("--trainer-image", help="Container image of the trainer.")
@connection_options
@click.option(
    "--format",
    "output_format",
    type=NameChoice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
@debug_option
def doctor_command(
    *,
    storage_uri: str,
    service_account: str,
    accelerator_type: str | None,
    accelerator_count: int | None,
    node_selector: str | None,
    tolerations: str | None,
    cpu_image: str | None,
    trainer_image: str | None,
    connection: ConnectionOptions,
    output_format: str,
) -> int:
    """Report what is ready for a run, with a fix for everything that is not.

    Read-only. Checks for which no option, environment variable or kubeconfig provides a target are
    skipped. Without options about the trainer's pod and the images, the pipeline's defaults are
    used. The exit code is 0 if there is no problem, 1 otherwise.
    """
    from rich.console import Console

    from repot_pipelines.doctor.checks import DoctorRequest, run_checks
    from repot_pipelines.doctor.installation import read_installed_pipeline
    from repot_pipelines.doctor.report import is_ready, print_section, print_summary, to_json

    pipeline = read_installed_pipeline()
    problems: list[str] = []
    access = _collect(problems, lambda: resolve_access(connection, os.environ))
    uri = _collect(problems, lambda: storage.normalise(storage_uri) if storage_uri else "")
    selector = _collect(problems, lambda: _read_json("--node-selector", node_selector, dict))
    toleration_list = _collect(problems, lambda: _read_json("--tolerations", tolerations, list))
    pod_options = {
        "accelerator_type": accelerator_type,
        "accelerator_count": accelerator_count,
        "trainer_node_selector": selector,
        "trainer_tolerations": toleration_list,
    }
    image_options = {"cpu_image": cpu_image, "trainer_image": trainer_image}
    images = _given(image_options)
    problems += settings_problems({**_given(pod_options), **images})
    pipeline = replace(pipeline, defaults={**pipeline.defaults, **images})
    if problems or access is None:
        raise UsageError(problems)
    about_cluster = (
        *(value is not None for value in pod_options.values()),
        images,
        service_account,
        connection.namespace,
        connection.kube_context,
    )
    request = DoctorRequest(
        storage_uri=uri or "",
        access=access,
        namespace=connection.namespace,
        service_account=service_account,
        pod_options=_given(pod_options),
        needs_cluster=any(about_cluster),
        pipeline=pipeline,
    )
    console = Console()
    sections = []
    with _without_retry_warnings():
        for section in run_checks(request, os.environ):
            sections.append(section)
            if output_format == "table":
                print_section(console, section)
    if output_format == "table":
        print_summary(console, sections)
    else:
        click.echo(to_json(sections))
    return 0 if is_ready(sections) else EXIT_FAILED


@contextlib.contextmanager
def _without_retry_warnings() -> Iterator[None]:
    """Suppress the storage's warnings about retries: the check reports the result."""
    log = logging.getLogger("repot.storage")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _given(options: ParameterValues) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


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


def _collect(problems: list[str], read: Callable[[], _T]) -> _T | None:
    """Return the result, or None after collecting what is wrong."""
    try:
        return read()
    except UsageError as err:
        problems.extend(err.problems)
        return None
