"""Everything that `repot doctor` checks, section by section, in the order a run needs it."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repot import storage
from repot.cluster_names import (
    GOOGLE_ACCOUNT_KEY,
    JOB_RUNNER_ACCOUNT,
    SETTINGS_CONFIG_MAP,
    WORKER_ACCOUNT,
)
from repot.extras import DISTRIBUTION
from repot.settings import ParameterValues
from repot_pipelines.cluster import placement
from repot_pipelines.cluster.client import ClusterClient, ClusterConnection, connect
from repot_pipelines.cluster.errors import ClusterError, ForbiddenError
from repot_pipelines.doctor import (
    accounts,
    installation,
    kfp_connection,
    machine,
    pod_storage,
    scheduling,
    storage_access,
)
from repot_pipelines.doctor.results import (
    PROBLEM,
    CheckResult,
    not_checked,
    ok,
    problem,
    problem_from_crash,
    problem_from_error,
    run_check,
    warning,
)

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.access import Access

_CLUSTER = "cluster"
_NAMESPACE = "namespace"


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorRequest:
    """What to check, and for which run.

    Attributes:
        storage_uri: Storage folder of the run, normalised; "" if not given.
        access: Address and credentials of Kubeflow Pipelines.
        namespace: Namespace of the run; "" for that of Kubeflow Pipelines.
        service_account: Service account of the run's pods; "" for the default.
        pod_options: Settings that decide what the pods request, as far as options set them.
        needs_cluster: Whether an option refers to the cluster, so that a missing one is a problem.
        pipeline: The compiled pipeline that is installed.
    """

    storage_uri: str
    access: "Access"
    namespace: str
    service_account: str
    pod_options: ParameterValues
    needs_cluster: bool
    pipeline: installation.InstalledPipeline

    @property
    def pod_namespace(self) -> str:
        """Return the namespace of the run's pods."""
        return self.namespace or self.access.kfp_namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """The results for one part of the environment.

    Attributes:
        title: The part, e.g. "storage".
        checks: One result per check.
    """

    title: str
    checks: tuple[CheckResult, ...]


def run_checks(request: DoctorRequest, environment: Mapping[str, str]) -> Iterator[Section]:
    """Run all checks, and yield each section as soon as it is complete.

    Args:
        request: What to check.
        environment: Environment variables by name.
    """
    yield Section(title="this machine", checks=tuple(_check_machine(request)))
    yield Section(title="storage", checks=tuple(_check_storage(request, environment)))
    cluster, connection = _connect(request, environment)
    server = run_check(kfp_connection.SERVER, lambda: _check_server(request, cluster, connection))
    yield Section(title="Kubeflow Pipelines", checks=tuple(server))
    in_cluster = _check_cluster(request, connection) if connection else []
    yield Section(title="cluster", checks=(cluster, *in_cluster))


def _check_machine(request: DoctorRequest) -> list[CheckResult]:
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    requirements = metadata.get_all("Requires-Dist") or []
    is_local = request.storage_uri and storage.is_local(request.storage_uri)
    folder = Path(request.storage_uri) if is_local else Path.cwd()
    checks: dict[str, Callable[[], CheckResult]] = {
        "Python": lambda: installation.check_python(metadata["Requires-Python"]),
        "packages": lambda: installation.check_packages(
            requirements, installation.installed_versions()
        ),
        "TensorFlow": installation.check_tensorflow,
        "memory": lambda: machine.check_memory(machine.free_memory_bytes()),
        "disk": lambda: machine.check_disk("disk", folder),
        "scratch": lambda: machine.check_disk("scratch", machine.scratch_folder()),
        "sandbox": machine.check_sandbox,
        "pipeline": lambda: request.pipeline.check,
        "weights": installation.check_weights,
    }
    return [result for name, check in checks.items() for result in run_check(name, check)]


def _check_storage(request: DoctorRequest, environment: Mapping[str, str]) -> list[CheckResult]:
    uri = request.storage_uri
    if not uri:
        return [not_checked(storage_access.STORAGE_ACCESS, "no --storage-uri was given")]
    return [
        *run_check(storage_access.STORAGE_ACCESS, lambda: storage_access.check_access(uri)),
        storage_access.check_credentials(uri, environment),
    ]


def _connect(
    request: DoctorRequest, environment: Mapping[str, str]
) -> tuple[CheckResult, ClusterConnection | None]:
    """Connect to the cluster; return the result of that, and the connection if there is one."""
    try:
        connection = connect(request.access.kube_context, environment, Path.home())
    except ClusterError as err:
        return problem_from_error(_CLUSTER, err, fix="Check kubeconfig."), None
    except Exception as err:  # noqa: BLE001 - it must not hide the results of the other sections
        return problem_from_crash(_CLUSTER, err), None
    if connection is None:
        return _no_cluster(request), None
    user = f", as {connection.user}" if connection.user else ""
    finding = (
        f"{connection.client.address}, {connection.context}, Kubernetes {connection.version}{user}"
    )
    return ok(_CLUSTER, finding), connection


def _no_cluster(request: DoctorRequest) -> CheckResult:
    if not request.needs_cluster:
        return not_checked(_CLUSTER, "neither an option nor kubeconfig selects one")
    return problem(
        _CLUSTER,
        "Some options refer to a cluster, and kubeconfig selects none.",
        "Pass --context, or set KUBECONFIG to the file that the cluster's tools write.",
    )


def _check_server(
    request: DoctorRequest, cluster: CheckResult, connection: ClusterConnection | None
) -> list[CheckResult]:
    """Check Kubeflow Pipelines; without --host it is reached through the cluster."""
    if request.access.host or connection is not None:
        return kfp_connection.check_server(request.access, namespace=request.namespace)
    reason = (
        "it would be reached through the cluster, which cannot be used"
        if cluster.state == PROBLEM
        else "neither --host nor kubeconfig selects one"
    )
    return [not_checked(kfp_connection.SERVER, reason)]


def _check_cluster(request: DoctorRequest, connection: ClusterConnection) -> list[CheckResult]:
    client, user, namespace = connection.client, connection.user, request.pod_namespace
    fix_in_namespace = (
        f"Ask for the role edit in {namespace}, or let someone who has it run `repot doctor`."
    )
    fix_in_cluster = (
        "Ask for permission to list nodes and pods, or let an administrator run `repot doctor`."
    )
    results = _run_cluster_check(
        _NAMESPACE, lambda: _check_namespace(client, namespace), fix_in_namespace
    )
    checks: dict[str, Callable[[], CheckResult | list[CheckResult]]] = {
        accounts.RUN_ACCOUNT_CHECK: lambda: _check_run_account(client, request, user=user),
        accounts.JOB_ACCOUNT_CHECK: lambda: accounts.check_job_account(
            namespace,
            accounts.find_account(client, namespace, WORKER_ACCOUNT),
            identity=_google_account_of_settings(client, request),
        ),
        pod_storage.SETTINGS: lambda: _check_settings(client, request),
        pod_storage.POD_STORAGE: lambda: _check_pod_storage(client, request),
        pod_storage.LAUNCHER_CONFIG_MAP: lambda: pod_storage.check_launcher_config(
            namespace, pod_storage.find_launcher_config(client, namespace)
        ),
        pod_storage.SECRETS: lambda: _check_secrets(client, request),
        scheduling.QUOTA: lambda: _check_quota(client, request),
    }
    if results[0].state != PROBLEM:
        for name, check in checks.items():
            results += _run_cluster_check(name, check, fix_in_namespace)
    results += _run_cluster_check(
        scheduling.TRAINER_NODES, lambda: _check_nodes(client, request), fix_in_cluster
    )
    return results


def _run_cluster_check(
    name: str, check: Callable[[], CheckResult | list[CheckResult]], fix: str
) -> list[CheckResult]:
    """Run a check; if the user lacks the permission for it, that is only a warning.

    Args:
        name: Name of the result if the check raises.
        check: Returns one or several results.
        fix: How to get the permission.
    """

    def check_if_permitted() -> CheckResult | list[CheckResult]:
        try:
            return check()
        except ForbiddenError as err:
            return warning(name, problem_from_error(name, err, fix=fix).finding, fix)

    return run_check(name, check_if_permitted)


def _check_namespace(client: ClusterClient, namespace: str) -> CheckResult:
    if client.find("look up the namespace", f"/api/v1/namespaces/{namespace}"):
        return ok(_NAMESPACE, namespace)
    return problem(
        _NAMESPACE,
        f"The cluster has no namespace {namespace}.",
        "Pass another --namespace, or install Kubeflow Pipelines: "
        f"kubectl create namespace {namespace}.",
    )


def _check_run_account(
    client: ClusterClient, request: DoctorRequest, *, user: str
) -> list[CheckResult]:
    """Check the service accounts of runs, without and with a training Job; their permissions."""
    namespace = request.pod_namespace
    found = accounts.find_run_account(client, namespace, request.service_account)
    identity = _google_account_of_settings(client, request)
    result = accounts.check_run_account(namespace, found, identity=identity)
    if found.account is None:
        return [result]
    job_account = accounts.find_account(client, namespace, JOB_RUNNER_ACCOUNT)
    is_default = job_account is not None and not request.service_account
    launcher = pod_storage.find_launcher_config(client, namespace)
    secrets = accounts.secret_permissions(launcher.secrets if launcher else ())
    return [
        result,
        accounts.check_permissions(
            client,
            namespace,
            found.name,
            (*accounts.RUN_PERMISSIONS, *secrets),
            name="run permissions",
            user=user,
        ),
        accounts.check_job_run_account(namespace, job_account, identity=identity),
        accounts.check_job_permissions(
            client, namespace, JOB_RUNNER_ACCOUNT if is_default else found.name, user=user
        ),
        accounts.check_job_policy(client, job_account),
    ]


def _google_account_of_settings(client: ClusterClient, request: DoctorRequest) -> str:
    """Return the Google service account that the settings in the cluster name; "" for none."""
    config_map = request.pipeline.defaults.get("settings_config_map", SETTINGS_CONFIG_MAP)
    settings = pod_storage.find_settings(client, request.pod_namespace, config_map)
    return settings.get(GOOGLE_ACCOUNT_KEY, "")


def _check_settings(client: ClusterClient, request: DoctorRequest) -> CheckResult:
    config_map = request.pipeline.defaults.get("settings_config_map", SETTINGS_CONFIG_MAP)
    data = pod_storage.find_settings(client, request.pod_namespace, config_map)
    return pod_storage.check_settings(config_map, data)


def _check_pod_storage(client: ClusterClient, request: DoctorRequest) -> CheckResult:
    namespace = request.pod_namespace
    account = accounts.find_run_account(client, namespace, request.service_account).account
    job_accounts = [
        accounts.find_account(client, namespace, name)
        for name in (JOB_RUNNER_ACCOUNT, WORKER_ACCOUNT)
    ]
    if account is None:
        return not_checked(pod_storage.POD_STORAGE, "the service account does not exist")
    return pod_storage.check_pod_storage(
        client,
        namespace,
        storage_uri=request.storage_uri,
        defaults=request.pipeline.defaults,
        accounts=[account, *filter(None, job_accounts)],
    )


def _check_secrets(client: ClusterClient, request: DoctorRequest) -> CheckResult:
    """Check the Secrets that KFP's launcher and the service account refer to."""
    namespace = request.pod_namespace
    found = accounts.find_run_account(client, namespace, request.service_account)
    launcher = pod_storage.find_launcher_config(client, namespace)
    users = dict.fromkeys(launcher.secrets if launcher else (), pod_storage.LAUNCHER_CONFIG_MAP)
    users |= dict.fromkeys(accounts.pull_secrets(found.account), found.name)
    return pod_storage.check_secrets(client, namespace, users)


def _check_quota(client: ClusterClient, request: DoctorRequest) -> CheckResult:
    pod = scheduling.trainer_placement(_pod_values(client, request))
    if pod is None or not pod.accelerator_count:
        return not_checked(scheduling.QUOTA, "no accelerator is requested")
    return scheduling.check_quotas(
        scheduling.list_quotas(client, request.pod_namespace),
        accelerator_type=pod.accelerator_type,
        accelerator_count=pod.accelerator_count,
    )


def _pod_values(client: ClusterClient, request: DoctorRequest) -> ParameterValues:
    """Return the settings that a run with these options would use."""
    defaults = request.pipeline.defaults
    config_map = str(defaults.get("settings_config_map", SETTINGS_CONFIG_MAP))
    from_cluster = placement.read_cluster_values(client, request.pod_namespace, config_map)
    return {**defaults, **from_cluster, **request.pod_options}


def _check_nodes(client: ClusterClient, request: DoctorRequest) -> list[CheckResult]:
    """Check the nodes for the pods of a run, and the container images on all nodes."""
    known = placement.read_nodes(client)
    images = scheduling.check_container_images(request.pipeline.container_images, known)
    values = _pod_values(client, request)
    trainer_pod = scheduling.trainer_placement(values)
    if trainer_pod is None:
        reason = "its defaults are unknown without the compiled pipeline"
        return [not_checked(scheduling.TRAINER_NODES, reason), *images]
    result = scheduling.check_nodes(client, known, trainer_pod)
    if not known:
        return [result, *images]
    requests = placement.pod_requests(values)
    return [result, scheduling.check_sizes(client, known, requests), *images]
