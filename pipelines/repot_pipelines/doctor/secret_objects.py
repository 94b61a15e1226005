"""Whether secrets are there; what is in them is not read."""

from collections.abc import Mapping

from repot_pipelines.doctor.check import Check, not_checked, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster
from repot_pipelines.doctor.cluster_errors import ForbiddenError

NAME = "secrets"


def has_secret(cluster: Cluster, namespace: str, name: str) -> bool:
    """Return whether a secret is there.

    Raises:
        ClusterError: One may not look.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
    return cluster.find(f"look for the secret {name}", path, metadata_only=True) is not None


def check_secrets(cluster: Cluster, namespace: str, wanted: Mapping[str, str]) -> Check:
    """Return whether these secrets are there.

    Args:
        cluster: The cluster.
        namespace: Namespace of the runs.
        wanted: Who names a secret, by the secret's name.

    Raises:
        ClusterError: The cluster did not answer.
    """
    if not wanted:
        return not_checked(NAME, "neither kfp-launcher nor the service account names one")
    try:
        missing = [name for name in wanted if not has_secret(cluster, namespace, name)]
    except ForbiddenError:
        command = f"kubectl get secret -n {namespace} {' '.join(wanted)}"
        fix = f"Let somebody who may look run `{command}`."
        return warning(NAME, f"You may not look whether {namespace} has {', '.join(wanted)}.", fix)
    if missing:
        told = ", ".join(f"{name} (named by {wanted[name]})" for name in missing)
        fix = f"Make it, see kubectl create secret --help and manifests/README.md; the namespace is {namespace}."
        return problem(NAME, f"{namespace} has no {told}.", fix)
    return ok(NAME, f"{', '.join(wanted)} in {namespace}; what is in them was not read")
