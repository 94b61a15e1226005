"""Find the cluster to check, in kubeconfig or around this pod, and create an API client for it."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repot.user_files import read_user_file
from repot_pipelines.cluster.errors import TRY_KUBECTL, ClusterError

_LOGIN_SECONDS = 10
"""Time limit for a credential plugin; some wait indefinitely for a login in a browser."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterContext:
    """Which cluster to connect to.

    Attributes:
        kubeconfig: Paths as in $KUBECONFIG; "" for the cluster that this pod runs in.
        name: Context in kubeconfig; "" for the cluster that this pod runs in.
    """

    kubeconfig: str
    name: str

    @property
    def title(self) -> str:
        """Return the name to show in reports."""
        if not self.kubeconfig:
            return "the cluster of this pod"
        return f"context {self.name} of kubeconfig"


def find_context(context: str, environment: Mapping[str, str], home: Path) -> ClusterContext | None:
    """Find the cluster that the option, the environment or kubeconfig selects.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Environment variables by name.
        home: The user's home folder.

    Returns:
        The context; None if nothing selects a cluster.

    Raises:
        ClusterError: The selected kubeconfig is missing or unreadable, or has no such context.
    """
    if "KUBERNETES_SERVICE_HOST" in environment and not context:
        return ClusterContext(kubeconfig="", name="")
    configured = environment.get("KUBECONFIG", "")
    kubeconfig = configured or str(home / ".kube" / "config")
    if not any(Path(path).exists() for path in kubeconfig.split(os.pathsep) if path):
        if not configured and not context:
            return None
        raise ClusterError(
            f"There is no kubeconfig at {kubeconfig}. Set KUBECONFIG to the file that the "
            "cluster's tools write."
        )
    contexts, current = _read_contexts(kubeconfig)
    name = context or current
    if not name:
        return None
    if name not in contexts:
        raise ClusterError(
            f"kubeconfig {kubeconfig} has no context {name}. "
            f"Choose with --context among: {', '.join(contexts) or 'none'}."
        )
    return ClusterContext(kubeconfig=kubeconfig, name=name)


def make_api_client(context: ClusterContext) -> Any:
    """Return a kubernetes.client.ApiClient; this may run a credential plugin, but sends no request.

    Raises:
        ClusterError: The context cannot be used.
    """
    import urllib3
    from kubernetes import client

    configuration = client.Configuration()
    try:
        with _collect_log_errors() as logged_errors:
            call_with_timeout(_LOGIN_SECONDS, lambda: _load(context, configuration))
    except TimeoutError as err:
        raise ClusterError(
            f"The credential plugin of {context.title} does not end within {_LOGIN_SECONDS} s. "
            f"Log in first: {TRY_KUBECTL}"
        ) from err
    except Exception as err:  # kubeconfig and its plugins raise many types
        fix = (
            TRY_KUBECTL
            if context.kubeconfig
            else "Mount a token into the pod (automountServiceAccountToken), or give --context."
        )
        reason = _one_line(str(err))
        raise ClusterError(f"{context.title} cannot be used: {reason}. {fix}") from err
    if logged_errors and not _has_credentials(configuration):
        raise ClusterError(
            f"{context.title} gets no credentials: {_one_line(logged_errors[-1])}. "
            f"Install or repair the credential plugin, or log in; {TRY_KUBECTL}"
        )
    # The default would retry an unreachable server three times.
    configuration.retries = urllib3.Retry(connect=0, read=0, other=0, redirect=4)
    return client.ApiClient(configuration)


def call_with_timeout(seconds: float, work: Callable[[], _T]) -> _T:
    """Call `work` with a time limit; if it hangs, its daemon thread is abandoned.

    Args:
        seconds: Time limit.
        work: A call that has no time limit of its own, or a longer one.

    Raises:
        TimeoutError: The call did not return in time.
    """
    returned: list[_T] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            returned.append(work())
        except Exception as err:  # noqa: BLE001 - raised again in the calling thread
            raised.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if raised:
        raise raised[0]
    return returned[0]


def _read_contexts(kubeconfig: str) -> tuple[list[str], str]:
    """Return the names of all contexts and of the current one.

    An empty file counts as one without contexts, as in kubectl.
    """
    import yaml

    names: list[str] = []
    current = ""
    for path in kubeconfig.split(os.pathsep):
        if not path or not Path(path).exists():
            continue
        try:
            content = yaml.safe_load(read_user_file(Path(path)).decode()) or {}
            names += [context["name"] for context in content.get("contexts") or []]
            current = current or content.get("current-context") or ""
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as err:
            reason = (err.strerror if isinstance(err, OSError) else "") or str(err)
            raise ClusterError(
                f"kubeconfig {path} cannot be read: {_one_line(reason)}. "
                "Repair it, or set KUBECONFIG."
            ) from err
    return names, current


def _load(context: ClusterContext, configuration: Any) -> None:
    from kubernetes import config

    if context.kubeconfig:
        config.load_kube_config(
            config_file=context.kubeconfig,
            context=context.name,
            client_configuration=configuration,
        )
    else:
        config.load_incluster_config(client_configuration=configuration)


def _has_credentials(configuration: Any) -> bool:
    return bool(configuration.api_key or configuration.cert_file or configuration.username)


@contextlib.contextmanager
def _collect_log_errors() -> Iterator[list[str]]:
    """Collect the error messages logged in this block.

    The Kubernetes client does not raise when a credential plugin fails; it only logs the reason.
    """
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(  # type: ignore[method-assign]
        record.getMessage()
    )
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield messages
    finally:
        root.removeHandler(handler)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:300]
