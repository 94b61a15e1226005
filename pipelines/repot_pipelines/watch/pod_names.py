"""Names of a run's pods, reconstructed from the hashes that the server lists.

The KFP API does not return the pod of a task. For every node of the Argo workflow it lists the last
part of the node's path and the ids of the nodes below it. An id is `<workflow>-<hash>`, where the
hash is FNV-1a of the node's path; the pod of the same node is `<workflow>-<template>-<hash>`, with
one of two fixed templates. So this module rebuilds the paths from names and hashes:
`w.root.gate.executor`, or `w(0).root(0).gate(0).executor(0)` where Argo retries, which is the
default of KFP 2.17.

Source: `RetrievePodName` in backend/src/common/util/workflow.go of kubeflow/pipelines; confirmed
with KFP 2.17.0 on Argo 4.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from repot_pipelines.kfp_server.client import ApiObject

_EXECUTOR_TEMPLATE = "system-container-impl"
_DRIVER_TEMPLATE = "system-container-driver"
_MAX_ATTEMPTS = 10

_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


def task_pods(key: str, nodes: Iterable[ApiObject]) -> list[str]:
    """Return the pods of every node of a task, in any state, attempts in order.

    Args:
        key: The task's name in the compiled YAML.
        nodes: The run's `task_details`.
    """
    nodes = list(nodes)
    tree = _NodeTree.build(nodes)
    return [pod for node in nodes if node.display_name == key for pod in tree.pods_of(key, node)]


def failed_pods(key: str, nodes: Iterable[ApiObject]) -> list[str]:
    """Return the pods that may have failed for a task, the last attempt first.

    If no pod of the task itself exists, these are the pods of KFP's driver that starts it.

    Args:
        key: The task's name in the compiled YAML.
        nodes: The run's `task_details`.
    """
    nodes = list(nodes)
    tree = _NodeTree.build(nodes)
    failed = [
        node for node in nodes if node.display_name == key and node.state in ("FAILED", "CANCELED")
    ]
    pods = [pod for node in failed for pod in tree.pods_of(key, node)]
    return (pods or tree.driver_pods_of(key))[::-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _NodeTree:
    """The paths of a workflow's nodes.

    Attributes:
        workflow: Name of the workflow.
        paths: Path of every node by its hash in decimal digits, except the root node's.
    """

    workflow: str
    paths: dict[str, str]

    @classmethod
    def build(cls, nodes: list[ApiObject]) -> Self:
        """Rebuild the paths: extend known paths by every name, keep those whose hash is listed."""
        ids = [str(child.pod_name or "") for node in nodes for child in node.child_tasks or ()]
        workflow = ids[0].rpartition("-")[0] if ids else ""
        hashes = {_hash_of(node_id) for node_id in ids}
        steps = {f".{node.display_name}" for node in nodes} | {
            f"({attempt})" for attempt in range(_MAX_ATTEMPTS)
        }
        paths: dict[str, str] = {}
        queue = [(workflow, _fnv1a(workflow))]
        while queue:
            path, digest = queue.pop()
            for step in steps:
                extended = _fnv1a(step, digest)
                if str(extended) in hashes and str(extended) not in paths:
                    paths[str(extended)] = path + step
                    queue.append((path + step, extended))
        return cls(workflow=workflow, paths=paths)

    def pods_of(self, key: str, node: ApiObject) -> list[str]:
        """Return the executor pods of one node of a task."""
        # A node does not list its own id; its path is the common prefix of its children's.
        child_paths = [
            self.paths.get(_hash_of(str(child.pod_name or "")), "")
            for child in node.child_tasks or ()
        ]
        own_paths = {
            match[1]
            for path in child_paths
            if (match := re.match(rf"(.*\.{re.escape(key)})(?:\(\d+\)|\.executor)", path))
        }
        return [
            pod
            for path in sorted(own_paths)
            for pod in self._pods(rf"{re.escape(path)}(\(\d+\))?\.executor", _EXECUTOR_TEMPLATE)
        ]

    def driver_pods_of(self, key: str) -> list[str]:
        """Return the pods of the driver that KFP runs before a task."""
        return self._pods(rf".*\.{re.escape(key)}-driver", _DRIVER_TEMPLATE)

    def _pods(self, pattern: str, template: str) -> list[str]:
        hash_by_path = {
            path: digits
            for digits, path in self.paths.items()
            if re.fullmatch(rf"{pattern}(\(\d+\))?", path)
        }
        # A node with attempts below it has no pod of its own.
        return [
            f"{self.workflow}-{template}-{hash_by_path[path]}"
            for path in sorted(hash_by_path)
            if f"{path}(0)" not in hash_by_path
        ]


def _hash_of(node_id: str) -> str:
    return node_id.rpartition("-")[2]


def _fnv1a(text: str, digest: int = _FNV_OFFSET) -> int:
    """Return the 32-bit FNV-1a hash of a text, or continue the hash `digest` of the text before it.

    Source: http://www.isthe.com/chongo/tech/comp/fnv/.
    """
    for byte in text.encode():
        digest = (digest ^ byte) * _FNV_PRIME % 2**32
    return digest
