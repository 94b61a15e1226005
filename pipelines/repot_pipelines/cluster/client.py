"""A read-only Kubernetes client: time limits, plain JSON and readable errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.kubernetes_rules import KubernetesObject
from repot_pipelines.cluster.errors import (
    ExpiredListError,
    MissingObjectError,
    convert_errors,
    not_kubernetes,
)
from repot_pipelines.cluster.kubeconfig import find_context, make_api_client

_TIMEOUT_SECONDS = (4, 10)
"""To connect, and for each response."""

_PAGE_SIZE = 500
_JSON = "application/json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterClient:
    """A client of one Kubernetes API server.

    Attributes:
        api: The kubernetes.client.ApiClient.
        address: Address of the API server.
    """

    api: Any
    address: str

    def get(
        self,
        action: str,
        path: str,
        *,
        metadata_only: bool = False,
        query: Mapping[str, str | int] | None = None,
    ) -> KubernetesObject:
        """Return an object or a page of a list.

        Args:
            action: What the request does, for error messages.
            path: Path in the API, e.g. /api/v1/nodes.
            metadata_only: Request only the metadata, so that e.g. a Secret's data is never sent.
            query: Query parameters, e.g. limit=500.

        Raises:
            ClusterError: The request failed.
        """
        accept = _METADATA_ONLY if metadata_only else _JSON
        return self._call(action, "GET", path, headers={"Accept": accept}, query=query)

    def find(
        self, action: str, path: str, *, metadata_only: bool = False
    ) -> KubernetesObject | None:
        """Return an object; None if it does not exist.

        Raises:
            ClusterError: The request failed for another reason.
        """
        try:
            return self.get(action, path, metadata_only=metadata_only)
        except MissingObjectError:
            return None

    def list_all(
        self, action: str, path: str, *, field_selector: str = "", label_selector: str = ""
    ) -> list[KubernetesObject]:
        """Return every object of a list, which is read page by page.

        Args:
            action: What the request does, for error messages.
            path: Path in the API.
            field_selector: Which objects, e.g. spec.nodeName=a; "" for all.
            label_selector: Which objects, e.g. app=a; "" for all.

        Raises:
            ClusterError: A request failed.
        """
        query: dict[str, str | int] = {"limit": _PAGE_SIZE}
        if field_selector:
            query["fieldSelector"] = field_selector
        if label_selector:
            query["labelSelector"] = label_selector
        try:
            return self._read_pages(action, path, query)
        except ExpiredListError:
            # The cluster keeps the state that a list shows for five minutes, or less if it is busy.
            return self._read_pages(action, path, query)

    def review(
        self, action: str, path: str, request: KubernetesObject, *, as_user: str = ""
    ) -> KubernetesObject:
        """Post a review object, which is answered but not stored, e.g. a SelfSubjectAccessReview.

        Args:
            action: What the request does, for error messages.
            path: Path in the API.
            request: The review object.
            as_user: User to impersonate, which needs that permission; "" for oneself.

        Returns:
            The review object with its status.

        Raises:
            ClusterError: The request failed.
        """
        headers = {"Accept": _JSON, "Content-Type": _JSON}
        if as_user:
            headers["Impersonate-User"] = as_user
        return self._call(action, "POST", path, headers=headers, body=request)

    def _read_pages(
        self, action: str, path: str, query: Mapping[str, str | int]
    ) -> list[KubernetesObject]:
        objects: list[KubernetesObject] = []
        token: dict[str, str] = {}
        while True:
            page = self.get(action, path, query={**query, **token})
            objects += page.get("items") or []
            token = {"continue": page.get("metadata", {}).get("continue", "")}
            if not token["continue"]:
                return objects

    def _call(
        self,
        action: str,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        query: Mapping[str, str | int] | None = None,
        body: KubernetesObject | None = None,
    ) -> KubernetesObject:
        with convert_errors(action, self.address):
            response = self.api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT_SECONDS,
            )
        if not isinstance(response, dict):
            raise not_kubernetes(action, self.address)
        return response


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConnection:
    """A cluster that has answered.

    Attributes:
        client: Its client.
        context: Name of the context for reports.
        version: Kubernetes version, e.g. v1.31.2.
        user: Name of the authenticated user; "" if the cluster is too old to report it.
    """

    client: ClusterClient
    context: str
    version: str
    user: str


def open_client(context: str, environment: Mapping[str, str], home: Path) -> ClusterClient | None:
    """Return a client of the selected cluster without a request to it; None if nothing selects one.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Environment variables by name.
        home: The user's home folder.

    Raises:
        ClusterError: kubeconfig cannot be used.
    """
    found = find_context(context, environment, home)
    if found is None:
        return None
    api = make_api_client(found)
    return ClusterClient(api=api, address=api.configuration.host)


def connect(context: str, environment: Mapping[str, str], home: Path) -> ClusterConnection | None:
    """Connect to the selected cluster; None if nothing selects one.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Environment variables by name.
        home: The user's home folder.

    Raises:
        ClusterError: The cluster is unreachable, is not a Kubernetes API, or does not accept the
            credentials.
    """
    found = find_context(context, environment, home)
    if found is None:
        return None
    api = make_api_client(found)
    client = ClusterClient(api=api, address=api.configuration.host)
    return ClusterConnection(
        client=client,
        context=found.title,
        version=_fetch_version(client),
        user=_fetch_user(client),
    )


def _fetch_version(client: ClusterClient) -> str:
    action = "reach the cluster"
    version = (client.find(action, "/version") or {}).get("gitVersion")
    if not isinstance(version, str):
        raise not_kubernetes(action, client.address)
    return version


def _fetch_user(client: ClusterClient) -> str:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        # Available since Kubernetes 1.28, to every authenticated user.
        review = client.review(
            "sign in", "/apis/authentication.k8s.io/v1/selfsubjectreviews", request
        )
    except MissingObjectError:
        return ""
    return str(review["status"]["userInfo"].get("username", ""))
