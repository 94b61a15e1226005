"""The nodes of an Argo workflow, as the server lists them in a run's `task_details`.

A node's id is the workflow's name and the FNV-1a hash of its path; its pod has the template's name in between. The
list has the ids of the nodes below each node, and not the pod of the node itself. In a stock KFP 2.17 Argo retries
every template: between a node and what is below it there is one for the attempt, `gate(0)`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

EXECUTOR, DRIVER, DAG = "system-container-impl", "system-container-driver", ""


@dataclass
class Node:
    """One node."""

    path: str
    phase: str
    template: str = DAG
    started: str = ""
    ended: str = ""
    children: list["Node"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def digits(self) -> int:
        """Return the hash of the path."""
        value = 2166136261
        for byte in self.path.encode():
            value ^= byte
            value = (value * 16777619) & 0xFFFFFFFF
        return value


@dataclass(frozen=True)
class Progress:
    """How far a run is: the phase of each task by its name in the YAML, and times."""

    phases: Mapping[str, str]
    num_items: int = 2
    started: str = "2026-03-01T02:00:00Z"
    ended: str = "2026-03-01T02:01:30Z"
    is_retried: bool = True


def nodes_of(spec: dict[str, Any], workflow: str, progress: Progress) -> list[Node]:
    """Return every node that exists so far; a task without a phase has none."""
    root = Node(path=f"{workflow}.root", phase="Running")
    entry = Node(path=workflow, phase="Running", children=[root])
    _fill(spec, spec["root"], root, progress)
    return list(_flat(_with_attempts(entry) if progress.is_retried else entry))


def pods_of(nodes: list[Node], workflow: str) -> dict[str, Node]:
    """Return the nodes that are pods, by the pod's name."""
    return {f"{workflow}-{node.template}-{node.digits}": node for node in nodes if node.template}


def details(nodes: list[Node], workflow: str) -> list[dict[str, Any]]:
    """Return the nodes as the API lists them."""
    return [
        {
            "task_id": f"task-{index}",
            "display_name": node.name,
            "state": node.phase.upper(),
            "create_time": node.started or "0001-01-01T00:00:00Z",
            "start_time": node.started or "0001-01-01T00:00:00Z",
            "end_time": node.ended or "0001-01-01T00:00:00Z",
            "child_tasks": [{"pod_name": f"{workflow}-{child.digits}"} for child in node.children],
        }
        for index, node in enumerate(sorted(nodes, key=lambda node: node.digits))
    ]


def _flat(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _flat(child)


def _with_attempts(node: Node, parent: str = "") -> Node:
    """Return a node as Argo has it with a retryStrategy on every template: over the node of its only attempt."""
    path = f"{parent}.{node.name}" if parent else node.path
    attempt = replace(
        node,
        path=f"{path}(0)",
        children=[_with_attempts(each, f"{path}(0)") for each in node.children],
    )
    return replace(node, path=path, template=DAG, children=[attempt])


def _fill(
    spec: dict[str, Any], component: dict[str, Any], parent: Node, progress: Progress
) -> None:
    for key, task in sorted(component["dag"]["tasks"].items()):
        inner = spec["components"][task["componentRef"]["name"]]
        if "parameterIterator" in task:
            _fill_loop(spec, key, inner, parent, progress)
        elif "dag" in inner:
            _fill_branch(spec, key, inner, parent, progress)
        elif key in progress.phases:
            _fill_task(key, parent, progress)


def _fill_task(key: str, parent: Node, progress: Progress) -> None:
    phase = progress.phases[key]
    driver_phase = "Failed" if phase == "DriverFailed" else "Succeeded"
    parent.children.append(
        _node(f"{parent.path}.{key}-driver", driver_phase, progress, template=DRIVER)
    )
    if phase in ("DriverFailed", "Starting"):
        return
    task = _node(f"{parent.path}.{key}", phase, progress)
    task.children.append(_node(f"{task.path}.executor", phase, progress, template=EXECUTOR))
    parent.children.append(task)


def _fill_branch(
    spec: dict[str, Any], key: str, inner: dict[str, Any], parent: Node, progress: Progress
) -> None:
    tasks = set(inner["dag"]["tasks"])
    phases = {progress.phases[name] for name in tasks & set(progress.phases)}
    if not phases:
        return
    parent.children.append(
        _node(f"{parent.path}.{key}-driver", "Succeeded", progress, template=DRIVER)
    )
    branch = _node(f"{parent.path}.{key}", phases.pop(), progress)
    parent.children.append(branch)
    if branch.phase != "Skipped":
        _fill(spec, inner, branch, progress)


def _fill_loop(
    spec: dict[str, Any], key: str, inner: dict[str, Any], parent: Node, progress: Progress
) -> None:
    phases = {progress.phases[name] for name in set(inner["dag"]["tasks"]) & set(progress.phases)}
    if not phases:
        return
    loop = _node(f"{parent.path}.{key}", phases.pop(), progress)
    parent.children.append(loop)
    loop.children.append(
        _node(f"{loop.path}.iteration-driver", "Succeeded", progress, template=DRIVER)
    )
    for index in range(progress.num_items):
        iteration = _node(
            f"{loop.path}.iteration-iterations({index}:{index})", loop.phase, progress
        )
        item = _node(f"{iteration.path}.iteration-item", loop.phase, progress)
        driver = _node(
            f"{iteration.path}.iteration-item-driver", "Succeeded", progress, template=DRIVER
        )
        iteration.children += [driver, item]
        loop.children.append(iteration)
        _fill(spec, inner, item, progress)


def _node(path: str, phase: str, progress: Progress, *, template: str = DAG) -> Node:
    is_over = phase in ("Succeeded", "Failed", "Skipped")
    return Node(
        path=path,
        phase=phase,
        template=template,
        started=progress.started,
        ended=progress.ended if is_over else "",
    )
