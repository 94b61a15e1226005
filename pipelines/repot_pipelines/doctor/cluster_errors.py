"""Every way in which a call of the Kubernetes API fails, as one sentence and what to do."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from repot.errors import RepotError

TRY_KUBECTL = "`kubectl get namespaces` with the same context must work first."


class ClusterError(RepotError):
    """The cluster cannot be reached, or did not answer what was asked."""


class RefusedError(ClusterError):
    """The cluster does not know who asks (401)."""


class ForbiddenError(ClusterError):
    """Who asks may not (403)."""


class MissingError(ClusterError):
    """There is no such object (404)."""


# Whom a cluster takes for someone without credentials, where it does not refuse him at the door.
_ANONYMOUS = "system:anonymous"
_KINDS: dict[int, type[ClusterError]] = {401: RefusedError, 403: ForbiddenError, 404: MissingError}


@contextlib.contextmanager
def explained(action: str, address: str) -> Iterator[None]:
    """Turn what the client raises meanwhile into a ClusterError.

    Args:
        action: What is being done, e.g. "list nodes".
        address: The API server's address, for the message.

    Raises:
        ClusterError: One of its subclasses, where the failure is of a known kind.
    """
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as err:
        if not err.status:
            raise ClusterError(_tls_problem(action, address, err.reason)) from err
        kind = _KINDS.get(err.status, ClusterError)
        raise kind(
            f"Cannot {action}: {_status_problem(err.status, _said(err.body), address)}"
        ) from err
    except urllib3.exceptions.HTTPError as err:
        raise ClusterError(_connection_problem(action, address, err)) from err


def no_kubernetes(action: str, address: str) -> ClusterError:
    """Return what an answer without JSON means."""
    return ClusterError(
        f"Cannot {action}: {address} answers, but not as a Kubernetes API. "
        "Check the server's address in kubeconfig, and the proxy in between."
    )


def _said(body: Any) -> str:
    """Return the message of a Status; "" where the body is none."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        facts = json.loads(text)
    except ValueError:
        return ""
    return str(facts.get("message") or "") if isinstance(facts, dict) else ""


def _status_problem(status: int, said: str, address: str) -> str:
    if status == 401 or _ANONYMOUS in said:
        return (
            f"{address} does not accept the credentials of kubeconfig ({status}): they are missing or expired. "
            f"Log in again; {TRY_KUBECTL}"
        )
    told = f" ({said.rstrip('.')})" if said else ""
    if status == 403:
        return f"the cluster denies it{told}. Ask its administrator for that right."
    if status == 404:
        return f"there is no such thing at {address}{told}. Check its name, and --namespace."
    return f"{address} answered {status}{told}. Try again later, or look at the cluster."


def _connection_problem(action: str, address: str, err: Exception) -> str:
    import urllib3

    reason = getattr(err, "reason", None) or err
    if isinstance(reason, urllib3.exceptions.SSLError):
        return _tls_problem(action, address, str(reason))
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return f"Cannot {action}: there is no host of the name in {address}. Check kubeconfig, or the VPN."
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and "refused" in str(reason):
        return (
            f"Cannot {action}: nothing listens at {address} (connection refused). Start the cluster, choose another "
            "with --context, or leave clusters out with KUBECONFIG=/dev/null."
        )
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return f"Cannot {action}: {address} does not answer in time. Check the VPN and the firewall, or --context."
    return f"Cannot {action}: the connection to {address} failed ({_short(reason)}). Check kubeconfig and the network."


def _tls_problem(action: str, address: str, reason: str) -> str:
    return (
        f"Cannot {action}: the TLS connection to {address} failed ({_short(reason)}). "
        "Check the cluster's certificate and address in kubeconfig."
    )


def _short(reason: object) -> str:
    text = " ".join(str(reason).split())
    return re.sub(r"^<.*?>: |^\w+Connection\(.*?\): |^SSLError ", "", text)[:200]
