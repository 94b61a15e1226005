"""Nodes and resource requests as the scheduler sees them; pure functions over API objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from repot.kubernetes_rules import KubernetesObject

_BLOCKING_EFFECTS = ("NoSchedule", "NoExecute")
# Kubernetes sets these taints itself for the conditions that Node.is_ready covers.
_CONDITION_TAINT_PREFIX = "node.kubernetes.io/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node.

    Attributes:
        name: Its name.
        labels: Its labels.
        taints: Taints that keep pods off, except those Kubernetes sets for node conditions.
        is_ready: Whether it is healthy and not cordoned.
        allocatable: Total quantity that pods can request, by resource.
        container_images: Names of the container images already on the node.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[KubernetesObject, ...]
    is_ready: bool
    allocatable: Mapping[str, str]
    container_images: frozenset[str]

    def capacity(self, resource: str) -> int:
        """Return the total number of whole units of a resource, used or not."""
        return int(quantity(self.allocatable.get(resource, 0)))

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Return whether a node selector selects this node."""
        return all(self.labels.get(key) == value for key, value in selector.items())

    def untolerated_taints(self, tolerations: Sequence[KubernetesObject]) -> list[KubernetesObject]:
        """Return the taints that none of the tolerations covers."""
        return [
            taint
            for taint in self.taints
            if not any(_tolerates(toleration, taint) for toleration in tolerations)
        ]


def read_node(node: KubernetesObject) -> Node:
    """Convert an API object to a Node."""
    metadata = node["metadata"]
    spec, status = node.get("spec") or {}, node.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    blocking = [taint for taint in spec.get("taints") or [] if taint["effect"] in _BLOCKING_EFFECTS]
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        taints=tuple(
            taint for taint in blocking if not taint["key"].startswith(_CONDITION_TAINT_PREFIX)
        ),
        is_ready=conditions.get("Ready") == "True" and not spec.get("unschedulable"),
        allocatable=status.get("allocatable") or {},
        container_images=frozenset(
            name for image in status.get("images") or [] for name in image.get("names") or []
        ),
    )


def requested_by_pod(pod: KubernetesObject, resource: str) -> Decimal:
    """Return how much of a resource a pod occupies.

    That is what the pod itself requests, or else the sum over its containers, or the largest init
    container if that is more; and what its runtime class adds.
    Source: `PodRequests` in k8s.io/component-helpers/resource/helpers.go of Kubernetes 1.34.
    """
    spec = pod["spec"]
    overhead = quantity((spec.get("overhead") or {}).get(resource, 0))
    of_pod = _requested(spec, resource)
    if of_pod is not None:
        return of_pod + overhead
    sidecars = Decimal(0)
    largest = Decimal(0)
    for container in spec.get("initContainers") or []:
        requested = _requested(container, resource) or Decimal(0)
        largest = max(largest, sidecars + requested)
        # With restartPolicy Always it is a sidecar: it runs beside all that start later.
        if container.get("restartPolicy") == "Always":
            sidecars += requested
    running = sum(
        (_requested(each, resource) or Decimal(0) for each in spec["containers"]), start=sidecars
    )
    return max(running, largest) + overhead


def format_taint(taint: KubernetesObject) -> str:
    """Return a taint in kubectl's notation, e.g. nvidia.com/gpu=present:NoSchedule."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def why_no_match(nodes: Sequence[Node], selector: Mapping[str, str]) -> str:
    """Return which label of a selector no node has, and the values that exist.

    Args:
        nodes: All nodes; not empty.
        selector: A node selector that matches none of them.
    """
    for key, value in selector.items():
        values = sorted({node.labels[key] for node in nodes if key in node.labels})
        if not values:
            return f"none of {len(nodes)} nodes has a label {key}"
        if value not in values:
            return f"no node has {key}={value}; existing values: {', '.join(values)}"
    return "each label exists on some node, but no node has all of them"


def quantity(amount: str | int | Decimal) -> Decimal:
    """Return the number in a Kubernetes quantity, e.g. 0.5 for "500m"."""
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(amount))


def _tolerates(toleration: KubernetesObject, taint: KubernetesObject) -> bool:
    """Return whether a toleration covers a taint.

    Source: `ToleratesTaint` in k8s.io/api/core/v1/toleration.go.
    """
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    key = toleration.get("key")
    if key and key != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def _requested(owner: KubernetesObject, resource: str) -> Decimal | None:
    """Return what a container, or the spec of a pod, requests; None if it does not say."""
    resources = owner.get("resources") or {}
    # The API server sets missing requests to the limits.
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return quantity(amounts[resource]) if resource in amounts else None
