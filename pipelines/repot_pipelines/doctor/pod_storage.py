"""Check how the pods of a run reach object storage.

KFP keeps its own artifacts where the ConfigMap kfp-launcher says. The tasks of repot reach the
storage URI by the identity of their service account, or with the keys in the pipeline's Secrets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repot import storage
from repot.cluster_names import GOOGLE_ACCOUNT_KEY, GOOGLE_ANNOTATION
from repot.kubernetes_rules import KubernetesObject
from repot.settings import CLUSTER_KEYS, cluster_default_problems
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.cluster.errors import ForbiddenError
from repot_pipelines.doctor.accounts import APPLY_MANIFESTS, google_account, has_placeholder
from repot_pipelines.doctor.results import CheckResult, not_checked, ok, problem, warning

POD_STORAGE = "pod storage"
LAUNCHER_CONFIG_MAP = "kfp-launcher"
SECRETS = "secrets"
SETTINGS = "settings"

_ARTIFACT_SCHEMES = ("gs", "s3", "minio")
_AMAZON_ANNOTATION = "eks.amazonaws.com/role-arn"


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherConfig:
    """The content of the ConfigMap kfp-launcher.

    Attributes:
        root: Folder of KFP's artifacts; "" for KFP's default.
        secrets: Names of the Secrets with the keys of that store.
        error: Why its providers cannot be read; "" if they can.
    """

    root: str
    secrets: tuple[str, ...] = ()
    error: str = ""


def find_settings(client: ClusterClient, namespace: str, config_map: str) -> dict[str, str]:
    """Return the data of the ConfigMap with the storage settings; empty if there is none.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the runs.
        config_map: Its name; "" for none.

    Raises:
        ClusterError: The request failed.
    """
    found = _find_config_map(client, namespace, config_map) if config_map else None
    return dict((found or {}).get("data") or {})


def check_settings(config_map: str, data: Mapping[str, str]) -> CheckResult:
    """Check the keys and values of the administrator's ConfigMap.

    Args:
        config_map: Its name.
        data: Its data; empty if there is none.
    """
    if not data:
        return not_checked(SETTINGS, f"there is no ConfigMap {config_map}")
    storage_uri = data.get("STORAGE_URI", "").strip()
    problems = cluster_default_problems(data, config_map)
    if has_placeholder(storage_uri):
        problems.append(f"STORAGE_URI is {storage_uri}, still the placeholder of the manifests.")
    elif storage_uri and storage.is_local(storage_uri):
        problems.append(f"STORAGE_URI must be in an object store; got {storage_uri!r}.")
    if problems:
        fix = "Correct the overlay's settings.yaml, and apply the overlay again."
        return problem(SETTINGS, " ".join(problems), fix)
    defaults = sorted(key for key in CLUSTER_KEYS if data.get(key, "").strip())
    if not storage_uri:
        return warning(
            SETTINGS,
            f"{config_map} has no STORAGE_URI: every run must set storage_uri.",
            f"Set STORAGE_URI in the ConfigMap {config_map}.",
        )
    return ok(SETTINGS, f"{config_map} has defaults for {', '.join(defaults)}")


def find_launcher_config(client: ClusterClient, namespace: str) -> LauncherConfig | None:
    """Return the launcher configuration of a namespace; None if there is no such ConfigMap.

    Raises:
        ClusterError: The request failed.
    """
    found = _find_config_map(client, namespace, LAUNCHER_CONFIG_MAP)
    return None if found is None else read_launcher_config(found.get("data") or {})


def read_launcher_config(data: Mapping[str, str]) -> LauncherConfig:
    """Parse the data of the ConfigMap."""
    import yaml

    root = data.get("defaultPipelineRoot", "")
    try:
        providers = yaml.safe_load(data.get("providers", "")) or {}
        names = _secret_names(providers)
    except (yaml.YAMLError, AttributeError, TypeError) as err:
        return LauncherConfig(root=root, error=" ".join(str(err).split()))
    return LauncherConfig(root=root, secrets=tuple(sorted(names)))


def check_launcher_config(namespace: str, config: LauncherConfig | None) -> CheckResult:
    """Check that KFP knows where to keep its artifacts.

    Args:
        namespace: Namespace of the runs.
        config: Its launcher configuration; None if there is none.
    """
    name = LAUNCHER_CONFIG_MAP
    if config is None:
        finding = f"{namespace} has no ConfigMap {name}: KFP keeps artifacts in its default store."
        return warning(name, finding, APPLY_MANIFESTS)
    if config.error:
        return problem(
            name,
            f"Its providers are not valid YAML: {config.error}.",
            f"Correct it: kubectl edit configmap {name} -n {namespace}.",
        )
    if has_placeholder(config.root):
        return problem(
            name,
            f"Its root is {config.root}, which is still the placeholder of the manifests.",
            "Set your bucket in the overlay's settings.yaml, and apply the overlay again.",
        )
    if config.root and config.root.partition("://")[0] not in _ARTIFACT_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in _ARTIFACT_SCHEMES)
        return problem(
            name,
            f"Its defaultPipelineRoot is {config.root!r}, which KFP does not support.",
            f"Use one that begins with {schemes}.",
        )
    credentials = (
        f"the keys in {', '.join(config.secrets)}"
        if config.secrets
        else "the credentials of the pods"
    )
    root = config.root or "the default store of KFP"
    return ok(name, f"artifacts go to {root}, with {credentials}")


def check_pod_storage(
    client: ClusterClient,
    namespace: str,
    *,
    storage_uri: str,
    defaults: Mapping[str, Any],
    accounts: Sequence[KubernetesObject],
) -> CheckResult:
    """Check which credentials the pods of a run and of a training Job have for the storage.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the runs.
        storage_uri: The storage; "" if not given.
        defaults: Defaults of the pipeline parameters, which name the Secrets and the ConfigMap.
        accounts: Service accounts of the pods, that of the run first.

    Raises:
        ClusterError: A request failed.
    """
    if not storage_uri:
        return not_checked(POD_STORAGE, "no --storage-uri was given")
    if storage.is_local(storage_uri):
        return not_checked(POD_STORAGE, f"{storage_uri} is on this machine; pods cannot reach it")
    config_map = defaults.get("settings_config_map", "")
    settings = find_settings(client, namespace, config_map)
    if storage_uri.startswith("gs://"):
        secret = defaults.get("google_secret_name", "")
        return _check_google(client, namespace, secret=secret, settings=settings, accounts=accounts)
    return _check_s3(
        client,
        namespace,
        secret=defaults.get("s3_secret_name", ""),
        config_map=config_map,
        endpoint=settings.get("S3_ENDPOINT", ""),
        account=accounts[0],
    )


def check_secrets(client: ClusterClient, namespace: str, users: Mapping[str, str]) -> CheckResult:
    """Check that Secrets exist; their contents are not read.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the runs.
        users: What refers to the Secret, by the Secret's name.

    Raises:
        ClusterError: A request failed.
    """
    names = ", ".join(users)
    if not users:
        return not_checked(SECRETS, "neither kfp-launcher nor the service account refers to one")
    try:
        missing = [name for name in users if not has_secret(client, namespace, name)]
    except ForbiddenError:
        command = f"kubectl get secret -n {namespace} {' '.join(users)}"
        return warning(
            SECRETS,
            f"You may not check whether {namespace} has {names}.",
            f"Let someone with that permission run `{command}`.",
        )
    if missing:
        missing_names = ", ".join(f"{name} (used by {users[name]})" for name in missing)
        return problem(
            SECRETS,
            f"{namespace} has no {missing_names}.",
            f"Create it in the namespace {namespace}; see kubectl create secret --help and "
            "manifests/README.md.",
        )
    return ok(SECRETS, f"{names} in {namespace}; contents were not read")


def has_secret(client: ClusterClient, namespace: str, name: str) -> bool:
    """Return whether a Secret exists, without requesting its contents.

    Raises:
        ClusterError: The request failed.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
    return client.find(f"look up the secret {name}", path, metadata_only=True) is not None


def _check_google(
    client: ClusterClient,
    namespace: str,
    *,
    secret: str,
    settings: Mapping[str, str],
    accounts: Sequence[KubernetesObject],
) -> CheckResult:
    if secret and has_secret(client, namespace, secret):
        return ok(POD_STORAGE, f"with the key in the secret {secret}, which was not read")
    missing = [account["metadata"]["name"] for account in accounts if not google_account(account)]
    if not missing:
        identities = ", ".join(dict.fromkeys(map(google_account, accounts)))
        finding = (
            f"by workload identity, as {identities}; its permissions cannot be checked from here"
        )
        return ok(POD_STORAGE, finding)
    names = " and ".join(missing)
    if settings.get(GOOGLE_ACCOUNT_KEY) == "":
        return warning(
            POD_STORAGE,
            f"{GOOGLE_ACCOUNT_KEY} is empty: whether the bucket admits {names} directly cannot be "
            "checked from here.",
            "Bind the Kubernetes service accounts to the bucket in Google Cloud, or set "
            f"{GOOGLE_ACCOUNT_KEY} in the overlay's settings.yaml.",
        )
    return problem(
        POD_STORAGE,
        f"{namespace} has no secret {secret}, and the annotation {GOOGLE_ANNOTATION} is missing "
        f"from {names}: pods have no identity for gs:// storage.",
        "Apply the overlay gke (manifests/README.md), or create that secret: "
        f"kubectl create secret generic {secret} -n {namespace} --from-file key.json.",
    )


def _check_s3(
    client: ClusterClient,
    namespace: str,
    *,
    secret: str,
    config_map: str,
    endpoint: str,
    account: KubernetesObject,
) -> CheckResult:
    if has_placeholder(endpoint):
        return problem(
            POD_STORAGE,
            f"S3_ENDPOINT in {config_map} is {endpoint}, still the placeholder of the manifests.",
            "Set your store's address in the overlay's settings.yaml, and apply the overlay again.",
        )
    where = f"at {endpoint}" if endpoint else "at Amazon S3"
    if secret and has_secret(client, namespace, secret):
        return ok(POD_STORAGE, f"{where}, with the keys in the secret {secret}, which was not read")
    metadata = account["metadata"]
    if role := (metadata.get("annotations") or {}).get(_AMAZON_ANNOTATION):
        return ok(POD_STORAGE, f"{where}, as {role}; its permissions cannot be checked from here")
    return warning(
        POD_STORAGE,
        f"{namespace} has no secret {secret}, and {metadata['name']} has no role to act as.",
        f"kubectl create secret generic {secret} -n {namespace} --from-env-file KEYS, with the "
        "lines accesskey=... and secretkey=... in the file KEYS.",
    )


def _find_config_map(client: ClusterClient, namespace: str, name: str) -> KubernetesObject | None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    return client.find(f"look up {name}", path)


def _secret_names(value: Any) -> set[str]:
    """Return every `secretName` in the providers, including overrides for single buckets."""
    if isinstance(value, dict):
        own = {value["secretName"]} if value.get("secretName") else set()
        return own.union(*map(_secret_names, value.values()))
    return set().union(*map(_secret_names, value)) if isinstance(value, list) else set()
