"""The service accounts of a run and of a training Job."""

from dataclasses import dataclass

from repot_pipelines.doctor.check import Check, has_placeholder, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster, Facts
from repot_pipelines.doctor.rights import APPLY

RUNNER, WORKER = "repot-runner", "repot-worker"
"""The pods of a run, and the pods of the Job that trains, as manifests/base names them."""
KFP_ACCOUNTS = ("pipeline-runner", "default-editor")
"""What KFP takes by itself: on its own, and in a profile's namespace of a full Kubeflow."""
_GOOGLE_ACCOUNT = "iam.gke.io/gcp-service-account"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """The service account of the pods of a run.

    Attributes:
        name: Its name.
        account: The account; None if there is none.
        is_chosen: Whether it is the one that somebody named, or the manifests' own.
    """

    name: str
    account: Facts | None
    is_chosen: bool = True


def find_account(cluster: Cluster, namespace: str, name: str) -> Facts | None:
    """Return a service account; None if there is none.

    Raises:
        ClusterError: One may not look.
    """
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
    return cluster.find(f"look for the service account {name}", path)


def find_runner(cluster: Cluster, namespace: str, name: str) -> Runner:
    """Return the account that a run's pods get.

    Args:
        cluster: The cluster.
        namespace: Namespace of the runs.
        name: The account that was named; "" for the manifests' own, or else the one that KFP takes by itself.

    Raises:
        ClusterError: One may not look.
    """
    if account := find_account(cluster, namespace, name or RUNNER):
        return Runner(name=name or RUNNER, account=account)
    for other in () if name else KFP_ACCOUNTS:
        if account := find_account(cluster, namespace, other):
            return Runner(name=other, account=account, is_chosen=False)
    return Runner(name=name or RUNNER, account=None)


def check_runner(namespace: str, runner: Runner) -> Check:
    """Return whether the run's service account is there."""
    title = "service account"
    if runner.account is None:
        fix = f"{APPLY} Or name another with --service-account."
        return problem(title, f"{namespace} has no {runner.name} for the pods of a run.", fix)
    if not runner.is_chosen:
        finding = f"{namespace} has no {RUNNER}; runs get KFP's own {runner.name}, with more rights than they need."
        return warning(title, finding, APPLY)
    return _check_annotation(title, runner.name, runner.account)


def check_worker(namespace: str, account: Facts | None) -> Check:
    """Return whether the service account for the pods of a training Job is there.

    Args:
        namespace: Namespace of the runs.
        account: The account; None if there is none.
    """
    title = "worker account"
    if account is None:
        return warning(
            title, f"{namespace} has no {WORKER}, which the pods of a training Job run as.", APPLY
        )
    return _check_annotation(title, WORKER, account)


def google_account(account: Facts) -> str:
    """Return the Google service account that an account's pods act as by workload identity; "" for none."""
    return str((account["metadata"].get("annotations") or {}).get(_GOOGLE_ACCOUNT, ""))


def pull_secrets(account: Facts | None) -> list[str]:
    """Return the names of the secrets that an account's pods pull images with."""
    return [secret["name"] for secret in (account or {}).get("imagePullSecrets") or []]


def _check_annotation(title: str, name: str, account: Facts) -> Check:
    google = google_account(account)
    if has_placeholder(google):
        fix = "Put your project into manifests/overlays/gke/settings.yaml, and apply the overlay again."
        return problem(
            title, f"{name} is to act as {google}, which is still the manifests' placeholder.", fix
        )
    return ok(title, f"{name}{f', acting as {google}' if google else ''}")
