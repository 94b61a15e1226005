"""One server that answers: its version, its links, and its calls with time limits and readable errors."""

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from repot.errors import UsageError
from repot_pipelines.kfp_server.access import Access
from repot_pipelines.kfp_server.client import address_of, make_client
from repot_pipelines.kfp_server.errors import MissingError, ServerError, explained, web_page_problem

OLDEST_VERSION = (2, 14)
_OLDEST = ".".join(map(str, OLDEST_VERSION))
ORPHAN_VERSION = (2, 16)
"""From here on a schedule can be deleted without its running run. Source: kubeflow/pipelines#12574."""

_TIMEOUT_SECONDS = (5, 60)
"""To connect, and for each answer."""

_FIRST_TIMEOUT_SECONDS = (5, 10)
"""The same for the question whether somebody is there."""

_PAGE_SIZE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A Kubeflow Pipelines server that has said that it is one.

    Attributes:
        client: The kfp.Client.
        address: Where it is called.
        ui_address: What a person opens in a browser; "" where there is none.
        version: (major, minor), or None where the server does not say it.
        namespace: The namespace of runs and schedules; "" for the server's only one.
        kfp_namespace: Where KFP itself is installed.
    """

    client: Any
    address: str
    ui_address: str
    version: tuple[int, int] | None
    namespace: str
    kfp_namespace: str

    @property
    def can_orphan(self) -> bool:
        """Return whether deleting a schedule can spare its running run."""
        return self.version is not None and self.version >= ORPHAN_VERSION

    def call(self, action: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the generated API.

        Args:
            action: What is being done, for the message when it fails.
            method: A bound method, e.g. `server.client.runs.run_service_get_run`.
            *args: Its arguments.
            **kwargs: Its arguments.

        Raises:
            ServerError: It failed, or somebody answered with a web page.
        """
        with explained(action, self.address):
            answer = method(*args, _request_timeout=_TIMEOUT_SECONDS, **kwargs)
        # A login page counts as success: 200, no JSON in it, every field of the answer None.
        if "json" not in (_api_client(method).last_response.getheader("content-type") or "json"):
            raise ServerError(f"Cannot {action}: {web_page_problem(self.address)}")
        return answer

    def list_all(
        self, action: str, method: Callable[..., Any], field: str, **query: Any
    ) -> Iterator[Any]:
        """Yield every object of a list, page after page.

        Args:
            action: What is being done, for the message when it fails.
            method: A bound list method.
            field: The field of its answer that holds the objects.
            query: Arguments that are the same for every page.
        """
        token = ""
        while True:
            answer = self.call(action, method, page_size=_PAGE_SIZE, page_token=token, **query)
            yield from getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def get_pod_log(self, namespace: str, pod: str) -> str:
        """Return a pod's log from the cluster, where kubeconfig leads to the server; "" where it does not."""
        cluster, proxied, _ = self.address.partition("/api/v1/namespaces/")
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return self.get_text(path, {"container": "main"}, host=cluster) if proxied else ""

    def get_text(self, path: str, query: dict[str, str], *, host: str = "") -> str:
        """Return the text at a path that is not part of the generated API; "" where there is none.

        Args:
            path: Below the server's address.
            query: Its query.
            host: Another address than the server's.
        """
        api = _api_client(self.client.runs.run_service_get_run)
        try:
            with explained(f"read {path}", self.address):
                api.call_api(
                    path,
                    "GET",
                    query_params=list(query.items()),
                    header_params={},
                    auth_settings=["Bearer"],
                    _request_timeout=_TIMEOUT_SECONDS,
                    _host=host or None,
                )
        except ServerError:
            return ""
        kind = api.last_response.getheader("content-type") or ""
        return "" if "html" in kind else str(api.last_response.data)

    def link(self, kind: str, identifier: str) -> str:
        """Return where a person looks at an object.

        Args:
            kind: "runs", "recurringrun" or "pipelines".
            identifier: Its id.
        """
        page = f"/#/{kind}/details/{identifier}"
        if self.ui_address:
            return f"{self.ui_address}{page}"
        forward = f"kubectl port-forward -n {self.kfp_namespace} svc/ml-pipeline-ui 8080:80"
        return f"http://localhost:8080{page} (after `{forward}`)"


def connect(access: Access, *, namespace: str = "") -> Server:
    """Find the server and ask it who it is: one request, a few seconds at most.

    Args:
        access: Where it is, and with which right.
        namespace: Namespace of runs and schedules, on a multi-user server.

    Raises:
        ServerError: It cannot be reached, is none, or is too old.
        UsageError: It has several users, and no namespace is given.
    """
    client = make_client(access)
    address = address_of(client)
    facts = _healthz(client, address)
    # The UI and the API answer with different names; only the API's own has no page to open.
    tag = facts.get("tag_name") or facts.get("apiServerTagName") or ""
    is_ui = "apiServerReady" in facts or "frontendTagName" in facts
    version = _parse_version(tag)
    if version is not None and version < OLDEST_VERSION:
        raise ServerError(
            f"{address} is Kubeflow Pipelines {tag}; repot needs {_OLDEST} or later. Have the server upgraded."
        )
    if (facts.get("multi_user") or facts.get("apiServerMultiUser")) and not namespace:
        raise UsageError(f"{address} has several users: say with --namespace whose runs are meant.")
    return Server(
        client=client,
        address=address,
        ui_address=access.ui_host or (access.host if is_ui else ""),
        version=version,
        namespace=namespace,
        kfp_namespace=access.kfp_namespace,
    )


def named(name: str) -> str:
    """Return the list filter for one display name.

    It is quoted once more than HTTP wants: the server decodes a filter twice, and would read "+" as a blank.
    """
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return urllib.parse.quote(json.dumps({"predicates": [predicate]}))


def _healthz(client: Any, address: str) -> dict[str, Any]:
    action = "reach Kubeflow Pipelines"
    method = client.healthzs.healthz_service_get_healthz
    try:
        with explained(action, address):
            method(_request_timeout=_FIRST_TIMEOUT_SECONDS)
    except MissingError as err:
        raise MissingError(f"{err} repot needs Kubeflow Pipelines {_OLDEST} or later.") from err
    try:
        # The generated answer leaves the version out: the text has it.
        facts = json.loads(_api_client(method).last_response.data)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise ServerError(f"Cannot {action}: {web_page_problem(address)}")
    return facts


def _parse_version(tag: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)", tag)
    return (int(match[1]), int(match[2])) if match else None


def _api_client(method: Any) -> Any:
    return method.__self__.api_client
