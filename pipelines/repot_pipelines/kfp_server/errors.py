"""Every way in which a call of the server fails, as one sentence that says what to do.

Whatever the real client raises becomes a ServerError; its subclasses are what a caller may want to tell apart.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from repot.errors import RepotError


class ServerError(RepotError):
    """The server cannot be reached, or did not do what it was asked."""


class UnreachableError(ServerError):
    """Nobody answered, or somebody in between said that the server is not there now; worth another try."""


class RefusedError(ServerError):
    """The server does not know who asks (401), or that one may not (403)."""


class MissingError(ServerError):
    """There is no such object (404)."""


class TakenError(ServerError):
    """The name is in use (409)."""


_RETRIED = {429, 500, 502, 503, 504}
_KINDS: dict[int, type[ServerError]] = {
    401: RefusedError,
    403: RefusedError,
    404: MissingError,
    409: TakenError,
}


@contextlib.contextmanager
def explained(action: str, address: str) -> Iterator[None]:
    """Turn what the client raises meanwhile into a ServerError.

    Args:
        action: What is being done, e.g. "start the run".
        address: The server's address, for the message.

    Raises:
        ServerError: One of its subclasses, where the failure is of a known kind.
    """
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as err:
        raise _answer_problem(action, address, err) from err
    except urllib3.exceptions.HTTPError as err:
        raise UnreachableError(f"Cannot {action}: {_connection_problem(err, address)}") from err
    except (AttributeError, TypeError, ValueError) as err:
        # The generated client checks what it reads, e.g. that a state is one that it knows.
        raise ServerError(
            f"Cannot {action}: {address} answered what kfp's client cannot read: {err}"
        ) from err


def read_message(body: str) -> str:
    """Return the sentence in an error's body: of KFP's API, its upload handlers, Kubernetes, or plain text."""
    try:
        facts = json.loads(body)
    except ValueError:
        return "" if _is_web_page(body) else body.strip()
    if not isinstance(facts, dict):
        return body.strip()
    inner = [
        detail.get("message", "")
        for detail in facts.get("details") or []
        if isinstance(detail, dict)
    ]
    outer = str(facts.get("message") or facts.get("error_message") or facts.get("error") or "")
    # KFP hides the reason of a 500 from the inner message and tells it in the outer one.
    told = [text for text in inner if text and text != "Internal Server Error"]
    return told[0] if told else outer


def web_page_problem(address: str) -> str:
    """Return what a web page in place of an answer means."""
    return (
        f"{address} answers with a web page, not with the API of Kubeflow Pipelines. Either it is a login page (give a "
        "token with --token-file, a session with --cookie-file or --iap-client-id), or the address is wrong: a full "
        "Kubeflow has the API under HOST/pipeline."
    )


def _answer_problem(action: str, address: str, err: Any) -> ServerError:
    body = err.body.decode(errors="replace") if isinstance(err.body, bytes) else err.body or ""
    said = read_message(body)
    if not err.status:
        return ServerError(
            f"Cannot {action}: {address} answered what kfp's client cannot read: {err.reason}"
        )
    kind = _KINDS.get(err.status, UnreachableError if err.status in _RETRIED else ServerError)
    return kind(f"Cannot {action}: {_status_problem(err.status, said, body, address)}")


def _status_problem(status: int, said: str, body: str, address: str) -> str:
    told = f" It says: {said.rstrip('.')}." if said else ""
    if status == 401:
        return f"{address} does not accept the credentials (401): they are missing or expired.{told} {_CREDENTIALS}"
    if status == 403:
        return f"these credentials have no right to (403).{told} Ask for it, or give another --namespace."
    if status == 404 and (not said or _is_web_page(body)):
        return f"there is no API of Kubeflow Pipelines at {address} (404). Check --host."
    if status == 503 and "no endpoints available" in said:
        return f"Kubeflow Pipelines is installed but not running (503).{told} Look at the pods of ml-pipeline."
    return f"{address} answered {status}.{told}"


_CREDENTIALS = "Give a fresh token with --token-file or KF_PIPELINES_TOKEN, a session with --cookie-file, or --iap-client-id."


def _connection_problem(err: Exception, address: str) -> str:
    import urllib3

    reason = getattr(err, "reason", None) or err
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return f"there is no host of the name in {address}. Check --host, or the VPN."
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and "refused" in str(reason):
        return f"nothing listens at {address} (connection refused). Check --host; is the port-forward still running?"
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return f"{address} does not answer in time. Check --host, the firewall, or the VPN."
    if isinstance(reason, urllib3.exceptions.SSLError):
        return f"the TLS connection to {address} failed ({_short(reason)}). Give --ca-file, or http:// in --host."
    return f"the connection to {address} failed ({_short(reason)})."


def _short(reason: object) -> str:
    return re.sub(r"^<.*?>: |^\w+Connection\(.*?\): ", "", str(reason))


def _is_web_page(body: str) -> bool:
    return body.lstrip()[:200].lower().startswith(("<!doctype", "<html"))
