"""The cluster: what is looked at there, in which order, and what is left out when something before it is missing."""

from collections.abc import Callable
from dataclasses import dataclass

from repot_pipelines.doctor import accelerators, accounts, launcher, nodes, pod_storage, rights
from repot_pipelines.doctor.accelerators import Placement
from repot_pipelines.doctor.check import (
    PROBLEM,
    Check,
    failed,
    guarded,
    not_checked,
    ok,
    problem,
    warning,
)
from repot_pipelines.doctor.cluster import Cluster, Meeting
from repot_pipelines.doctor.cluster_errors import ForbiddenError
from repot_pipelines.doctor.shipped import Shipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a run wants of the cluster.

    Attributes:
        namespace: Namespace of its pods.
        account: Their service account; "" for the usual one.
        placement: What the trainer's pod asks for; None if that is not known.
        storage_uri: Where everything is written; "" for none.
        shipped: The compiled pipeline.
    """

    namespace: str
    account: str
    placement: Placement | None
    storage_uri: str
    shipped: Shipped


def check_cluster(meeting: Meeting, wanted: Wanted) -> list[Check]:
    """Return how the cluster is.

    Args:
        meeting: The first contact.
        wanted: What a run wants of it.
    """
    if meeting.cluster is None or meeting.greeting is None:
        return [meeting.check]
    cluster, me = meeting.cluster, meeting.greeting.user
    in_namespace = f"Ask for the role edit in {wanted.namespace}, or let somebody who has it run `repot doctor`."
    in_cluster = (
        "Ask for the right to list nodes and pods, or let an administrator run `repot doctor`."
    )
    found = _looked(
        "namespace", lambda: [_check_namespace(cluster, wanted.namespace)], in_namespace
    )
    looks: dict[str, Callable[[], list[Check]]] = {
        "service account": lambda: _check_runner(cluster, wanted, me=me),
        "worker account": lambda: _check_worker(cluster, wanted),
        pod_storage.NAME: lambda: _check_pod_storage(cluster, wanted),
        launcher.NAME: lambda: _check_launcher(cluster, wanted),
        pod_storage.SECRETS_NAME: lambda: _check_secrets(cluster, wanted),
        accelerators.QUOTA_NAME: lambda: _check_quota(cluster, wanted),
    }
    if found[0].state == PROBLEM:
        looks = {}
    return [
        meeting.check,
        *found,
        *(check for name, look in looks.items() for check in _looked(name, look, in_namespace)),
        *_looked(accelerators.NAME, lambda: _check_nodes(cluster, wanted), in_cluster),
    ]


def _looked(name: str, look: Callable[[], list[Check]], fix: str) -> list[Check]:
    """Return what `look` returns; what one may not see is no problem of the cluster's."""

    def seen() -> list[Check]:
        try:
            return look()
        except ForbiddenError as err:
            return [warning(name, failed(name, err, fix=fix).finding, fix)]

    return guarded(name, seen)


def _check_namespace(cluster: Cluster, namespace: str) -> Check:
    if cluster.find("look for the namespace", f"/api/v1/namespaces/{namespace}"):
        return ok("namespace", namespace)
    fix = f"Give another --namespace, or install Kubeflow Pipelines: kubectl create namespace {namespace}."
    return problem("namespace", f"The cluster has no namespace {namespace}.", fix)


def _check_runner(cluster: Cluster, wanted: Wanted, *, me: str) -> list[Check]:
    runner = accounts.find_runner(cluster, wanted.namespace, wanted.account)
    found = accounts.check_runner(wanted.namespace, runner)
    if runner.account is None:
        return [found]
    found_launcher = launcher.find_launcher(cluster, wanted.namespace)
    keys = rights.secret_rights(found_launcher.secrets if found_launcher else ())
    needed = {"rights of a run": (*rights.RUN_RIGHTS, *keys), "rights for a Job": rights.JOB_RIGHTS}
    return [
        found,
        *(
            rights.check_rights(cluster, wanted.namespace, runner.name, those, title=title, me=me)
            for title, those in needed.items()
        ),
    ]


def _check_worker(cluster: Cluster, wanted: Wanted) -> list[Check]:
    account = accounts.find_account(cluster, wanted.namespace, accounts.WORKER)
    return [accounts.check_worker(wanted.namespace, account)]


def _check_pod_storage(cluster: Cluster, wanted: Wanted) -> list[Check]:
    account = accounts.find_runner(cluster, wanted.namespace, wanted.account).account
    if account is None:
        return [not_checked(pod_storage.NAME, "there is no service account")]
    return [
        pod_storage.check_pod_storage(
            cluster,
            wanted.namespace,
            storage_uri=wanted.storage_uri,
            defaults=wanted.shipped.defaults,
            account=account,
        )
    ]


def _check_launcher(cluster: Cluster, wanted: Wanted) -> list[Check]:
    return [
        launcher.check_launcher(wanted.namespace, launcher.find_launcher(cluster, wanted.namespace))
    ]


def _check_secrets(cluster: Cluster, wanted: Wanted) -> list[Check]:
    runner = accounts.find_runner(cluster, wanted.namespace, wanted.account)
    found = launcher.find_launcher(cluster, wanted.namespace)
    named = dict.fromkeys(found.secrets if found else (), launcher.NAME)
    named |= dict.fromkeys(accounts.pull_secrets(runner.account), runner.name)
    return [pod_storage.check_secrets(cluster, wanted.namespace, named)]


def _check_quota(cluster: Cluster, wanted: Wanted) -> list[Check]:
    placement = wanted.placement
    if placement is None or not placement.accelerator_count:
        return [not_checked(accelerators.QUOTA_NAME, "no accelerator is asked for")]
    quotas = accelerators.list_quotas(cluster, wanted.namespace)
    kind, count = placement.accelerator_type, placement.accelerator_count
    return [accelerators.check_quotas(quotas, accelerator_type=kind, accelerator_count=count)]


def _check_nodes(cluster: Cluster, wanted: Wanted) -> list[Check]:
    known = [nodes.read_node(facts) for facts in cluster.list_all("list nodes", "/api/v1/nodes")]
    images = nodes.check_images(wanted.shipped.images, known)
    if wanted.placement is None:
        return [
            not_checked(
                accelerators.NAME, "without the compiled pipeline its defaults are not known"
            ),
            *images,
        ]
    return [accelerators.check_nodes(cluster, known, wanted.placement), *images]
