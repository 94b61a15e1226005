"""A cluster that is ready for a run: Kubeflow Pipelines, repot's manifests and GPU nodes."""

import functools
import subprocess
import sysconfig
from pathlib import Path

import yaml

from repot.kubernetes_rules import KubernetesObject
from tests.integration.kfp_api.server import KfpApi
from tests.integration.kubernetes_api.rules import role
from tests.integration.kubernetes_api.server import KubernetesApi

NAMESPACE = "kubeflow"
RUNNER = f"system:serviceaccount:{NAMESPACE}:repot-runner"
JOB_RUNNER = f"system:serviceaccount:{NAMESPACE}:repot-job-runner"
GPU = "nvidia.com/gpu"
L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
GPU_TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}
_MANIFESTS = Path(__file__).parents[3] / "manifests"
_KFP_PORT = "ml-pipeline:http"


def prepare(api: KubernetesApi, kfp: KfpApi | None = None) -> None:
    """Fill an empty cluster.

    Args:
        api: The cluster.
        kfp: Kubeflow Pipelines server in the cluster, or None.
    """
    api.store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    objects = gke_overlay()
    api.store.put_all(objects)
    roles = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Role"}
    for each in objects:
        for subject in each.get("subjects", []):
            user = f"system:serviceaccount:{NAMESPACE}:{subject['name']}"
            api.rules.grant(user, roles[each["roleRef"]["name"]], namespace=NAMESPACE)
    api.store.put(make_node("cpu-1"))
    for name in ("gpu-1", "gpu-2"):
        api.store.put(make_node(name, labels=L4, gpus=4, taints=[GPU_TAINT]))
    if kfp is not None:
        api.services[NAMESPACE, _KFP_PORT] = kfp.answer


@functools.cache
def gke_overlay() -> list[KubernetesObject]:
    """Return the objects of manifests/overlays/gke, with its placeholders replaced."""
    command = [
        f"{sysconfig.get_path('scripts')}/kubectl",
        "kustomize",
        str(_MANIFESTS / "overlays" / "gke"),
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(text.replace("your-", "our-")))


def make_node(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    gpus: int = 0,
    taints: list[KubernetesObject] | None = None,
    is_ready: bool = True,
    is_cordoned: bool = False,
    images: tuple[str, ...] = (),
) -> KubernetesObject:
    """Return a node."""
    spec: KubernetesObject = ({"taints": taints} if taints else {}) | (
        {"unschedulable": True} if is_cordoned else {}
    )
    allocatable = {"cpu": "7910m", "memory": "28Gi"} | ({GPU: str(gpus)} if gpus else {})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
            "images": [{"names": [image], "sizeBytes": 1} for image in images],
        },
    }


def make_pod(
    name: str, *, node: str, gpus: int, phase: str = "Running", namespace: str = "others"
) -> KubernetesObject:
    """Return a pod that uses GPUs on a node; as from the API server, with explicit requests."""
    quantities = {GPU: str(gpus)}
    container = {
        "name": "main",
        "image": "busybox",
        "resources": {"requests": quantities, "limits": quantities},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"phase": phase},
    }


def let_in(api: KubernetesApi, user: str, token: str, *permissions: tuple[str, str]) -> None:
    """Add a user with permissions in all namespaces.

    Args:
        api: The cluster.
        user: Name.
        token: Bearer token.
        permissions: Pairs of space-separated verbs and a resource of the core group.
    """
    api.users[token] = user
    for verbs, resource in permissions:
        api.rules.grant(user, role(verbs, resource))
