"""The ConfigMap kfp-launcher: where KFP keeps its own artifacts in a namespace, and with which credentials."""

from dataclasses import dataclass
from typing import Any

from repot_pipelines.doctor.check import Check, has_placeholder, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster, Facts
from repot_pipelines.doctor.rights import APPLY

NAME = "kfp-launcher"
_SCHEMES = ("gs", "s3", "minio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """What the ConfigMap says.

    Attributes:
        root: Where artifacts go; "" for KFP's own default.
        secrets: Names of the secrets with the keys for that.
        complaint: Why it cannot be read; "" if it can.
    """

    root: str
    secrets: tuple[str, ...] = ()
    complaint: str = ""


def find_launcher(cluster: Cluster, namespace: str) -> Launcher | None:
    """Return what the ConfigMap of a namespace says; None if there is none.

    Raises:
        ClusterError: One may not look.
    """
    found = cluster.find(f"look for {NAME}", f"/api/v1/namespaces/{namespace}/configmaps/{NAME}")
    return None if found is None else read_launcher(found.get("data") or {})


def read_launcher(data: Facts) -> Launcher:
    """Return what the data of the ConfigMap say."""
    import yaml

    root = data.get("defaultPipelineRoot", "")
    try:
        providers = yaml.safe_load(data.get("providers", "")) or {}
        names = _secret_names(providers)
    except (yaml.YAMLError, AttributeError, TypeError) as err:
        return Launcher(root=root, complaint=" ".join(str(err).split()))
    return Launcher(root=root, secrets=tuple(sorted(names)))


def check_launcher(namespace: str, launcher: Launcher | None) -> Check:
    """Return whether KFP knows where to keep its artifacts.

    Args:
        namespace: Namespace of the runs.
        launcher: What its ConfigMap says; None if there is none.
    """
    if launcher is None:
        return warning(
            NAME,
            f"{namespace} has no ConfigMap {NAME}: KFP keeps artifacts in its own default store.",
            APPLY,
        )
    if launcher.complaint:
        fix = f"Correct it: kubectl edit configmap {NAME} -n {namespace}."
        return problem(NAME, f"Its providers are no valid YAML: {launcher.complaint}.", fix)
    if has_placeholder(launcher.root):
        fix = "Put your bucket into the overlay's settings.yaml, and apply the overlay again."
        return problem(
            NAME, f"Its root is {launcher.root}, which is still the manifests' placeholder.", fix
        )
    scheme = launcher.root.partition("://")[0]
    if launcher.root and scheme not in _SCHEMES:
        fix = f"Give one that begins with {', '.join(f'{known}://' for known in _SCHEMES)}."
        return problem(
            NAME, f"Its defaultPipelineRoot is {launcher.root!r}, which KFP does not know.", fix
        )
    keys = (
        f"the keys in {', '.join(launcher.secrets)}"
        if launcher.secrets
        else "the pods' own credentials"
    )
    return ok(NAME, f"artifacts go to {launcher.root or 'the default store of KFP'}, with {keys}")


def _secret_names(value: Any) -> set[str]:
    """Return every `secretName` in the providers, those of overrides for single buckets included."""
    if isinstance(value, dict):
        own = {value["secretName"]} if value.get("secretName") else set()
        return own.union(*map(_secret_names, value.values()))
    return set().union(*map(_secret_names, value)) if isinstance(value, list) else set()
