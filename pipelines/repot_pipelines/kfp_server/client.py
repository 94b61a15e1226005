"""Build a kfp.Client that fails fast, prints nothing and reads no environment variables."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repot.errors import UsageError
from repot.user_files import check_kubeconfig
from repot_pipelines.cluster.errors import ClusterError
from repot_pipelines.cluster.kubeconfig import POD_VARIABLE, find_context
from repot_pipelines.http_clients import configure_client
from repot_pipelines.kfp_server.access import HOST_VARIABLE, Access
from repot_pipelines.kfp_server.errors import ServerError

ApiObject = Any
"""An object of the generated client, e.g. a run or recurring run; kfp_server_api is untyped."""

_NO_KUBECONFIG_HOST = "http://localhost"
"""The address of the Kubernetes client without a kubeconfig."""

_VARIABLE_PREFIX = "KF_PIPELINES_"


def make_client(access: Access) -> Any:
    """Return a kfp.Client without contacting the server.

    Raises:
        ServerError: There is neither an address nor a usable kubeconfig, or no Google identity, or
            the proxy cannot be used.
    """
    if not access.host:
        try:
            check_kubeconfig(os.environ.get("KUBECONFIG", ""))
        except OSError as err:
            reason = f"{err.filename}: {err.strerror}"
            raise _no_kubeconfig_error(reason) from err
    client_class = _fast_client_class(_kubeconfig_proxy(access))
    with _hidden_variables(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # kfp warns on every start that it does not support servers before 2.0; `connect` checks.
        warnings.simplefilter("ignore", FutureWarning)
        client = client_class(
            host=access.host or None,
            ui_host=access.ui_host or None,
            namespace=access.kfp_namespace,
            existing_token=access.token or None,
            credentials=_credentials(access),
            cookies=access.cookie or None,
            kube_context=access.kube_context or None,
            ssl_ca_cert=str(access.ca_path) if access.ca_path else None,
        )
    if not access.host and client_address(client) == _NO_KUBECONFIG_HOST:
        raise _no_kubeconfig_error(_kubeconfig_problem(access))
    return client


def client_address(client: Any) -> str:
    """Return the URL that a kfp.Client calls."""
    return str(client.runs.run_service_get_run.__self__.api_client.configuration.host)


@contextlib.contextmanager
def _hidden_variables() -> Iterator[None]:
    """Hide environment variables from kfp.Client: `resolve_access` has read them already.

    In a pod, kfp.Client would prefer the pod's own cluster to the kubeconfig that was chosen.
    """
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name == POD_VARIABLE or name.startswith(_VARIABLE_PREFIX)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _fast_client_class(proxy_url: str) -> Any:
    import kfp

    class FastClient(kfp.Client):  # type: ignore[misc]  # kfp has no types
        """kfp.Client without retries: the original tries a dead server five times in 20 seconds."""

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            """Skip the health check of the constructor; `connect` sends it, with a time limit."""
            return type("Healthz", (), {"multi_user": False})

        def _load_config(self, *args: Any, **kwargs: Any) -> Any:
            config = super()._load_config(*args, **kwargs)
            config.host = config.host.rstrip("/")
            _keep_host(config)
            try:
                configure_client(config, proxy_url=proxy_url)
            except UsageError as err:
                raise ServerError(str(err)) from err
            return config

    return FastClient


def _keep_host(config: Any) -> None:
    """Restore the address after every token renewal.

    kubeconfig's renewal hook resets the address to the cluster's, without the path of the service
    proxy, and reinstalls itself. Source: `_set_config` in kubernetes/config/kube_config.py, 30.1.
    """
    host, renew = config.host, config.refresh_api_key_hook

    def renew_token(renewed: Any) -> None:
        renew(renewed)
        renewed.host, renewed.refresh_api_key_hook = host, renew_token

    if renew is not None:
        config.refresh_api_key_hook = renew_token


def _credentials(access: Access) -> Any:
    if access.iap_client_id:
        from repot_pipelines.kfp_server.iap import IapCredentials

        return IapCredentials(access.iap_client_id)
    if access.token_path is not None and not access.token:
        from kfp.client import ServiceAccountTokenVolumeCredentials

        return ServiceAccountTokenVolumeCredentials(path=str(access.token_path))
    return None


def _kubeconfig_proxy(access: Access) -> str:
    """Return the proxy of the kubeconfig that the address comes from; "" for none."""
    # If it cannot be read, kfp.Client finds no address in it either, which is reported then.
    with contextlib.suppress(ClusterError):
        if not access.host and (
            found := find_context(access.kube_context, os.environ, Path.home())
        ):
            return found.proxy_url
    return ""


def _kubeconfig_problem(access: Access) -> str:
    """Return why the Kubernetes client found no address."""
    from kubernetes import config

    try:
        config.load_kube_config(context=access.kube_context or None)
    except Exception as err:  # noqa: BLE001 - kubeconfig plug-ins raise any type
        return f"{err}".rstrip(".")
    return "it names no server"


def _no_kubeconfig_error(reason: str) -> ServerError:
    return ServerError(
        "No server address: --host is not set, this is not a pod of a cluster, and kubeconfig "
        f"cannot be used: {reason}. Set --host URL (or {HOST_VARIABLE}), or use a kubeconfig that "
        "reaches the cluster."
    )
