"""The options of every command that talks to a Kubeflow Pipelines server."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.server import Server

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(dir_okay=False, path_type=Path)

_CONNECTION_OPTIONS = (
    click.option(
        "--host",
        help="Address of Kubeflow Pipelines; else $KF_PIPELINES_ENDPOINT, this pod's cluster, kubeconfig.",
    ),
    click.option(
        "--ui-host", help="Address for links, where it is another; else $KF_PIPELINES_UI_ENDPOINT."
    ),
    click.option("--namespace", default="", help="Namespace of the runs, on a multi-user server."),
    click.option(
        "--token-file",
        type=_FILE,
        help="Bearer token, read again as it changes; else $KF_PIPELINES_TOKEN.",
    ),
    click.option(
        "--cookie-file", type=_FILE, help="Session cookie, name=value; else $KF_PIPELINES_COOKIE."
    ),
    click.option("--iap-client-id", help="OAuth client id of Google's Identity-Aware Proxy."),
    click.option(
        "--context", "kube_context", help="Context of kubeconfig, for a server without an address."
    ),
    click.option(
        "--kfp-namespace",
        default="kubeflow",
        show_default=True,
        help="Where Kubeflow Pipelines is installed.",
    ),
    click.option("--ca-file", type=_FILE, help="Certificates to check the server's with."),
)
_START_OPTIONS = (
    click.option(
        "--experiment",
        default="repot",
        show_default=True,
        help="Experiment of the runs; made when missing.",
    ),
    click.option("--service-account", default="", help="Kubernetes service account of the pods."),
    click.option("--pipeline-root", default="", help="Where KFP's own small artifacts go."),
    click.option(
        "--pipeline-name", help="Name of the pipeline on the server; its own, if not given."
    ),
    click.option(
        "--version-name",
        default="",
        help="Name of the version; repot's version and the YAML's digest.",
    ),
    click.option(
        "-p",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any parameter of the pipeline; may be repeated.",
    ),
    click.option(
        "--params", "parameter_file", type=_FILE, help="YAML or JSON file with parameters."
    ),
)

CONNECTION_NAMES = (
    "host",
    "ui_host",
    "token_file",
    "cookie_file",
    "iap_client_id",
    "kube_context",
    "kfp_namespace",
    "ca_file",
)


def connection_options(command: _Command) -> _Command:
    """Add what says where the server is, and with which right one comes."""
    for option in reversed(_CONNECTION_OPTIONS):
        command = option(command)
    return command


def start_options(command: _Command) -> _Command:
    """Add what says how a run is started."""
    for option in reversed(_START_OPTIONS):
        command = option(command)
    return command


def connect_as_told(given: dict[str, Any]) -> "Server":
    """Return the server that the connection options name; takes them out of `given`."""
    from repot_pipelines.kfp_server.access import ConnectionOptions, resolve_access
    from repot_pipelines.kfp_server.server import connect

    namespace = given.pop("namespace")
    options = ConnectionOptions(**{name: given.pop(name) for name in CONNECTION_NAMES})
    return connect(resolve_access(options, os.environ), namespace=namespace)
