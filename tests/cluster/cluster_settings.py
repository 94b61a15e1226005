"""Which cluster the tests are to use: environment variables, read once, all problems said at once.

Required:
    REPOT_CLUSTER_STORAGE              gs:// or s3:// folder that this machine and the pods can write to
    REPOT_CLUSTER_IMAGE                image for every task, the trainer's included; needs no GPU
    KUBECONFIG                         file that reaches the cluster; ~/.kube/config where it is not set
Optional:
    REPOT_CLUSTER_HOST                 address of Kubeflow Pipelines; through the kubeconfig where it is not set
    REPOT_CLUSTER_KFP_NAMESPACE        where Kubeflow Pipelines is installed: kubeflow
    REPOT_CLUSTER_NAMESPACE            namespace of the runs, on a multi-user server
    REPOT_CLUSTER_SERVICE_ACCOUNT      of the runs' pods: the server's default; `repot-runner` with repot's manifests
    REPOT_CLUSTER_JOB_SERVICE_ACCOUNT  of the pods of Jobs: repot-worker
    REPOT_CLUSTER_S3_SECRET            Secret of the pods with accesskey and secretkey: repot-s3
    REPOT_CLUSTER_CONFIG_MAP           ConfigMap of the pods with S3_ENDPOINT and S3_REGION: repot-settings
    REPOT_CLUSTER_S3_ENDPOINT, REPOT_CLUSTER_S3_ACCESS_KEY, REPOT_CLUSTER_S3_SECRET_KEY
                                       the same store as this machine sees it; else what AWS's own variables say
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repot import storage
from repot.errors import UsageError

PREFIX = "REPOT_CLUSTER_"
_AWS_NAMES = {
    "S3_ENDPOINT": "AWS_ENDPOINT_URL_S3",
    "S3_ACCESS_KEY": "AWS_ACCESS_KEY_ID",
    "S3_SECRET_KEY": "AWS_SECRET_ACCESS_KEY",
}
_REQUIRED = ("STORAGE", "IMAGE")
_OPTIONAL = (
    "HOST",
    "KFP_NAMESPACE",
    "NAMESPACE",
    "SERVICE_ACCOUNT",
    "JOB_SERVICE_ACCOUNT",
    "S3_SECRET",
    "CONFIG_MAP",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSettings:
    """One cluster, one place to store, one image; see above."""

    kubeconfig_path: Path
    storage_uri: str
    image: str
    host: str = ""
    kfp_namespace: str = "kubeflow"
    namespace: str = ""
    service_account: str = ""
    job_service_account: str = "repot-worker"
    s3_secret: str = "repot-s3"
    config_map: str = "repot-settings"
    store_variables: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def pod_namespace(self) -> str:
        """Return where the pods of runs are."""
        return self.namespace or self.kfp_namespace

    @property
    def variables(self) -> dict[str, str]:
        """Return what the processes of the tests need in their environment."""
        return {"KUBECONFIG": str(self.kubeconfig_path), **self.store_variables}

    @property
    def server_options(self) -> list[str]:
        """Return the options of every command that talks to the server."""
        options = {
            "--host": self.host,
            "--namespace": self.namespace,
            "--kfp-namespace": self.kfp_namespace,
        }
        return [word for name, value in options.items() if value for word in (name, value)]


def read_settings(environment: Mapping[str, str], home: Path) -> ClusterSettings:
    """Return the settings that variables make.

    Args:
        environment: Variables by name.
        home: Where .kube/config may be.

    Raises:
        UsageError: Lists everything that is missing, wrong, or not known.
    """
    given = {
        name.removeprefix(PREFIX): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    kubeconfig_path = Path(environment.get("KUBECONFIG") or home / ".kube" / "config")
    known = {*_REQUIRED, *_OPTIONAL, *_AWS_NAMES}
    problems = [
        f"{PREFIX}{name} is no setting of these tests." for name in sorted(set(given) - known)
    ]
    problems += [f"{PREFIX}{name} must be set." for name in _REQUIRED if not given.get(name)]
    problems += _storage_problems(given.get("STORAGE", ""))
    if not kubeconfig_path.is_file():
        problems.append(f"KUBECONFIG must name a file; there is no {kubeconfig_path}.")
    if problems:
        raise UsageError(problems)
    return ClusterSettings(
        kubeconfig_path=kubeconfig_path.absolute(),
        storage_uri=storage.normalise(given["STORAGE"]),
        image=given["IMAGE"],
        store_variables={
            variable: given[name] for name, variable in _AWS_NAMES.items() if given.get(name)
        },
        **{name.lower(): given[name] for name in _OPTIONAL if given.get(name)},
    )


def _storage_problems(uri: str) -> list[str]:
    if not uri:
        return []
    try:
        is_local = storage.is_local(storage.normalise(uri))
    except UsageError as err:
        return [f"{PREFIX}STORAGE: {problem}" for problem in err.problems]
    return (
        [f"{PREFIX}STORAGE must be in an object store that pods can reach; got {uri!r}."]
        if is_local
        else []
    )
