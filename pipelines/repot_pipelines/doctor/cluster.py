"""One cluster that answers: reads and questions with time limits, as plain JSON, with readable errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot_pipelines.doctor.check import Check, broken, failed, not_checked, ok, problem
from repot_pipelines.doctor.cluster_errors import (
    ClusterError,
    MissingError,
    explained,
    no_kubernetes,
)
from repot_pipelines.doctor.kubeconfig import Place, find_place, make_api

_TIMEOUT_SECONDS = (4, 10)
"""To connect, and for each answer."""

_PAGE_SIZE = 500
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A Kubernetes API.

    Attributes:
        api: The kubernetes.client.ApiClient.
        address: Where it is.
    """

    api: Any
    address: str

    def get(self, action: str, path: str, *, metadata_only: bool = False, **query: Any) -> Facts:
        """Return an object or a list.

        Args:
            action: What is being done, for the message when it fails.
            path: Path of the API, e.g. /api/v1/nodes.
            metadata_only: Whether to leave the contents at the server, e.g. those of a Secret.
            query: E.g. limit=500.

        Raises:
            ClusterError: It failed.
        """
        accept = _METADATA if metadata_only else _JSON
        return self._call(
            action, "GET", path, headers={"Accept": accept}, query=list(query.items())
        )

    def find(self, action: str, path: str, *, metadata_only: bool = False) -> Facts | None:
        """Return an object; None if there is none.

        Raises:
            ClusterError: It failed in another way.
        """
        try:
            return self.get(action, path, metadata_only=metadata_only)
        except MissingError:
            return None

    def list_all(self, action: str, path: str, **query: Any) -> Iterator[Facts]:
        """Yield every object of a list, page after page.

        Raises:
            ClusterError: It failed.
        """
        token = ""
        while True:
            query |= {"limit": _PAGE_SIZE} | ({"continue": token} if token else {})
            page = self.get(action, path, **query)
            yield from page.get("items") or []
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return

    def ask(self, action: str, path: str, question: Facts, *, as_user: str = "") -> Facts:
        """Return the answer to a question that is posted and not kept, e.g. a SelfSubjectAccessReview.

        Args:
            action: What is being done, for the message when it fails.
            path: Path of the API.
            question: The object.
            as_user: In whose name to ask, which takes the right to impersonate; "" for one's own.

        Raises:
            ClusterError: It failed.
        """
        headers = {"Accept": _JSON, "Content-Type": _JSON} | (
            {"Impersonate-User": as_user} if as_user else {}
        )
        return self._call(action, "POST", path, headers=headers, body=question)

    def _call(
        self,
        action: str,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        query: list[tuple[str, Any]] | None = None,
        body: Facts | None = None,
    ) -> Facts:
        with explained(action, self.address):
            answer = self.api.call_api(
                path,
                method,
                query_params=query or [],
                header_params=headers,
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT_SECONDS,
            )
        if not isinstance(answer, dict):
            raise no_kubernetes(action, self.address)
        return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a cluster says about itself and about who asks.

    Attributes:
        version: Kubernetes' version, e.g. v1.31.2.
        user: Name of who asks; "" where the cluster is too old to say it.
    """

    version: str
    user: str


def open_cluster(place: Place) -> Cluster:
    """Return a cluster; it is not contacted yet.

    Raises:
        ClusterError: The context cannot be used.
    """
    api = make_api(place)
    return Cluster(api=api, address=api.configuration.host)


def greet(cluster: Cluster) -> Greeting:
    """Return the version and who one is there.

    Raises:
        ClusterError: It cannot be reached, is no cluster, or does not accept the credentials.
    """
    action = "reach the cluster"
    version = (cluster.find(action, "/version") or {}).get("gitVersion")
    if not isinstance(version, str):
        raise no_kubernetes(action, cluster.address)
    question = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        # Since Kubernetes 1.28. Everyone who is authenticated may ask it.
        answer = cluster.ask(
            "sign in", "/apis/authentication.k8s.io/v1/selfsubjectreviews", question
        )
    except MissingError:
        return Greeting(version=version, user="")
    return Greeting(version=version, user=str(answer["status"]["userInfo"].get("username", "")))


NAME = "cluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """The first contact with the cluster.

    Attributes:
        check: How it went.
        cluster: The cluster; None if there is none that can be used.
        greeting: What it said; None if there is none that can be used.
    """

    check: Check
    cluster: Cluster | None = None
    greeting: Greeting | None = None


def meet(context: str, environment: Mapping[str, str], *, is_asked_for: bool) -> Meeting:
    """Find the cluster and ask it who it is.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Variables by name.
        is_asked_for: Whether an option is about the cluster; if not, having none is fine.
    """
    try:
        place = find_place(context, environment, Path.home())
        if place is None:
            return Meeting(check=_no_cluster(is_asked_for=is_asked_for))
        cluster = open_cluster(place)
        greeting = greet(cluster)
    except ClusterError as err:
        return Meeting(check=failed(NAME, err, fix="Look at kubeconfig."))
    except Exception as err:  # noqa: BLE001 - it must not hide what the other sections see
        return Meeting(check=broken(NAME, err))
    user = f", as {greeting.user}" if greeting.user else ""
    finding = f"{cluster.address}, {place.title}, Kubernetes {greeting.version}{user}"
    return Meeting(check=ok(NAME, finding), cluster=cluster, greeting=greeting)


def _no_cluster(*, is_asked_for: bool) -> Check:
    if not is_asked_for:
        return not_checked(NAME, "neither an option nor kubeconfig names one")
    return problem(
        NAME,
        "Options are about a cluster, and kubeconfig names none.",
        "Give --context, or set KUBECONFIG to the file that the cluster's tools write.",
    )
