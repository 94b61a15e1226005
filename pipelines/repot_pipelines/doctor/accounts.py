"""Check the service accounts of runs and training Jobs: that they exist, and what they may do.

Permissions are checked with a SelfSubjectAccessReview while impersonating the account, as in
`kubectl auth can-i --as`, so the answer includes every authorizer of the cluster, not only roles.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot.cluster_names import (
    GOOGLE_ACCOUNT_KEY,
    GOOGLE_ANNOTATION,
    JOB_POLICIES,
    JOB_RUNNER_ACCOUNT,
    RUNNER_ACCOUNT,
    SETTINGS_CONFIG_MAP,
    WORKER_ACCOUNT,
)
from repot.kubernetes_rules import KubernetesObject
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.cluster.errors import ForbiddenError
from repot_pipelines.doctor.results import (
    OK,
    PROBLEM,
    CheckResult,
    not_checked,
    ok,
    problem,
    warning,
)

RUN_ACCOUNT_CHECK = "service account"
JOB_ACCOUNT_CHECK = "worker account"
_JOB_RUN_ACCOUNT_CHECK = "Job run account"
_JOB_PERMISSIONS_CHECK = "Job permissions"
JOB_POLICY_CHECK = "Job policy"

APPLY_MANIFESTS = (
    "kubectl apply -k manifests/overlays/OVERLAY, with the overlay that fits (manifests/README.md)."
)
PLACEHOLDERS = ("your-bucket", "your-project", "your-domain")
"""Values in the settings.yaml of the overlays that users must replace."""

_KFP_ACCOUNTS = ("pipeline-runner", "default-editor")
"""The defaults of KFP: standalone, and in a profile's namespace of a full Kubeflow."""
_BINDINGS_PATH = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
_REVIEW_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_NUM_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAccount:
    """The service account of the pods of a run.

    Attributes:
        name: Its name.
        account: The API object; None if it does not exist.
        is_fallback: Whether it is KFP's own account, used because that of the manifests is missing.
    """

    name: str
    account: KubernetesObject | None
    is_fallback: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Permission:
    """Operations on one kind of object in the account's namespace.

    Attributes:
        group: API group; "" for the core group.
        resource: Plural, with a subresource after "/", e.g. pods/log.
        verbs: The operations.
        name: The only object concerned; "" for all.
    """

    group: str = ""
    resource: str
    verbs: tuple[str, ...]
    name: str = ""

    @property
    def kubectl_resource(self) -> str:
        """Return the resource in kubectl's notation, e.g. jobs.batch."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def describe(self, verbs: tuple[str, ...]) -> str:
        """Return these verbs on the resource, e.g. "get/list pods"."""
        return f"{'/'.join(verbs)} {self.kubectl_resource}{f' {self.name}' if self.name else ''}"


RUN_PERMISSIONS = (
    Permission(resource="configmaps", verbs=("get",), name="kfp-launcher"),
    Permission(resource="pods", verbs=("get", "list", "watch")),
    Permission(group="argoproj.io", resource="workflowtaskresults", verbs=("create", "patch")),
)
"""What KFP's driver and launcher and Argo's executor need in the pods of a run."""
JOB_PERMISSIONS = (
    Permission(group="batch", resource="jobs", verbs=("create", "get", "list", "watch", "delete")),
    Permission(resource="services", verbs=("create", "get", "delete")),
    Permission(resource="pods/log", verbs=("get",)),
    Permission(resource="events", verbs=("list",)),
)
"""What the trainer task needs in addition if it trains in a Job."""


def secret_permissions(names: Iterable[str]) -> tuple[Permission, ...]:
    """Return what KFP's launcher needs to read the keys of its artifact store."""
    return tuple(Permission(resource="secrets", verbs=("get",), name=name) for name in names)


def find_account(client: ClusterClient, namespace: str, name: str) -> KubernetesObject | None:
    """Return a service account; None if it does not exist.

    Raises:
        ClusterError: The request failed.
    """
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
    return client.find(f"look up the service account {name}", path)


def find_run_account(client: ClusterClient, namespace: str, name: str) -> RunAccount:
    """Find the service account that the pods of a run will use.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the runs.
        name: The requested account; "" for that of the manifests, or else KFP's default.

    Raises:
        ClusterError: A request failed.
    """
    expected = name or RUNNER_ACCOUNT
    if account := find_account(client, namespace, expected):
        return RunAccount(name=expected, account=account)
    for fallback in () if name else _KFP_ACCOUNTS:
        if account := find_account(client, namespace, fallback):
            return RunAccount(name=fallback, account=account, is_fallback=True)
    return RunAccount(name=expected, account=None)


def check_run_account(namespace: str, found: RunAccount, *, identity: str) -> CheckResult:
    """Check that the service account of a run exists and is configured.

    Args:
        namespace: Namespace of the runs.
        found: The service account.
        identity: The Google service account that the settings name; "" for none.
    """
    if found.account is None:
        return problem(
            RUN_ACCOUNT_CHECK,
            f"{namespace} has no {found.name} for the pods of a run.",
            f"{APPLY_MANIFESTS} Or choose another with --service-account.",
        )
    if found.is_fallback:
        finding = (
            f"{namespace} has no {RUNNER_ACCOUNT}; runs use KFP's own {found.name}, which has "
            "more permissions than they need."
        )
        return warning(RUN_ACCOUNT_CHECK, finding, APPLY_MANIFESTS)
    return _check_annotation(RUN_ACCOUNT_CHECK, namespace, found.account, identity=identity)


def check_job_account(
    namespace: str, account: KubernetesObject | None, *, identity: str
) -> CheckResult:
    """Check that the service account of training Jobs exists and is configured.

    Args:
        namespace: Namespace of the runs.
        account: The account; None if it does not exist.
        identity: The Google service account that the settings name; "" for none.
    """
    if account is None:
        finding = f"{namespace} has no {WORKER_ACCOUNT}, which the pods of a training Job use."
        return warning(JOB_ACCOUNT_CHECK, finding, APPLY_MANIFESTS)
    return _check_annotation(JOB_ACCOUNT_CHECK, namespace, account, identity=identity)


def check_job_run_account(
    namespace: str, account: KubernetesObject | None, *, identity: str
) -> CheckResult:
    """Check the service account of the manifests for runs that train in a Job.

    Args:
        namespace: Namespace of the runs.
        account: The account; None if it does not exist.
        identity: The Google service account that the settings name; "" for none.
    """
    if account is None:
        finding = f"{namespace} has no {JOB_RUNNER_ACCOUNT}; only trainer_mode=job needs it"
        return not_checked(_JOB_RUN_ACCOUNT_CHECK, finding)
    return _check_annotation(_JOB_RUN_ACCOUNT_CHECK, namespace, account, identity=identity)


def check_job_permissions(
    client: ClusterClient, namespace: str, account: str, *, user: str
) -> CheckResult:
    """Check whether a run with this service account may train in a Job.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the account.
        account: Name of the account.
        user: The authenticated user.

    Raises:
        ClusterError: A request failed.
    """
    name = _JOB_PERMISSIONS_CHECK
    result = check_permissions(client, namespace, account, JOB_PERMISSIONS, name=name, user=user)
    if account == RUNNER_ACCOUNT and result.state == OK:
        return warning(
            name,
            f"{account} may create Jobs and read logs, which a run with trainer_mode=pod does not "
            "need.",
            f"{APPLY_MANIFESTS} They give these permissions to {JOB_RUNNER_ACCOUNT} only.",
        )
    if account != JOB_RUNNER_ACCOUNT and result.state == PROBLEM:
        return not_checked(
            name,
            f"{result.finding.removesuffix('.')} for trainer_mode=job, which needs "
            f"{JOB_RUNNER_ACCOUNT}; trainer_mode=pod works without",
        )
    return result


def check_job_policy(client: ClusterClient, job_account: KubernetesObject | None) -> CheckResult:
    """Check that admission policies limit what a run that trains in a Job creates and deletes.

    Args:
        client: Client of the cluster.
        job_account: The account of such runs; None if it does not exist.

    Raises:
        ClusterError: A request failed.
    """
    if job_account is None:
        return not_checked(JOB_POLICY_CHECK, f"there is no {JOB_RUNNER_ACCOUNT} to limit")
    action = "look up the admission policies"
    try:
        missing = [
            name for name in JOB_POLICIES if client.find(action, f"{_BINDINGS_PATH}/{name}") is None
        ]
    except ForbiddenError:
        return not_checked(JOB_POLICY_CHECK, "you may not read the cluster's admission policies")
    if missing:
        return warning(
            JOB_POLICY_CHECK,
            f"Every task of a run with {JOB_RUNNER_ACCOUNT} may create any Job and delete any: the "
            f"cluster has no {' and no '.join(missing)}.",
            f"With Kubernetes 1.30 or later, {APPLY_MANIFESTS}",
        )
    return ok(JOB_POLICY_CHECK, f"{JOB_RUNNER_ACCOUNT} may create and delete training Jobs only")


def check_permissions(
    client: ClusterClient,
    namespace: str,
    account: str,
    permissions: tuple[Permission, ...],
    *,
    name: str,
    user: str,
) -> CheckResult:
    """Check that a service account has all of these permissions in its namespace.

    Args:
        client: Client of the cluster.
        namespace: Namespace of the account.
        account: Name of the account.
        permissions: What it needs.
        name: Name of the result.
        user: The authenticated user; no impersonation is needed if it is the account itself.

    Raises:
        ClusterError: A request failed.
    """
    account_user = f"system:serviceaccount:{namespace}:{account}"
    as_user = "" if account_user == user else account_user
    try:
        missing = _missing_permissions(client, namespace, permissions, as_user=as_user)
    except ForbiddenError:
        first = permissions[0]
        command = (
            f"kubectl auth can-i {first.verbs[0]} {first.kubectl_resource} -n {namespace} "
            f"--as {account_user}"
        )
        return warning(
            name,
            f"The permissions of {account} cannot be checked: you may not impersonate it.",
            f"Let someone with the role edit in {namespace} run `repot doctor`, or e.g. "
            f"`{command}`.",
        )
    if missing:
        finding = f"{account} also needs permission to {', '.join(missing)}."
        return problem(name, finding, APPLY_MANIFESTS)
    granted = ", ".join(permission.describe(permission.verbs) for permission in permissions)
    return ok(name, f"{account} may {granted}")


def google_account(account: KubernetesObject) -> str:
    """Return the Google service account used through workload identity; "" for none."""
    return str((account["metadata"].get("annotations") or {}).get(GOOGLE_ANNOTATION, ""))


def pull_secrets(account: KubernetesObject | None) -> list[str]:
    """Return the names of the account's image pull secrets."""
    return [secret["name"] for secret in (account or {}).get("imagePullSecrets") or []]


def has_placeholder(text: str) -> bool:
    """Return whether a text contains a placeholder of the manifests."""
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def _check_annotation(
    name: str, namespace: str, account: KubernetesObject, *, identity: str
) -> CheckResult:
    """Check that an account acts as the Google service account that the settings name.

    Without the annotation nothing fails until a pod gets no access to the storage.
    """
    account_name, actual = account["metadata"]["name"], google_account(account)
    if has_placeholder(actual or identity):
        source = (
            f"{account_name} acts as {actual}"
            if actual
            else f"{GOOGLE_ACCOUNT_KEY} in {SETTINGS_CONFIG_MAP} is {identity}"
        )
        return problem(
            name,
            f"{source}, which is still the placeholder of the manifests.",
            "Set your project in manifests/overlays/gke/settings.yaml, and apply the overlay "
            "again.",
        )
    if identity and actual != identity:
        state = (
            f"has the annotation {GOOGLE_ANNOTATION}={actual}"
            if actual
            else f"lacks the annotation {GOOGLE_ANNOTATION}"
        )
        return problem(
            name,
            f"{account_name} {state}, and {GOOGLE_ACCOUNT_KEY} in {SETTINGS_CONFIG_MAP} is "
            f"{identity}: its pods would not act as that account.",
            "Apply the overlay gke again, or: kubectl annotate --overwrite serviceaccount "
            f"{account_name} -n {namespace} {GOOGLE_ANNOTATION}={identity}.",
        )
    return ok(name, f"{account_name}{f', acting as {actual}' if actual else ''}")


def _missing_permissions(
    client: ClusterClient, namespace: str, permissions: tuple[Permission, ...], *, as_user: str
) -> list[str]:
    requests = [(permission, verb) for permission in permissions for verb in permission.verbs]

    def is_allowed(request: tuple[Permission, str]) -> bool:
        return _is_allowed(client, namespace, *request, as_user=as_user)

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        allowed = list(pool.map(is_allowed, requests))
    denied: dict[Permission, tuple[str, ...]] = {}
    for (permission, verb), verb_is_allowed in zip(requests, allowed, strict=True):
        if not verb_is_allowed:
            denied[permission] = (*denied.get(permission, ()), verb)
    return [permission.describe(verbs) for permission, verbs in denied.items()]


def _is_allowed(
    client: ClusterClient, namespace: str, permission: Permission, verb: str, *, as_user: str
) -> bool:
    resource, _, subresource = permission.resource.partition("/")
    request = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": permission.group,
                "resource": resource,
                "subresource": subresource,
                "name": permission.name,
            }
        },
    }
    review = client.review("check permissions", _REVIEW_PATH, request, as_user=as_user)
    return bool(review["status"]["allowed"])
