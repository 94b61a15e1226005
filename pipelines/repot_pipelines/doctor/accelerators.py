"""The nodes that the trainer's pod can go to: how many match, what keeps it off, how many accelerators are free."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot_pipelines.doctor.check import Check, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster, Facts
from repot_pipelines.doctor.cluster_errors import ForbiddenError
from repot_pipelines.doctor.nodes import Node, explain_no_match, requested, spelled, whole_number

NAME = "trainer nodes"
_NUM_THREADS = 8
_AUTOSCALER = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What the trainer's pod asks for; the pipeline's parameters of the same meaning.

    Attributes:
        accelerator_type: Resource name, e.g. nvidia.com/gpu.
        accelerator_count: How many; 0 for none.
        node_selector: Labels that the node must have.
        tolerations: As Kubernetes spells them.
    """

    accelerator_type: str
    accelerator_count: int
    node_selector: Mapping[str, str]
    tolerations: Sequence[Facts]

    @property
    def title(self) -> str:
        """Return the selector in words."""
        return (
            ",".join(f"{key}={value}" for key, value in self.node_selector.items()) or "no selector"
        )


def check_nodes(cluster: Cluster, nodes: Sequence[Node], placement: Placement) -> Check:
    """Return whether the trainer's pod fits on a node, and on which terms.

    Args:
        cluster: The cluster.
        nodes: All of its nodes.
        placement: What the pod asks for.

    Raises:
        ClusterError: The cluster did not answer.
    """
    if not nodes:
        return problem(NAME, "The cluster has no nodes.", "Add a node.")
    matching = [node for node in nodes if node.matches(placement.node_selector)]
    if not matching:
        return _no_match(cluster, nodes, placement)
    kind, count = placement.accelerator_type, placement.accelerator_count
    offering = [node for node in matching if not count or node.offers(kind) >= count]
    if not offering:
        return _lacks_accelerators(cluster, nodes, matching, placement)
    ready = [node for node in offering if node.is_ready]
    if not ready:
        names = _some([node.name for node in offering])
        return problem(
            NAME,
            f"No matching node takes pods: {names} not ready or cordoned.",
            "kubectl describe node.",
        )
    usable = [node for node in ready if not node.repelled_by(placement.tolerations)]
    if not usable:
        return _repelled(ready, placement)
    return _free(cluster, usable, placement)


def _no_match(cluster: Cluster, nodes: Sequence[Node], placement: Placement) -> Check:
    finding = (
        f"{placement.title} matches no node: {explain_no_match(nodes, placement.node_selector)}"
    )
    return _now_or_never(
        cluster,
        finding,
        "Correct the selector (kubectl get nodes --show-labels), or add such a node",
    )


def _lacks_accelerators(
    cluster: Cluster, nodes: Sequence[Node], matching: Sequence[Node], placement: Placement
) -> Check:
    """Return that no matching node has that many accelerators, and who has."""
    kind, count = placement.accelerator_type, placement.accelerator_count
    most = max(node.offers(kind) for node in matching)
    elsewhere = sorted(node.name for node in nodes if node.offers(kind))
    if most:
        finding = (
            f"No node has {count} {kind}; the largest of {len(matching)} that match has {most}"
        )
        fix = f"Ask for {most} at most, or train on several nodes"
    elif elsewhere:
        finding = f"The nodes that match {placement.title} have no {kind}; {_some(elsewhere)} would"
        fix = "Correct the selector"
    else:
        others = sorted({name for node in nodes for name in node.allocatable if "/" in name})
        finding = f"No node offers {kind}; what nodes offer of that sort: {', '.join(others) or 'nothing'}"
        fix = "Correct --accelerator-type, install its device plugin, or train without: --accelerator-count 0"
    return _now_or_never(cluster, finding, fix)


def _repelled(ready: Sequence[Node], placement: Placement) -> Check:
    """Return that each node has a taint that no toleration covers, and the tolerations that would."""
    # Many clusters tolerate the accelerator's own taint for pods that ask for the accelerator: GKE does (admission
    # plug-in ExtendedResourceToleration).
    own = placement.accelerator_type if placement.accelerator_count else ""
    node = min(
        ready,
        key=lambda node: sum(
            taint["key"] != own for taint in node.repelled_by(placement.tolerations)
        ),
    )
    taints = node.repelled_by(placement.tolerations)
    needed = [
        {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in taints
    ]
    tolerations = json.dumps([*placement.tolerations, *needed])
    fix = f"Give the run, and --tolerations here, trainer_tolerations={tolerations}."
    words = ", ".join(map(spelled, taints))
    if all(taint["key"] == own for taint in taints):
        finding = (
            f"{node.name} is tainted {words}, which some clusters (GKE) tolerate by themselves."
        )
        return warning(NAME, finding, fix)
    return problem(
        NAME, f"Every matching node is tainted against the trainer: {node.name} has {words}.", fix
    )


def _free(cluster: Cluster, usable: Sequence[Node], placement: Placement) -> Check:
    """Return how many accelerators of these nodes are free."""
    kind, count = placement.accelerator_type, placement.accelerator_count
    if not count:
        return ok(NAME, f"{len(usable)} can run the trainer; no accelerator asked for")
    told = f"{len(usable)} for {placement.title} with {sum(node.offers(kind) for node in usable)} {kind}"
    try:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            free = list(
                pool.map(
                    lambda node: max(0, node.offers(kind) - _used(cluster, node, kind)), usable
                )
            )
    except ForbiddenError:
        fix = "Let an administrator run `repot doctor`, or look at kubectl describe node."
        return warning(
            NAME, f"{told}; how many are free is not known, for you may not see all pods.", fix
        )
    finding = (
        f"{told}, {sum(free)} of them free, at most {max(free)} on one node; {count} asked for"
    )
    if max(free) < count:
        fix = "The trainer will wait until enough are free; or ask for fewer, or add a node."
        return warning(NAME, f"{finding}.", fix)
    return ok(NAME, finding)


def _used(cluster: Cluster, node: Node, kind: str) -> int:
    """Return how many of a resource the node's pods hold; a pod that has ended holds none."""
    chosen = f"spec.nodeName={node.name},status.phase!=Succeeded,status.phase!=Failed"
    pods = cluster.list_all("list pods", "/api/v1/pods", fieldSelector=chosen)
    return sum(requested(pod, kind) for pod in pods)


def _now_or_never(cluster: Cluster, finding: str, fix: str) -> Check:
    """Return a problem, or a warning where an autoscaler may add a node of the right kind."""
    try:
        has_autoscaler = cluster.find("look for the autoscaler", _AUTOSCALER) is not None
    except ForbiddenError:
        has_autoscaler = False
    if has_autoscaler:
        return warning(
            NAME,
            f"{finding}, at the moment.",
            f"{fix}; or wait, if the autoscaler has a node pool of that kind.",
        )
    return problem(NAME, f"{finding}.", f"{fix}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


QUOTA_NAME = "quota"


def list_quotas(cluster: Cluster, namespace: str) -> list[Facts]:
    """Return the ResourceQuotas of a namespace.

    Raises:
        ClusterError: One may not look.
    """
    return list(cluster.list_all("list quotas", f"/api/v1/namespaces/{namespace}/resourcequotas"))


def check_quotas(
    quotas: Iterable[Facts], *, accelerator_type: str, accelerator_count: int
) -> Check:
    """Return whether the quotas leave room for the trainer's accelerators.

    Args:
        quotas: The ResourceQuotas of the namespace.
        accelerator_type: Resource name.
        accelerator_count: How many are asked for.
    """
    resource = f"requests.{accelerator_type}"
    bounds = [quota for quota in quotas if resource in (quota["spec"].get("hard") or {})]
    if not bounds:
        return ok(QUOTA_NAME, f"none bounds {accelerator_type}")
    room = min(bounds, key=lambda quota: _hard(quota, resource) - _quota_used(quota, resource))
    hard, used = _hard(room, resource), _quota_used(room, resource)
    name = room["metadata"]["name"]
    finding = (
        f"{name} allows {hard} {accelerator_type}, {used} in use; {accelerator_count} asked for"
    )
    if hard < accelerator_count:
        return problem(QUOTA_NAME, f"{finding}.", f"Ask for fewer, or have {name} raised.")
    if hard - used < accelerator_count:
        return warning(
            QUOTA_NAME,
            f"{finding}.",
            "Wait until others are done: the pod is refused until there is room.",
        )
    return ok(QUOTA_NAME, finding)


def _hard(quota: Facts, resource: str) -> int:
    return whole_number(quota["spec"]["hard"][resource])


def _quota_used(quota: Facts, resource: str) -> int:
    return whole_number(((quota.get("status") or {}).get("used") or {}).get(resource, 0))
