"""Check that the cluster can schedule the trainer: nodes, accelerators, quota and images."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot.errors import join_names
from repot.kubernetes_rules import KubernetesObject
from repot.settings import ParameterValues
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.cluster.errors import ForbiddenError
from repot_pipelines.cluster.nodes import (
    Node,
    format_taint,
    quantity,
    requested_by_pod,
    why_no_match,
)
from repot_pipelines.cluster.placement import (
    TRAINER,
    PodRequest,
    find_misfits,
    has_autoscaler,
    read_free,
)
from repot_pipelines.doctor.results import CheckResult, not_checked, ok, problem, warning

TRAINER_NODES = "trainer nodes"
POD_SIZES = "pod sizes"
QUOTA = "quota"

_NUM_THREADS = 8
_DEFAULT_REGISTRY = "docker.io/"
_MAX_NAMES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PodPlacement:
    """What the trainer's pod requests; same meaning as the pipeline parameters.

    Attributes:
        accelerator_type: Resource name, e.g. nvidia.com/gpu.
        accelerator_count: Number of accelerators; 0 for none.
        node_selector: Labels that the node must have.
        tolerations: Kubernetes toleration objects.
    """

    accelerator_type: str
    accelerator_count: int
    node_selector: Mapping[str, str]
    tolerations: Sequence[KubernetesObject]

    @property
    def selector_text(self) -> str:
        """Return the node selector for messages."""
        labels = ",".join(f"{key}={value}" for key, value in self.node_selector.items())
        return labels or "no selector"


def trainer_placement(values: ParameterValues) -> PodPlacement | None:
    """Return what the trainer's pod requests; None if a value is not known.

    Args:
        values: Settings by name.
    """
    names = ("accelerator_type", "accelerator_count", "trainer_node_selector")
    if any(name not in values for name in (*names, "trainer_tolerations")):
        return None
    return PodPlacement(
        accelerator_type=values["accelerator_type"],
        accelerator_count=values["accelerator_count"],
        node_selector=values["trainer_node_selector"],
        tolerations=values["trainer_tolerations"],
    )


def check_nodes(client: ClusterClient, nodes: Sequence[Node], pod: PodPlacement) -> CheckResult:
    """Check that a node exists for the trainer's pod, and report how many accelerators are free.

    Args:
        client: Client of the cluster.
        nodes: All nodes of the cluster.
        pod: What the pod requests.

    Raises:
        ClusterError: A request to the cluster failed.
    """
    if not nodes:
        return problem(TRAINER_NODES, "The cluster has no nodes.", "Add a node.")
    matching = [node for node in nodes if node.matches(pod.node_selector)]
    if not matching:
        return _no_matching_node(client, nodes, pod)
    count = pod.accelerator_count
    large_enough = [
        node for node in matching if not count or node.capacity(pod.accelerator_type) >= count
    ]
    if not large_enough:
        return _too_few_accelerators(client, nodes, matching, pod)
    ready = [node for node in large_enough if node.is_ready]
    if not ready:
        names = join_names((node.name for node in large_enough), _MAX_NAMES)
        return problem(
            TRAINER_NODES,
            f"No matching node accepts pods: {names} not ready or cordoned.",
            "Find the cause with kubectl describe node.",
        )
    usable = [node for node in ready if not node.untolerated_taints(pod.tolerations)]
    if not usable:
        return _tainted(ready, pod)
    return _count_free(client, usable, pod)


def check_sizes(
    client: ClusterClient, nodes: Sequence[Node], requests: Sequence[PodRequest]
) -> CheckResult:
    """Check that for every kind of pod of a run some node is large enough and accepts it.

    What the trainer's pod lacks beside CPU and memory is left to `check_nodes`.

    Args:
        client: Client of the cluster.
        nodes: All nodes of the cluster; not empty.
        requests: What the pods request.

    Raises:
        ClusterError: A request to the cluster failed.
    """
    try:
        free = read_free(client, nodes, requests)
    except ForbiddenError:
        free = {}
    misfits = [
        misfit
        for misfit in find_misfits(nodes, requests, free)
        if misfit.is_size or misfit.kind != TRAINER
    ]
    if not misfits:
        kinds = ", ".join(request.kind for request in requests)
        return ok(POD_SIZES, f"a node is large enough for each kind of pod: {kinds}")
    finding = " ".join(misfit.finding for misfit in misfits)
    fix = " ".join(dict.fromkeys(misfit.fix for misfit in misfits))
    if all(misfit.is_temporary for misfit in misfits):
        return warning(POD_SIZES, finding, fix)
    if has_autoscaler(client):
        return warning(
            POD_SIZES, finding, f"{fix} Or wait, if the autoscaler has nodes of that size."
        )
    return problem(POD_SIZES, finding, fix)


def list_quotas(client: ClusterClient, namespace: str) -> list[KubernetesObject]:
    """Return the ResourceQuotas of a namespace.

    Raises:
        ClusterError: The request failed.
    """
    return client.list_all("list quotas", f"/api/v1/namespaces/{namespace}/resourcequotas")


def check_quotas(
    quotas: Iterable[KubernetesObject], *, accelerator_type: str, accelerator_count: int
) -> CheckResult:
    """Check that the quotas of the namespace leave room for the trainer's accelerators.

    Args:
        quotas: The ResourceQuotas of the namespace.
        accelerator_type: Resource name.
        accelerator_count: How many the trainer requests.
    """
    resource = f"requests.{accelerator_type}"
    limiting = [quota for quota in quotas if resource in (quota["spec"].get("hard") or {})]
    if not limiting:
        return ok(QUOTA, f"no quota limits {accelerator_type}")
    tightest = min(
        limiting, key=lambda quota: _hard_limit(quota, resource) - _used(quota, resource)
    )
    hard, used = _hard_limit(tightest, resource), _used(tightest, resource)
    name = tightest["metadata"]["name"]
    finding = (
        f"{name} allows {hard} {accelerator_type}, {used} in use; {accelerator_count} requested"
    )
    if hard < accelerator_count:
        return problem(QUOTA, f"{finding}.", f"Request fewer, or ask to raise {name}.")
    if hard - used < accelerator_count:
        fix = "Wait until others release some: the pod is rejected until then."
        return warning(QUOTA, f"{finding}.", fix)
    return ok(QUOTA, finding)


def check_container_images(
    references: Iterable[tuple[str, str]], nodes: Sequence[Node]
) -> list[CheckResult]:
    """Report for each container image whether nodes already have it.

    Args:
        references: (name, image reference) pairs.
        nodes: All nodes.
    """
    return [_check_container_image(name, reference, nodes) for name, reference in references]


def _no_matching_node(
    client: ClusterClient, nodes: Sequence[Node], pod: PodPlacement
) -> CheckResult:
    reason = why_no_match(nodes, pod.node_selector)
    return _problem_unless_autoscaled(
        client,
        f"{pod.selector_text} matches no node: {reason}",
        "Correct the selector (kubectl get nodes --show-labels), or add such a node",
    )


def _too_few_accelerators(
    client: ClusterClient, nodes: Sequence[Node], matching: Sequence[Node], pod: PodPlacement
) -> CheckResult:
    """Return that no matching node has enough accelerators, and which nodes have some."""
    resource, count = pod.accelerator_type, pod.accelerator_count
    largest = max(node.capacity(resource) for node in matching)
    elsewhere = sorted(node.name for node in nodes if node.capacity(resource))
    if largest:
        finding = (
            f"No node has {count} {resource}; the largest of {len(matching)} matching nodes has "
            f"{largest}"
        )
        fix = f"Request {largest} at most, or train on several nodes"
    elif elsewhere:
        names = join_names(elsewhere, _MAX_NAMES)
        finding = (
            f"The nodes that match {pod.selector_text} have no {resource}; these nodes do: {names}"
        )
        fix = "Correct the selector"
    else:
        # Extended resources have a domain in their name.
        offered = sorted({name for node in nodes for name in node.allocatable if "/" in name})
        finding = (
            f"No node offers {resource}; the accelerators offered are: "
            f"{', '.join(offered) or 'none'}"
        )
        fix = (
            "Correct --accelerator-type, install its device plugin, or train without "
            "accelerators: --accelerator-count 0"
        )
    return _problem_unless_autoscaled(client, finding, fix)


def _tainted(ready: Sequence[Node], pod: PodPlacement) -> CheckResult:
    """Return that every node has an untolerated taint, and the tolerations that would cover one."""
    # Many clusters tolerate the accelerator's own taint for pods that request the accelerator,
    # e.g. GKE (admission plugin ExtendedResourceToleration).
    own_key = pod.accelerator_type if pod.accelerator_count else ""
    node = min(
        ready,
        key=lambda node: sum(
            taint["key"] != own_key for taint in node.untolerated_taints(pod.tolerations)
        ),
    )
    taints = node.untolerated_taints(pod.tolerations)
    missing = [
        {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in taints
    ]
    tolerations = json.dumps([*pod.tolerations, *missing])
    fix = f"Pass --tolerations here, and set for the run trainer_tolerations={tolerations}."
    taint_names = ", ".join(map(format_taint, taints))
    if all(taint["key"] == own_key for taint in taints):
        finding = (
            f"{node.name} has the taint {taint_names}, which some clusters (GKE) tolerate "
            "automatically."
        )
        return warning(TRAINER_NODES, finding, fix)
    finding = (
        f"Every matching node has a taint the trainer does not tolerate: {node.name} has "
        f"{taint_names}."
    )
    return problem(TRAINER_NODES, finding, fix)


def _count_free(client: ClusterClient, usable: Sequence[Node], pod: PodPlacement) -> CheckResult:
    """Return how many accelerators of the usable nodes are free."""
    resource, count = pod.accelerator_type, pod.accelerator_count
    num_nodes = f"{len(usable)} {'node' if len(usable) == 1 else 'nodes'}"
    if not count:
        return ok(TRAINER_NODES, f"{num_nodes} can run the trainer; no accelerator requested")
    total = sum(node.capacity(resource) for node in usable)
    finding = f"{num_nodes} for {pod.selector_text} with {total} {resource}"

    def num_free(node: Node) -> int:
        return max(0, node.capacity(resource) - _num_in_use(client, node, resource))

    try:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            free = list(pool.map(num_free, usable))
    except ForbiddenError:
        return warning(
            TRAINER_NODES,
            f"{finding}; how many are free is unknown because you may not list all pods.",
            "Let an administrator run `repot doctor`, or check with kubectl describe node.",
        )
    finding = (
        f"{finding}, {sum(free)} of them free, at most {max(free)} on one node; {count} requested"
    )
    if max(free) < count:
        fix = "The trainer will wait until enough are free; or request fewer, or add a node."
        return warning(TRAINER_NODES, f"{finding}.", fix)
    return ok(TRAINER_NODES, finding)


def _num_in_use(client: ClusterClient, node: Node, resource: str) -> int:
    """Return how many units of a resource the node's pods occupy; finished pods occupy none."""
    selector = f"spec.nodeName={node.name},status.phase!=Succeeded,status.phase!=Failed"
    pods = client.list_all("list pods", "/api/v1/pods", field_selector=selector)
    return int(sum(requested_by_pod(pod, resource) for pod in pods))


def _problem_unless_autoscaled(client: ClusterClient, finding: str, fix: str) -> CheckResult:
    """Return a problem, or a warning if an autoscaler may add a suitable node."""
    if has_autoscaler(client):
        return warning(
            TRAINER_NODES,
            f"{finding}, at the moment.",
            f"{fix}; or wait, if the autoscaler has a node pool of that kind.",
        )
    return problem(TRAINER_NODES, f"{finding}.", f"{fix}.")


def _hard_limit(quota: KubernetesObject, resource: str) -> int:
    return int(quantity(quota["spec"]["hard"][resource]))


def _used(quota: KubernetesObject, resource: str) -> int:
    return int(quantity(((quota.get("status") or {}).get("used") or {}).get(resource, 0)))


def _check_container_image(name: str, reference: str, nodes: Sequence[Node]) -> CheckResult:
    # A node reports the tag that a reference without one stands for.
    has_tag = "@" in reference or ":" in reference.rpartition("/")[2]
    reported = reference if has_tag else f"{reference}:latest"
    names = {reported, f"{_DEFAULT_REGISTRY}{reported}"}
    num_nodes = sum(not node.container_images.isdisjoint(names) for node in nodes)
    if num_nodes:
        return ok(name, f"{reference} is already on {num_nodes} of {len(nodes)} nodes")
    return not_checked(
        name,
        f"{reference}: no node reports it, and whether nodes can pull it cannot be checked from "
        "here; a private registry needs a pull secret on the service account",
    )
