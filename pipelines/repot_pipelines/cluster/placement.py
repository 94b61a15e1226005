"""Compare what the pods of a run request with what the nodes of a cluster offer.

A pod that fits no node waits until someone changes the request or adds a node; one that only finds
the nodes full waits until other pods end. The comparison is pure; `read_free` reads what the
running pods leave.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from repot.kubernetes_rules import KubernetesObject
from repot.settings import ParameterValues, cluster_default_problems, read_cluster_defaults
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.cluster.errors import ForbiddenError
from repot_pipelines.cluster.nodes import (
    Node,
    format_taint,
    quantity,
    read_node,
    requested_by_pod,
)

TRAINER = "trainer"
"""Kind of the pods that train, in the task's own pod or in a Job."""

MAX_READ_NODES = 20
"""Free room is checked on this many nodes at most: reading the pods of more takes too long."""

_NUM_THREADS = 8
_AUTOSCALER_PATH = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
_CPU, _MEMORY = "cpu", "memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodRequest:
    """What a kind of pod requests.

    Attributes:
        kind: Prefix of the settings that decide it, e.g. "builder".
        resources: Quantity by resource.
        setting_names: Setting by resource.
        node_selector: Labels that its node must have.
        tolerations: Kubernetes toleration objects.
        selector_setting, tolerations_setting: Settings of the latter two; "" if there are none.
    """

    kind: str
    resources: Mapping[str, str]
    setting_names: Mapping[str, str]
    node_selector: Mapping[str, str]
    tolerations: Sequence[KubernetesObject]
    selector_setting: str = ""
    tolerations_setting: str = ""

    @property
    def text(self) -> str:
        """Return the requested resources, e.g. "cpu 2, memory 4Gi"."""
        return ", ".join(f"{name} {amount}" for name, amount in self.resources.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """Why a kind of pod would not be scheduled.

    Attributes:
        kind: That of the request.
        is_size: Whether only CPU and memory are missing, not an accelerator, label or toleration.
        is_temporary: Whether a node would do, but is full at the moment.
        finding: What is requested, which node is closest, and what that lacks; one sentence.
        fix: What to do about it.
    """

    kind: str
    is_size: bool
    is_temporary: bool
    finding: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lack:
    """One thing that a node lacks for a pod.

    Attributes:
        what: Half a sentence that follows the node's name, e.g. "has cpu 2 of 4".
        fix: What to do about it.
        weight: The larger, the further the node is from fitting.
        is_size: Whether it is CPU or memory.
    """

    what: str
    fix: str
    weight: float
    is_size: bool = False


def pod_requests(values: ParameterValues) -> list[PodRequest]:
    """Return the kinds of pods of a run, each with a setting for its CPU and its memory.

    Args:
        values: All settings by name.
    """
    kinds = [name.removesuffix("_cpu") for name in values if name.endswith("_cpu")]
    return [_pod_request(kind, values) for kind in kinds if f"{kind}_memory" in values]


def read_nodes(client: ClusterClient) -> list[Node]:
    """Return all nodes.

    Raises:
        ClusterError: The request failed; ForbiddenError if the user may not list them.
    """
    return [read_node(node) for node in client.list_all("list nodes", "/api/v1/nodes")]


def find_misfits(
    nodes: Sequence[Node],
    requests: Iterable[PodRequest],
    free: Mapping[str, Mapping[str, Decimal]] | None = None,
) -> list[Misfit]:
    """Return the requests that no node can hold, or that find every suitable node full.

    Args:
        nodes: All nodes; not empty.
        requests: What the pods request.
        free: Free amount of each resource by name of the node, for nodes of which it is known;
            None if it is not known.
    """
    found = (_find_misfit(nodes, request, free or {}) for request in requests)
    return [misfit for misfit in found if misfit is not None]


def read_cluster_values(client: ClusterClient, namespace: str, config_map: str) -> dict[str, Any]:
    """Return the administrator's defaults by setting; empty if they cannot be read or are wrong.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the runs.
        config_map: Name of the ConfigMap.

    Raises:
        ClusterError: The request failed for another reason than a missing permission.
    """
    path = f"/api/v1/namespaces/{namespace}/configmaps/{config_map}"
    try:
        found = client.find(f"read the ConfigMap {config_map}", path)
    except ForbiddenError:
        return {}
    data = (found or {}).get("data") or {}
    # Plan reports what is wrong.
    is_wrong = bool(cluster_default_problems(data, config_map))
    return {} if is_wrong else read_cluster_defaults(data, config_map)[0]


def find_run_misfits(
    client: ClusterClient, namespace: str, values: ParameterValues, given: ParameterValues
) -> list[Misfit]:
    """Return which pods of a run would not be scheduled now.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the run.
        values: All settings of the run by name, without the administrator's defaults.
        given: Those that the run sets itself.

    Raises:
        ClusterError: A request failed; ForbiddenError if the user may not list nodes.
    """
    from_cluster = read_cluster_values(client, namespace, str(values["settings_config_map"]))
    nodes, requests = read_nodes(client), pod_requests({**values, **from_cluster, **given})
    if not nodes:
        return []
    try:
        free = read_free(client, nodes, requests)
    except ForbiddenError:
        free = {}
    return find_misfits(nodes, requests, free)


def has_autoscaler(client: ClusterClient) -> bool:
    """Return whether the cluster autoscaler runs; others, such as Karpenter, cannot be seen.

    Raises:
        ClusterError: The request failed for another reason than a missing permission.
    """
    try:
        return client.find("check for an autoscaler", _AUTOSCALER_PATH) is not None
    except ForbiddenError:
        return False


def read_free(
    client: ClusterClient, nodes: Sequence[Node], requests: Sequence[PodRequest]
) -> dict[str, dict[str, Decimal]]:
    """Return what is free on the nodes that could hold one of the pods, by name of the node.

    Empty if those are more than MAX_READ_NODES.

    Raises:
        ClusterError: A request to the cluster failed.
    """
    suitable = [
        node
        for node in nodes
        if any(not list(_lacks(node, request, node.allocatable)) for request in requests)
    ]
    if len(suitable) > MAX_READ_NODES:
        return {}
    resources = {name for request in requests for name in request.resources}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        free = pool.map(lambda node: _free_on_node(client, node, resources), suitable)
        return {node.name: amounts for node, amounts in zip(suitable, free, strict=True)}


def _pod_request(kind: str, values: ParameterValues) -> PodRequest:
    settings = {_CPU: f"{kind}_cpu", _MEMORY: f"{kind}_memory"}
    resources = {resource: str(values[name]) for resource, name in settings.items()}
    count = int(values.get("accelerator_count", 0)) if kind == TRAINER else 0
    if count:
        resources[str(values["accelerator_type"])] = str(count)
        settings[str(values["accelerator_type"])] = "accelerator_count"
    # Every pod but the trainer's has the same placement.
    placement = kind if f"{kind}_node_selector" in values else "task"
    selector, tolerations = f"{placement}_node_selector", f"{placement}_tolerations"
    return PodRequest(
        kind=kind,
        resources=resources,
        setting_names=settings,
        node_selector=values.get(selector, {}),
        tolerations=values.get(tolerations, []),
        selector_setting=selector if selector in values else "",
        tolerations_setting=tolerations if tolerations in values else "",
    )


def _find_misfit(
    nodes: Sequence[Node], request: PodRequest, free: Mapping[str, Mapping[str, Decimal]]
) -> Misfit | None:
    lacks = {node.name: list(_lacks(node, request, node.allocatable)) for node in nodes}
    suitable = [node for node in nodes if not lacks[node.name]]
    intro = f"{request.kind} pods request {request.text}"
    if not suitable:
        closest = min(nodes, key=lambda node: _distance(lacks[node.name])).name
        missing = lacks[closest]
        whats = " and ".join(lack.what for lack in missing)
        which = f"the only node, {closest}," if len(nodes) == 1 else f"the closest node, {closest},"
        return Misfit(
            kind=request.kind,
            is_size=all(lack.is_size for lack in missing),
            is_temporary=False,
            finding=f"{intro}; {which} {whats}.",
            fix=" ".join(dict.fromkeys(lack.fix for lack in missing)),
        )
    if any(node.name not in free for node in suitable):
        return None
    shortages = {node.name: list(_lacks(node, request, free[node.name])) for node in suitable}
    if not all(shortages.values()):
        return None
    closest = min(shortages, key=lambda name: _distance(shortages[name]))
    whats = " and ".join(lack.what for lack in shortages[closest])
    return Misfit(
        kind=request.kind,
        is_size=True,
        is_temporary=True,
        finding=f"{intro}; every suitable node is full at the moment: {closest} {whats} free.",
        fix="They wait until other pods end; or request less, or add a node.",
    )


def _lacks(
    node: Node, request: PodRequest, amounts: Mapping[str, str] | Mapping[str, Decimal]
) -> Iterator[_Lack]:
    """Yield what a node lacks for a pod.

    Args:
        node: The node.
        request: What the pod requests.
        amounts: What the node offers, used or not; or only what is free.
    """
    labels = [
        f"{key}={value}"
        for key, value in request.node_selector.items()
        if node.labels.get(key) != value
    ]
    if labels:
        yield _Lack(
            what=f"lacks the label {', '.join(labels)}",
            fix=f"Correct {request.selector_setting}, or label a node.",
            weight=3,
        )
    taints = node.untolerated_taints(request.tolerations)
    # Many clusters tolerate the accelerator's own taint for pods that request the accelerator.
    taints = [taint for taint in taints if taint["key"] not in request.resources]
    if taints:
        yield _Lack(
            what=f"has the taint {', '.join(map(format_taint, taints))}",
            fix=_toleration_fix(request, taints),
            weight=2,
        )
    if not node.is_ready:
        yield _Lack(
            what="is not ready or cordoned",
            fix="Find the cause with kubectl describe node.",
            weight=2,
        )
    for resource, requested in request.resources.items():
        needed, offered = quantity(requested), quantity(amounts.get(resource, 0))
        if offered < needed:
            name = request.setting_names[resource]
            shown = _format(resource, offered)
            is_size = resource in (_CPU, _MEMORY)
            yield _Lack(
                what=f"has {resource} {shown} of {requested}",
                fix=f"Lower {name} to {shown} or less, or add a larger node."
                if offered > 0
                else f"Correct {name}, or add a node that has {resource}.",
                weight=float(1 - offered / needed) + (0 if is_size else 3),
                is_size=is_size,
            )


def _toleration_fix(request: PodRequest, taints: Sequence[KubernetesObject]) -> str:
    if not request.tolerations_setting:
        return "Remove the taint from a node."
    missing = [
        {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in taints
    ]
    tolerations = json.dumps([*request.tolerations, *missing])
    return f"Set {request.tolerations_setting}={tolerations}."


def _distance(lacks: Sequence[_Lack]) -> float:
    return sum(lack.weight for lack in lacks)


def _format(resource: str, amount: Decimal) -> str:
    """Return an amount that can be requested, rounded down, e.g. 1.93, 14.2Gi or 4."""
    amount = max(amount, Decimal(0))
    if resource == _MEMORY:
        mebibytes = int(amount / 2**20)
        return f"{mebibytes}Mi" if mebibytes < 2**10 else f"{mebibytes * 10 // 2**10 / 10:g}Gi"
    return f"{float(int(amount * 100)) / 100:g}"


def _free_on_node(client: ClusterClient, node: Node, resources: set[str]) -> dict[str, Decimal]:
    """Return what is free on a node; finished pods occupy nothing."""
    selector = f"spec.nodeName={node.name},status.phase!=Succeeded,status.phase!=Failed"
    pods = client.list_all("list pods", "/api/v1/pods", field_selector=selector)
    return {
        resource: quantity(node.allocatable.get(resource, 0))
        - sum((requested_by_pod(pod, resource) for pod in pods), start=Decimal(0))
        for resource in resources
    }
