"""The kfp.Client for an Access, without its waits and its words."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import Any

from repot_pipelines.kfp_server.access import HOST_VARIABLE, Access
from repot_pipelines.kfp_server.errors import ServerError

_NO_KUBECONFIG_HOST = "http://localhost"
_VARIABLES = "KF_PIPELINES_"


def make_client(access: Access) -> Any:
    """Return a kfp.Client; nobody is contacted yet.

    Raises:
        ServerError: There is no way in: no address and no usable kubeconfig, or no identity.
    """
    client_class = _client_class()
    with _hidden_variables(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # It says at every start that it is not for servers before 2.0; we look at the server's version ourselves.
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
    if not access.host and address_of(client) == _NO_KUBECONFIG_HOST:
        raise _no_kubeconfig(access)
    return client


def address_of(client: Any) -> str:
    """Return the address that the client calls."""
    return str(client.runs.run_service_get_run.__self__.api_client.configuration.host)


@contextlib.contextmanager
def _hidden_variables() -> Iterator[None]:
    """Hide what kfp.Client would read from the environment itself: an Access has read it, and weighed it with flags."""
    hidden = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_VARIABLES)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _client_class() -> Any:
    import kfp
    import urllib3

    class QuickClient(kfp.Client):  # type: ignore[misc]  # kfp has no types
        """kfp.Client without its waits: a server that is not there is not asked five times over 20 seconds."""

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            """Answer for the server, which is asked later, once, and with a time limit."""
            return type("Healthz", (), {"multi_user": False})

        def _load_config(self, *args: Any, **kwargs: Any) -> Any:
            config = super()._load_config(*args, **kwargs)
            config.host = config.host.rstrip("/")
            _keep_host(config)
            config.retries = urllib3.Retry(connect=0, read=0, other=0, redirect=4)
            return config

    return QuickClient


def _keep_host(config: Any) -> None:
    """Let no renewal of the token change the address: kubeconfig's puts the cluster's own back, without the proxy.

    It puts itself back, too. Source: `_set_config` in kubernetes/config/kube_config.py, 30.1.
    """
    host, renew = config.host, config.refresh_api_key_hook

    def renew_token(of: Any) -> None:
        renew(of)
        of.host, of.refresh_api_key_hook = host, renew_token

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


def _no_kubeconfig(access: Access) -> ServerError:
    from kubernetes import config

    try:
        config.load_kube_config(context=access.kube_context or None)
    except Exception as err:  # noqa: BLE001 - kubeconfig fails in as many ways as its plug-ins
        reason = f"{err}".rstrip(".")
    else:
        reason = "it names no server"
    return ServerError(
        f"There is no --host, this is not a pod of a cluster, and kubeconfig is of no use: {reason}. "
        f"Give --host URL (or {HOST_VARIABLE}), or a kubeconfig that reaches the cluster."
    )
