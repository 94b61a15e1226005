"""Retries and proxies of the HTTP clients that are generated for the APIs of KFP and Kubernetes.

Left alone, they try a dead server several times, wait for up to six hours if a server asks them to
(`Retry-After`), and use no proxy.
"""

import urllib.parse
from typing import Any

from repot.errors import UsageError
from repot.masking import redact_url

PROXY_ADVICE = (
    "Check HTTPS_PROXY (or proxy-url in kubeconfig), or add the server's host to NO_PROXY."
)

_MAX_WAITS = 3
"""How often a request is repeated because the server asks for it."""
_MAX_WAIT_SECONDS = 5
"""How long it waits each time, whatever the server asks for."""

_PROXY_SCHEMES = ("http", "https")


def configure_client(configuration: Any, *, proxy_url: str = "", uses_proxy: bool = True) -> None:
    """Limit the retries of a client, and set the proxy to its server.

    A server that does not respond is not tried again. One that answers 413, 429 or 503 with
    `Retry-After` has not done what was asked, so that any request can be repeated.

    Args:
        configuration: The kfp_server_api.Configuration or kubernetes.client.Configuration, with
            the server's address.
        proxy_url: The proxy of kubeconfig; "" for that of the environment.
        uses_proxy: Whether a proxy is used at all.

    Raises:
        UsageError: The proxy is of a kind that urllib3 cannot use.
    """
    import urllib3

    configuration.retries = urllib3.Retry(
        connect=0,
        read=0,
        other=0,
        redirect=4,
        status=_MAX_WAITS,
        allowed_methods=None,
        raise_on_status=False,
        retry_after_max=_MAX_WAIT_SECONDS,
    )
    proxy_url = proxy_url or _environment_proxy(configuration.host)
    if not (uses_proxy and proxy_url):
        return
    proxy = urllib.parse.urlsplit(proxy_url if "://" in proxy_url else f"http://{proxy_url}")
    if proxy.scheme not in _PROXY_SCHEMES or not proxy.hostname:
        raise UsageError(
            "The proxy must be an address http://HOST:PORT or https://HOST:PORT; got "
            f"{redact_url(proxy_url)!r}. Correct HTTPS_PROXY, or proxy-url in kubeconfig."
        )
    user_info, _, host = proxy.netloc.rpartition("@")
    configuration.proxy = f"{proxy.scheme}://{host}"
    if user_info:
        # urllib3 ignores the credentials in a proxy's address.
        configuration.proxy_headers = urllib3.make_headers(
            proxy_basic_auth=urllib.parse.unquote(user_info)
        )


def _environment_proxy(address: str) -> str:
    """Return the proxy that HTTPS_PROXY sets for an https:// address; "" for none.

    http:// addresses are those of port-forwards and of services inside a cluster, and a proxy would
    see their credentials.
    """
    from requests.utils import get_environ_proxies

    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" or parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return ""
    return get_environ_proxies(address).get("https", "")
