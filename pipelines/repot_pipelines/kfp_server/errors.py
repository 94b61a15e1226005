"""Errors of calls to the server: every exception of the client becomes a ServerError with advice.

ServerError              the server is unreachable, or a call failed
├── UnreachableError     no response, or a temporary one (429, 5xx): retryable
├── AccessDeniedError    unauthenticated (401) or forbidden (403)
├── MissingObjectError   no such object (404)
└── NameTakenError       the name is in use (409)
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from repot.errors import RepotError
from repot_pipelines.http_clients import PROXY_ADVICE


class ServerError(RepotError):
    """The server is unreachable, or a call failed."""


class UnreachableError(ServerError):
    """No response, or a temporary one such as 503; retryable."""


class AccessDeniedError(ServerError):
    """Unauthenticated (401) or forbidden (403)."""


class MissingObjectError(ServerError):
    """The object does not exist (404)."""


class NameTakenError(ServerError):
    """The name is in use (409)."""


SERVER_QUOTE = "The server reports: "
"""Starts the sentence that quotes the server, often the last one of a message."""

_TEMPORARY_STATUSES = {429, 500, 502, 503, 504}
_ERROR_BY_STATUS: dict[int, type[ServerError]] = {
    **dict.fromkeys(_TEMPORARY_STATUSES, UnreachableError),
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: MissingObjectError,
    409: NameTakenError,
}
_CREDENTIALS_ADVICE = (
    "Pass a fresh token with --token-file or KF_PIPELINES_TOKEN, a session with --cookie-file, or "
    "--iap-client-id."
)


@contextlib.contextmanager
def convert_errors(action: str, address: str) -> Iterator[None]:
    """Convert exceptions of the generated client to ServerError.

    Args:
        action: What the call does, for the message, e.g. "start the run".
        address: The server's URL, for the message.

    Raises:
        ServerError: Or the subclass that fits the failure.
    """
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as err:
        raise _status_error(action, address, err) from err
    except urllib3.exceptions.HTTPError as err:
        raise UnreachableError(f"Cannot {action}: {_connection_problem(err, address)}") from err
    except (AttributeError, TypeError, ValueError) as err:
        # The generated client validates what it reads, e.g. that it knows the state of a run.
        raise ServerError(
            f"Cannot {action}: the KFP client cannot parse the response from {address}: {err}"
        ) from err


def read_error_message(body: str) -> str:
    """Return the message in an error body from KFP's API, its upload handlers or Kubernetes.

    A body of plain text is the message itself; for a web page the result is "".
    """
    try:
        response = json.loads(body)
    except ValueError:
        return "" if _is_web_page(body) else body.strip()
    if not isinstance(response, dict):
        return body.strip()
    details = [detail for detail in response.get("details") or [] if isinstance(detail, dict)]
    # For a 500 KFP puts the reason into the outer message only.
    messages = [
        message
        for detail in details
        if (message := detail.get("message")) not in (None, "", "Internal Server Error")
    ]
    outer = str(
        response.get("message") or response.get("error_message") or response.get("error") or ""
    )
    return str(messages[0]) if messages else outer


def web_page_message(address: str) -> str:
    """Return the message for a web page in place of an API response."""
    return (
        f"{address} responds with a web page, not with the API of Kubeflow Pipelines. Either it is "
        "a login page (give a token with --token-file, a session with --cookie-file, or "
        "--iap-client-id), or the address is wrong: a full Kubeflow serves the API under "
        "HOST/pipeline."
    )


def _status_error(action: str, address: str, err: Any) -> ServerError:
    body = err.body.decode(errors="replace") if isinstance(err.body, bytes) else err.body or ""
    if not err.status:
        return ServerError(
            f"Cannot {action}: the KFP client cannot parse the response from {address}: "
            f"{err.reason}"
        )
    error_class = _ERROR_BY_STATUS.get(err.status, ServerError)
    return error_class(f"Cannot {action}: {_status_problem(err.status, body, address)}")


def _status_problem(status: int, body: str, address: str) -> str:
    message = read_error_message(body)
    quote = f" {SERVER_QUOTE}{message.rstrip('.')}." if message else ""
    if status == 401:
        return (
            f"{address} does not accept the credentials (401): they are missing or expired."
            f"{quote} {_CREDENTIALS_ADVICE}"
        )
    if status == 403:
        return (
            f"these credentials lack the permission (403).{quote} "
            "Ask an administrator for it, or use another --namespace."
        )
    if status == 404 and (not message or _is_web_page(body)):
        return f"{address} does not serve the API of Kubeflow Pipelines (404). Check --host."
    if status == 503 and "no endpoints available" in message:
        return (
            f"Kubeflow Pipelines is installed but not running (503).{quote} "
            "Check the ml-pipeline pods."
        )
    return f"{address} responded with {status}.{quote}"


def _connection_problem(err: Exception, address: str) -> str:
    import urllib3

    reason = getattr(err, "reason", None) or err
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return f"the host name in {address} does not resolve. Check --host, or the VPN."
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and "refused" in str(reason):
        return (
            f"nothing listens at {address} (connection refused). "
            "Check --host; is the port-forward still running?"
        )
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return f"{address} does not respond in time. Check --host, the firewall, or the VPN."
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return f"the proxy to {address} failed ({_without_object(reason)}). {PROXY_ADVICE}"
    if isinstance(reason, urllib3.exceptions.SSLError):
        return (
            f"the TLS connection to {address} failed ({_without_object(reason)}). "
            "Pass --ca-file, or http:// in --host."
        )
    return f"the connection to {address} failed ({_without_object(reason)})."


def _without_object(reason: object) -> str:
    """Return a urllib3 message without the representation of the connection in front of it."""
    return re.sub(r"^<.*?>: |^\w+Connection\(.*?\): ", "", str(reason))


def _is_web_page(body: str) -> bool:
    return body.lstrip()[:200].lower().startswith(("<!doctype", "<html"))
