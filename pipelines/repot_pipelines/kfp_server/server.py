"""A connected server: its version and links, and calls with time limits and readable errors."""

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from repot.errors import UsageError
from repot_pipelines.kfp_server.access import Access
from repot_pipelines.kfp_server.client import ApiObject, client_address, make_client
from repot_pipelines.kfp_server.errors import (
    MissingObjectError,
    ServerError,
    convert_errors,
    web_page_message,
)

OLDEST_VERSION = (2, 16)
"""Older ones reject a pipeline with a security context. Source: kubeflow/pipelines at 2.15.0 and
2.16.0, kubernetes_platform/proto and argocompiler/container.go."""
_OLDEST = ".".join(map(str, OLDEST_VERSION))

_TIMEOUT_SECONDS = (5, 60)
"""To connect, and to wait for an answer."""

_CONNECT_TIMEOUT_SECONDS = (5, 10)
"""The same for the first call, which only checks that the server is there."""

_PAGE_SIZE = 100
_SERVICE_PROXY = "/api/v1/namespaces/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A Kubeflow Pipelines server that answered the health check.

    Attributes:
        client: The kfp.Client.
        address: URL that the client calls.
        ui_address: URL of the UI; "" if there is none.
        version: (major, minor); None if the server does not report it.
        namespace: Namespace of runs and schedules; "" on a single-user server.
        kfp_namespace: Namespace in which KFP is installed.
        pipeline_store: Where the server keeps pipelines: "database", "kubernetes", or "" if it does
            not report it.
    """

    client: Any
    address: str
    ui_address: str
    version: tuple[int, int] | None
    namespace: str
    kfp_namespace: str
    pipeline_store: str = ""

    @property
    def can_orphan_runs(self) -> bool:
        """Return whether the server can delete a schedule and keep its active run.

        Servers since 2.16 can (kubeflow/pipelines#12574); one of unknown version may be older.
        """
        return self.version is not None

    @property
    def is_proxied(self) -> bool:
        """Return whether it is reached through the Kubernetes API, as without --host."""
        return _SERVICE_PROXY in self.address

    def call(self, action: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> ApiObject:
        """Call a method of the generated API.

        Args:
            action: What the call does, for error messages, e.g. "start the run".
            method: A bound method, e.g. `server.client.runs.run_service_get_run`.
            *args: Arguments of the method.
            **kwargs: Keyword arguments of the method.

        Raises:
            ServerError: The call failed, or a web page came back.
        """
        with convert_errors(action, self.address):
            answer = method(*args, _request_timeout=_TIMEOUT_SECONDS, **kwargs)
        # The client takes a login page for success: status 200, and every field None.
        if "json" not in (_api_client(method).last_response.getheader("content-type") or "json"):
            raise ServerError(f"Cannot {action}: {web_page_message(self.address)}")
        return answer

    def list_all(
        self, action: str, method: Callable[..., Any], field: str, **query: Any
    ) -> Iterator[ApiObject]:
        """Yield every object of a list, page by page.

        Args:
            action: What the call does, for error messages.
            method: A bound list method.
            field: Field of the answer that holds the objects.
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
        """Return a pod's log through the Kubernetes API; "" without kubeconfig access."""
        cluster, proxied, _ = self.address.partition(_SERVICE_PROXY)
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return self.get_text(path, {"container": "main"}, host=cluster) if proxied else ""

    def get_text(self, path: str, query: dict[str, str], *, host: str = "") -> str:
        """Return the text at a path outside the generated API; "" if the request fails.

        Args:
            path: Path below the server's address.
            query: Query parameters.
            host: URL to use instead of the server's address.
        """
        content_type, text = self._get(path, query, host=host)
        return "" if "html" in content_type else text

    def get_object(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """Return the JSON object at a path outside the generated API; empty if the request fails.

        The content type is ignored: KFP's UI sends JSON as HTML.

        Args:
            path: Path below the server's address.
            query: Query parameters.
        """
        try:
            content = json.loads(self._get(path, query)[1])
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _get(self, path: str, query: dict[str, str], *, host: str = "") -> tuple[str, str]:
        """Return content type and text at a path; both are "" if the request fails."""
        api = _api_client(self.client.runs.run_service_get_run)
        try:
            with convert_errors(f"read {path}", self.address):
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
            return "", ""
        content_type = api.last_response.getheader("content-type") or ""
        return content_type, str(api.last_response.data)

    def link(self, kind: str, object_id: str) -> str:
        """Return the URL of an object's page in the UI, with the port-forward that it may need.

        Args:
            kind: "runs", "recurringrun" or "pipelines".
            object_id: Id of the object.
        """
        page = f"/#/{kind}/details/{object_id}"
        if self.ui_address:
            return f"{self.ui_address}{page}"
        forward = f"kubectl port-forward -n {self.kfp_namespace} svc/ml-pipeline-ui 8080:80"
        return f"http://localhost:8080{page} (after `{forward}`)"


def connect(access: Access, *, namespace: str = "") -> Server:
    """Check that the server is there and new enough: one request, a few seconds at most.

    Args:
        access: Server address and credentials.
        namespace: Namespace of runs and schedules, on a multi-user server.

    Raises:
        ServerError: The server is unreachable, is not Kubeflow Pipelines, or is too old.
        UsageError: The server is multi-user and `namespace` is empty.
    """
    client = make_client(access)
    address = client_address(client)
    health = _get_health(client, address)
    # The UI's health answer has other field names than the API's.
    is_ui = "apiServerReady" in health or "frontendTagName" in health
    tag = health.get("tag_name") or health.get("apiServerTagName") or ""
    version = _parse_version(tag)
    if version is not None and version < OLDEST_VERSION:
        raise ServerError(
            f"{address} is Kubeflow Pipelines {tag}; repot needs {_OLDEST} or later. "
            "Upgrade the server."
        )
    if (health.get("multi_user") or health.get("apiServerMultiUser")) and not namespace:
        raise UsageError(
            f"{address} is a multi-user server: set --namespace to the namespace of the runs."
        )
    return Server(
        client=client,
        address=address,
        ui_address=access.ui_host or (access.host if is_ui else ""),
        version=version,
        namespace=namespace,
        kfp_namespace=access.kfp_namespace,
        pipeline_store=health.get("pipeline_store") or health.get("pipelineStore") or "",
    )


def name_filter(name: str) -> str:
    """Return the `filter` argument of a list method for objects with this display name.

    It is URL-quoted once more than HTTP requires: the server decodes filters twice, and would read
    a "+" as a blank.
    """
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return urllib.parse.quote(json.dumps({"predicates": [predicate]}))


def _get_health(client: Any, address: str) -> dict[str, Any]:
    action = "reach Kubeflow Pipelines"
    method = client.healthzs.healthz_service_get_healthz
    try:
        with convert_errors(action, address):
            method(_request_timeout=_CONNECT_TIMEOUT_SECONDS)
    except MissingObjectError as err:
        message = f"{err} repot needs Kubeflow Pipelines {_OLDEST} or later."
        raise MissingObjectError(message) from err
    try:
        # The generated object lacks the version; the JSON text has it.
        health = json.loads(_api_client(method).last_response.data)
    except ValueError:
        health = None
    if not isinstance(health, dict):
        raise ServerError(f"Cannot {action}: {web_page_message(address)}")
    return health


def _parse_version(tag: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)", tag)
    return (int(match[1]), int(match[2])) if match else None


def _api_client(method: Any) -> Any:
    return method.__self__.api_client
