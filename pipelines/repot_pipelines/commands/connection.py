"""Connect a command to the server and its cluster, and compare a run with the cluster's nodes."""

import os
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repot_pipelines.kfp_server.access import ConnectionOptions, resolve_access

if TYPE_CHECKING:
    from repot_pipelines.cluster.client import ClusterClient
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.run_request import RunRequest


def connect_to_server(connection: ConnectionOptions) -> "Server":
    """Return the server that options, environment or kubeconfig name, in this order.

    Raises:
        UsageError: Lists everything that is wrong with the options.
        ServerError: The server does not respond.
    """
    from repot_pipelines.kfp_server.server import connect

    access = resolve_access(connection, os.environ)
    return connect(access, namespace=connection.namespace)


def open_cluster(connection: ConnectionOptions) -> "ClusterClient | None":
    """Return a client of the cluster that --context, this pod or kubeconfig selects, or None.

    Raises:
        ClusterError: kubeconfig cannot be used.
    """
    from repot_pipelines.cluster.client import open_client

    return open_client(connection.kube_context or "", os.environ, Path.home())


def warn_about_nodes(
    connection: ConnectionOptions, server: "Server", request: "RunRequest"
) -> None:
    """Print a warning for each kind of pod of a run that no node could hold, or only later.

    It is no error: an autoscaler may add nodes, and not every autoscaler can be seen. Nothing is
    printed if the cluster of the server is not known or cannot be reached.

    Args:
        connection: The options for the server.
        server: The server.
        request: The run.
    """
    from repot_pipelines.cluster.errors import ClusterError, ForbiddenError
    from repot_pipelines.cluster.placement import find_run_misfits, has_autoscaler

    # With --host, kubeconfig may belong to another cluster, except for a port-forward.
    host = urllib.parse.urlsplit(server.address).hostname or ""
    is_here = host in ("localhost", "127.0.0.1") or host.endswith(".svc.cluster.local")
    if not (server.is_proxied or is_here or connection.kube_context):
        return
    try:
        client = open_cluster(connection)
        if client is None:
            return
        namespace = server.namespace or server.kfp_namespace
        misfits = find_run_misfits(client, namespace, request.values, request.given)
        is_autoscaled = bool(misfits) and has_autoscaler(client)
    except ForbiddenError:
        click.echo(
            "note: what the pods request was not compared with the nodes, which you may not list. "
            "An administrator can run `repot doctor`.",
            err=True,
        )
        return
    except ClusterError:
        return
    for misfit in misfits:
        if is_autoscaled:
            text = f"note: {misfit.finding} They wait until the autoscaler adds a node that fits."
        elif misfit.is_temporary:
            text = f"warning: {misfit.finding} {misfit.fix}"
        else:
            text = f"warning: {misfit.finding} {misfit.fix} Otherwise they wait for such a node."
        click.echo(text, err=True)
