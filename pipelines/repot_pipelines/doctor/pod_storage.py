"""How the pods of a run get at the storage: by an identity of their service account, or by the pipeline's secrets."""

from collections.abc import Mapping
from typing import Any

from repot import storage
from repot_pipelines.doctor.accounts import google_account
from repot_pipelines.doctor.check import Check, has_placeholder, not_checked, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster, Facts
from repot_pipelines.doctor.cluster_errors import ForbiddenError

NAME = "pods' storage"
_AMAZON_ROLE = "eks.amazonaws.com/role-arn"


def check_pod_storage(
    cluster: Cluster,
    namespace: str,
    *,
    storage_uri: str,
    defaults: Mapping[str, Any],
    account: Facts,
) -> Check:
    """Return how pods get at the storage.

    Args:
        cluster: The cluster.
        namespace: Namespace of the runs.
        storage_uri: The storage; "" for none.
        defaults: The pipeline's defaults: names of its secrets and of its ConfigMap.
        account: Service account of the pods.

    Raises:
        ClusterError: One may not look.
    """
    if not storage_uri:
        return not_checked(NAME, "no --storage-uri was given")
    if storage.is_local(storage_uri):
        return not_checked(NAME, f"{storage_uri} is on this machine, where no pod can see it")
    if storage_uri.startswith("gs://"):
        return _google(
            cluster, namespace, secret=defaults.get("google_secret_name", ""), account=account
        )
    names = (defaults.get("s3_secret_name", ""), defaults.get("settings_config_map", ""))
    return _s3(cluster, namespace, secret=names[0], settings=names[1], account=account)


def _google(cluster: Cluster, namespace: str, *, secret: str, account: Facts) -> Check:
    if secret and has_secret(cluster, namespace, secret):
        return ok(NAME, f"with the key in the secret {secret}, which was not read")
    if identity := google_account(account):
        return ok(
            NAME, f"by workload identity, as {identity}; what that may do cannot be seen from here"
        )
    name = account["metadata"]["name"]
    return warning(
        NAME,
        f"{namespace} has no secret {secret}, and {name} names no Google account to act as.",
        "Apply the overlay gke (manifests/README.md), or make that secret: "
        f"kubectl create secret generic {secret} -n {namespace} --from-file key.json.",
    )


def _s3(cluster: Cluster, namespace: str, *, secret: str, settings: str, account: Facts) -> Check:
    path = f"/api/v1/namespaces/{namespace}/configmaps/{settings}"
    found = cluster.find(f"look for {settings}", path) if settings else None
    endpoint = ((found or {}).get("data") or {}).get("S3_ENDPOINT", "")
    if has_placeholder(endpoint):
        fix = "Put your store's address into the overlay's settings.yaml, and apply the overlay again."
        return problem(
            NAME, f"S3_ENDPOINT in {settings} is {endpoint}, still the manifests' placeholder.", fix
        )
    where = f"at {endpoint}" if endpoint else "at Amazon's own service"
    if secret and has_secret(cluster, namespace, secret):
        return ok(NAME, f"{where}, with the keys in the secret {secret}, which was not read")
    role = (account["metadata"].get("annotations") or {}).get(_AMAZON_ROLE)
    if role:
        return ok(NAME, f"{where}, as {role}; what that may do cannot be seen from here")
    return warning(
        NAME,
        f"{namespace} has no secret {secret}, and {account['metadata']['name']} names no role to act as.",
        f"kubectl create secret generic {secret} -n {namespace} --from-env-file KEYS, with the lines accesskey=... and "
        "secretkey=... in the file KEYS.",
    )


SECRETS_NAME = "secrets"


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
        return not_checked(SECRETS_NAME, "neither kfp-launcher nor the service account names one")
    try:
        missing = [name for name in wanted if not has_secret(cluster, namespace, name)]
    except ForbiddenError:
        command = f"kubectl get secret -n {namespace} {' '.join(wanted)}"
        fix = f"Let somebody who may look run `{command}`."
        return warning(
            SECRETS_NAME, f"You may not look whether {namespace} has {', '.join(wanted)}.", fix
        )
    if missing:
        told = ", ".join(f"{name} (named by {wanted[name]})" for name in missing)
        fix = f"Make it, see kubectl create secret --help and manifests/README.md; the namespace is {namespace}."
        return problem(SECRETS_NAME, f"{namespace} has no {told}.", fix)
    return ok(SECRETS_NAME, f"{', '.join(wanted)} in {namespace}; what is in them was not read")
