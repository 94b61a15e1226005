"""Find the cluster to check, in kubeconfig or around this pod, and create an API client for it."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repot.errors import UsageError
from repot.user_files import read_user_file
from repot_pipelines.cluster.errors import TRY_KUBECTL, ClusterError
from repot_pipelines.http_clients import configure_client

POD_VARIABLE = "KUBERNETES_SERVICE_HOST"
"""The kubelet sets it in every pod."""

_LOGIN_SECONDS = 10
"""Time limit for a credential plugin; some wait indefinitely for a login in a browser."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterContext:
    """Which cluster to connect to.

    Attributes:
        kubeconfig: Paths as in $KUBECONFIG; "" for the cluster that this pod runs in.
        name: Context in kubeconfig; "" for the cluster that this pod runs in.
        proxy_url: The proxy that kubeconfig sets for the cluster; "" for none.
    """

    kubeconfig: str
    name: str
    proxy_url: str = ""

    @property
    def title(self) -> str:
        """Return the name to show in reports."""
        if not self.kubeconfig:
            return "the cluster of this pod"
        return f"context {self.name} of kubeconfig"


def find_context(context: str, environment: Mapping[str, str], home: Path) -> ClusterContext | None:
    """Find the cluster that the option, the environment or kubeconfig selects.

    In a pod that is the pod's own cluster, unless the option or $KUBECONFIG selects another one,
    as the jobs of some CI systems do. kubectl decides in the same way.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Environment variables by name.
        home: The user's home folder.

    Returns:
        The context; None if nothing selects a cluster.

    Raises:
        ClusterError: The selected kubeconfig is missing or unreadable, or has no such context.
    """
    configured = environment.get("KUBECONFIG", "")
    if POD_VARIABLE in environment and not (context or configured):
        return ClusterContext(kubeconfig="", name="")
    kubeconfig = configured or str(home / ".kube" / "config")
    if not any(Path(path).exists() for path in kubeconfig.split(os.pathsep) if path):
        if not configured and not context:
            return None
        raise ClusterError(
            f"There is no kubeconfig at {kubeconfig}. Set KUBECONFIG to the file that the "
            "cluster's tools write."
        )
    contexts, proxies, current = _read_contexts(kubeconfig)
    name = context or current
    if not name:
        return None
    if name not in contexts:
        raise ClusterError(
            f"kubeconfig {kubeconfig} has no context {name}. "
            f"Choose with --context among: {', '.join(contexts) or 'none'}."
        )
    proxy_url = proxies.get(contexts[name], "")
    return ClusterContext(kubeconfig=kubeconfig, name=name, proxy_url=proxy_url)


def make_api_client(context: ClusterContext) -> Any:
    """Return a kubernetes.client.ApiClient; this may run a credential plugin, but sends no request.

    Raises:
        ClusterError: The context cannot be used.
    """
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
    try:
        # The pod's own cluster needs no proxy.
        configure_client(
            configuration, proxy_url=context.proxy_url, uses_proxy=bool(context.kubeconfig)
        )
    except UsageError as err:
        raise ClusterError(str(err)) from err
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


def _read_contexts(kubeconfig: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Return the cluster of each context, the proxy of each cluster, and the current context.

    Of several files that have a name, the first one counts; an empty file counts as one without
    contexts. Both are as in kubectl.
    """
    import yaml

    contexts: dict[str, str] = {}
    proxies: dict[str, str] = {}
    current = ""
    for path in kubeconfig.split(os.pathsep):
        if not path or not Path(path).exists():
            continue
        try:
            content = yaml.safe_load(read_user_file(Path(path)).decode()) or {}
            for each in content.get("contexts") or []:
                contexts.setdefault(each["name"], (each.get("context") or {}).get("cluster", ""))
            for each in content.get("clusters") or []:
                proxies.setdefault(each["name"], (each.get("cluster") or {}).get("proxy-url") or "")
            current = current or content.get("current-context") or ""
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as err:
            reason = (err.strerror if isinstance(err, OSError) else "") or str(err)
            raise ClusterError(
                f"kubeconfig {path} cannot be read: {_one_line(reason)}. "
                "Repair it, or set KUBECONFIG."
            ) from err
    return contexts, proxies, current


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
