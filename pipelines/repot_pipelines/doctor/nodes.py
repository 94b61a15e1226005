"""Nodes as the scheduler sees them: labels, taints, and what of a resource is free. Pure functions over API objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from repot_pipelines.doctor.check import Check, not_checked, ok
from repot_pipelines.doctor.cluster import Facts

_REPELLING = ("NoSchedule", "NoExecute")
# Put on by Kubernetes itself for what is_ready tells already.
_OWN_TAINTS = "node.kubernetes.io/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node.

    Attributes:
        name: Its name.
        labels: Its labels.
        taints: Those that keep pods off, but for Kubernetes' own about its health.
        is_ready: Whether new pods may come, for all that its health and `kubectl cordon` say.
        allocatable: What pods may ask for in all, by resource, as quantities.
        images: Names of images that lie there already.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Facts, ...]
    is_ready: bool
    allocatable: Mapping[str, str]
    images: frozenset[str]

    def offers(self, resource: str) -> int:
        """Return how many of a resource there are in all."""
        return whole_number(self.allocatable.get(resource, 0))

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Return whether a node selector chooses this node."""
        return all(self.labels.get(key) == value for key, value in selector.items())

    def repelled_by(self, tolerations: Sequence[Facts]) -> list[Facts]:
        """Return the taints that none of the tolerations covers."""
        return [
            taint
            for taint in self.taints
            if not any(_tolerates(given, taint) for given in tolerations)
        ]


def read_node(facts: Facts) -> Node:
    """Return a node from what the API says."""
    spec, status = facts.get("spec") or {}, facts.get("status") or {}
    conditions = {found["type"]: found["status"] for found in status.get("conditions") or []}
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] in _REPELLING]
    return Node(
        name=facts["metadata"]["name"],
        labels=facts["metadata"].get("labels") or {},
        taints=tuple(taint for taint in taints if not taint["key"].startswith(_OWN_TAINTS)),
        is_ready=conditions.get("Ready") == "True" and not spec.get("unschedulable"),
        allocatable=status.get("allocatable") or {},
        images=frozenset(
            name for image in status.get("images") or [] for name in image.get("names") or []
        ),
    )


def requested(pod: Facts, resource: str) -> int:
    """Return how many of a resource a pod holds: its containers together, or its hungriest init container."""
    spec = pod["spec"]
    starting = spec.get("initContainers") or []
    # An init container with restartPolicy Always runs beside the others (a sidecar).
    beside = [container for container in starting if container.get("restartPolicy") == "Always"]
    running = sum(_asked(container, resource) for container in [*spec["containers"], *beside])
    return max([running, *(_asked(container, resource) for container in starting)])


def spelled(taint: Facts) -> str:
    """Return a taint as kubectl spells it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def explain_no_match(nodes: Iterable[Node], selector: Mapping[str, str]) -> str:
    """Return which label of a selector no node has, and what values there are; nodes is not empty."""
    known = list(nodes)
    for key, value in selector.items():
        values = sorted({node.labels[key] for node in known if key in node.labels})
        if not values:
            return f"none of {len(known)} nodes has a label {key}"
        if value not in values:
            return f"no node has {key}={value}; there is {key}={', '.join(values)}"
    return "each label is on some node, but no node has them all"


def _tolerates(toleration: Facts, taint: Facts) -> bool:
    """Return whether a toleration covers a taint. Source: `ToleratesTaint` in k8s.io/api/core/v1/toleration.go."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    key = toleration.get("key")
    if key and key != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def _asked(container: Facts, resource: str) -> int:
    resources = container.get("resources") or {}
    # The API server fills requests from limits.
    return whole_number(
        (resources.get("requests") or resources.get("limits") or {}).get(resource, 0)
    )


def whole_number(quantity: str | int) -> int:
    """Return a quantity rounded down."""
    from kubernetes.utils import parse_quantity

    return int(parse_quantity(quantity))


_DEFAULT_REGISTRY = "docker.io/"


def check_images(images: Iterable[tuple[str, str]], nodes: Sequence[Node]) -> list[Check]:
    """Return one result an image.

    Args:
        images: What it is for, and its name.
        nodes: All nodes.
    """
    return [_check_image(title, image, nodes) for title, image in images]


def _check_image(title: str, image: str, nodes: Sequence[Node]) -> Check:
    having = [
        node.name
        for node in nodes
        if not node.images.isdisjoint({image, f"{_DEFAULT_REGISTRY}{image}"})
    ]
    if having:
        return ok(title, f"{image} lies on {len(having)} of {len(nodes)} nodes already")
    return not_checked(
        title,
        f"{image}: no node says that it has it, and whether nodes may pull it cannot be known from here; "
        "a private registry needs a pull secret on the service account",
    )
