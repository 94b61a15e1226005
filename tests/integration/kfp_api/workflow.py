"""Nodes of an Argo workflow, as the server lists them in a run's `task_details`.

The id of a node is the workflow's name and the FNV-1a hash of the node's path; the name of its pod
also has the template's name. The list has the ids of the nodes below each node, but not the pod of
the node itself. KFP 2.17 makes Argo retry every template by default: between a node and its
children is then one node per attempt, `gate(0)`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

EXECUTOR, DRIVER, DAG = "system-container-impl", "system-container-driver", ""


@dataclass
class Node:
    """One node of a workflow."""

    path: str
    phase: str
    template: str = DAG
    started: str = ""
    ended: str = ""
    message: str = ""
    children: list["Node"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def hash(self) -> int:
        """Return the FNV-1a hash of the path."""
        value = 2166136261
        for byte in self.path.encode():
            value ^= byte
            value = (value * 16777619) & 0xFFFFFFFF
        return value


@dataclass(frozen=True)
class Progress:
    """Progress of a run: the phase of every task by its name in the YAML, and times.

    Beside Argo's own phases there are Starting (the driver has ended), DriverFailed and
    DriverPending. `messages` has what Argo says about the pods of a task.
    """

    phases: Mapping[str, str]
    num_items: int = 2
    messages: Mapping[str, str] = field(default_factory=dict)
    started: str = "2026-03-01T02:00:00Z"
    ended: str = "2026-03-01T02:01:30Z"
    is_retried: bool = True


def make_nodes(spec: dict[str, Any], workflow: str, progress: Progress) -> list[Node]:
    """Return every node that exists so far; a task without a phase has no node."""
    root = Node(path=f"{workflow}.root", phase="Running")
    root_phase = "Failed" if progress.phases.get("root") == "DriverFailed" else "Succeeded"
    driver = _node(f"{workflow}.root-driver", root_phase, progress, template=DRIVER)
    entry = Node(path=workflow, phase="Running", children=[driver])
    if root_phase == "Succeeded":
        entry.children.append(root)
        _add_tasks(spec, spec["root"], root, progress)
    return list(_flatten(_with_attempts(entry) if progress.is_retried else entry))


def pods_by_name(nodes: list[Node], workflow: str) -> dict[str, Node]:
    """Return the nodes that are pods, by pod name."""
    return {f"{workflow}-{node.template}-{node.hash}": node for node in nodes if node.template}


def task_details(nodes: list[Node], workflow: str) -> list[dict[str, Any]]:
    """Return the nodes as `task_details` of the API."""
    return [
        {
            "task_id": f"task-{index}",
            "display_name": node.name,
            "state": node.phase.upper(),
            "create_time": node.started or "0001-01-01T00:00:00Z",
            "start_time": node.started or "0001-01-01T00:00:00Z",
            "end_time": node.ended or "0001-01-01T00:00:00Z",
            "child_tasks": [{"pod_name": f"{workflow}-{child.hash}"} for child in node.children],
        }
        for index, node in enumerate(sorted(nodes, key=lambda node: node.hash))
    ]


def manifest(nodes: list[Node], workflow: str) -> dict[str, Any]:
    """Return the Argo workflow with its nodes, as the server stores it."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": workflow},
        "status": {
            "nodes": {
                f"{workflow}-{node.hash}": {
                    "id": f"{workflow}-{node.hash}",
                    "name": node.path,
                    "displayName": node.name,
                    "type": "Pod" if node.template else "DAG",
                    "phase": node.phase,
                    **({"templateName": node.template} if node.template else {}),
                    **({"message": node.message} if node.message else {}),
                }
                for node in nodes
            }
        },
    }


def _flatten(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _flatten(child)


def _with_attempts(node: Node, parent: str = "") -> Node:
    """Return a node as with a retryStrategy on every template: the parent of its only attempt."""
    path = f"{parent}.{node.name}" if parent else node.path
    attempt = replace(
        node,
        path=f"{path}(0)",
        children=[_with_attempts(each, f"{path}(0)") for each in node.children],
    )
    phase = "Running" if node.phase == "Pending" else node.phase
    return replace(node, path=path, template=DAG, phase=phase, message="", children=[attempt])


def _add_tasks(
    spec: dict[str, Any], component: dict[str, Any], parent: Node, progress: Progress
) -> None:
    for key, task in sorted(component["dag"]["tasks"].items()):
        inner = spec["components"][task["componentRef"]["name"]]
        if "parameterIterator" in task:
            _add_loop(spec, key, inner, parent, progress)
        elif "dag" in inner:
            _add_condition(spec, key, inner, parent, progress)
        elif key in progress.phases:
            _add_task(key, parent, progress)


def _add_task(key: str, parent: Node, progress: Progress) -> None:
    phase, message = progress.phases[key], progress.messages.get(key, "")
    driver_phases = {"DriverFailed": "Failed", "DriverPending": "Pending"}
    driver = _node(
        f"{parent.path}.{key}-driver",
        driver_phases.get(phase, "Succeeded"),
        progress,
        template=DRIVER,
        message=message if phase == "DriverPending" else "",
    )
    parent.children.append(driver)
    if phase in (*driver_phases, "Starting"):
        return
    task = _node(f"{parent.path}.{key}", "Running" if phase == "Pending" else phase, progress)
    if phase != "Skipped":
        task.children.append(
            _node(f"{task.path}.executor", phase, progress, template=EXECUTOR, message=message)
        )
    parent.children.append(task)


def _add_condition(
    spec: dict[str, Any], key: str, inner: dict[str, Any], parent: Node, progress: Progress
) -> None:
    tasks = set(inner["dag"]["tasks"])
    phases = {progress.phases[name] for name in tasks & set(progress.phases)}
    if not phases:
        return
    parent.children.append(
        _node(f"{parent.path}.{key}-driver", "Succeeded", progress, template=DRIVER)
    )
    condition = _node(f"{parent.path}.{key}", _around(phases.pop()), progress)
    parent.children.append(condition)
    if condition.phase != "Skipped":
        _add_tasks(spec, inner, condition, progress)


def _add_loop(
    spec: dict[str, Any], key: str, inner: dict[str, Any], parent: Node, progress: Progress
) -> None:
    phases = {progress.phases[name] for name in set(inner["dag"]["tasks"]) & set(progress.phases)}
    if not phases:
        return
    loop = _node(f"{parent.path}.{key}", _around(phases.pop()), progress)
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
        _add_tasks(spec, inner, item, progress)


def _around(phase: str) -> str:
    """Return the phase of a loop or condition around tasks in a phase."""
    return "Running" if phase in ("Pending", "DriverPending") else phase


def _node(
    path: str, phase: str, progress: Progress, *, template: str = DAG, message: str = ""
) -> Node:
    has_ended = phase in ("Succeeded", "Failed", "Skipped")
    return Node(
        path=path,
        phase=phase,
        template=template,
        started=progress.started,
        ended=progress.ended if has_ended else "",
        message=message,
    )
