"""Errors of calls to the Kubernetes API: each states the cause and what to do."""

import contextlib
import json
import re
from collections.abc import Iterator

from repot.errors import RepotError
from repot_pipelines.http_clients import PROXY_ADVICE

TRY_KUBECTL = "`kubectl get namespaces` with the same context must work first."

# The user name of unauthenticated requests, where the cluster accepts those.
_ANONYMOUS = "system:anonymous"


class ClusterError(RepotError):
    """The cluster is unreachable, or a request to it failed."""


class UnauthenticatedError(ClusterError):
    """The cluster does not accept the credentials (401)."""


class ForbiddenError(ClusterError):
    """The user lacks the permission (403)."""


class MissingObjectError(ClusterError):
    """The object does not exist (404)."""


class ExpiredListError(ClusterError):
    """The cluster no longer has the rest of a list (410)."""


_ERROR_BY_STATUS: dict[int, type[ClusterError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: MissingObjectError,
    410: ExpiredListError,
}


@contextlib.contextmanager
def convert_errors(action: str, address: str) -> Iterator[None]:
    """Convert exceptions of the Kubernetes client to ClusterError.

    Args:
        action: What the request does, e.g. "list nodes".
        address: Address of the API server, for the message.

    Raises:
        ClusterError: The request failed; a subclass for statuses that have one.
    """
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as err:
        if not err.status:
            raise ClusterError(_tls_problem(action, address, err.reason)) from err
        error_type = _ERROR_BY_STATUS.get(err.status, ClusterError)
        reason = _status_problem(err.status, _status_message(err.body), address)
        raise error_type(f"Cannot {action}: {reason}") from err
    except urllib3.exceptions.HTTPError as err:
        raise ClusterError(_connection_problem(action, address, err)) from err


def not_kubernetes(action: str, address: str) -> ClusterError:
    """Return the error for a response that is not JSON."""
    return ClusterError(
        f"Cannot {action}: {address} responds, but not as a Kubernetes API. "
        "Check the server address in kubeconfig, and the proxy in between."
    )


def _status_message(body: bytes | str | None) -> str:
    """Return the message of a Kubernetes Status object; "" if the body is something else."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        status = json.loads(text)
    except ValueError:
        return ""
    return str(status.get("message") or "") if isinstance(status, dict) else ""


def _status_problem(status: int, message: str, address: str) -> str:
    if status == 401 or _ANONYMOUS in message:
        return (
            f"{address} does not accept the credentials of kubeconfig ({status}): they are "
            f"missing or expired. Log in again; {TRY_KUBECTL}"
        )
    details = f" ({message.rstrip('.')})" if message else ""
    if status == 403:
        return f"the cluster denies it{details}. Ask its administrator for that permission."
    if status == 404:
        return f"the object does not exist at {address}{details}. Check its name, and --namespace."
    return f"{address} responded with {status}{details}. Try again later, or check the cluster."


def _connection_problem(action: str, address: str, err: Exception) -> str:
    import urllib3

    reason = getattr(err, "reason", None) or err
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return (
            f"Cannot {action}: the proxy to {address} failed ({_shorten(reason)}). {PROXY_ADVICE}"
        )
    if isinstance(reason, urllib3.exceptions.SSLError):
        return _tls_problem(action, address, str(reason))
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return (
            f"Cannot {action}: the host name in {address} cannot be resolved. "
            "Check kubeconfig, or the VPN."
        )
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and "refused" in str(reason):
        return (
            f"Cannot {action}: nothing listens at {address} (connection refused). "
            "Start the cluster, choose another with --context, or skip the cluster checks with "
            "KUBECONFIG=/dev/null."
        )
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return (
            f"Cannot {action}: {address} does not respond in time. "
            "Check the VPN and the firewall, or --context."
        )
    return (
        f"Cannot {action}: the connection to {address} failed ({_shorten(reason)}). "
        "Check kubeconfig and the network."
    )


def _tls_problem(action: str, address: str, reason: str) -> str:
    return (
        f"Cannot {action}: the TLS connection to {address} failed ({_shorten(reason)}). "
        "Check the cluster's certificate and address in kubeconfig."
    )


def _shorten(reason: object) -> str:
    """Return a urllib3 error in one line, without the leading repr of the connection object."""
    text = " ".join(str(reason).split())
    return re.sub(r"^<.*?>: |^\w+Connection\(.*?\): |^SSLError ", "", text)[:200]
