"""Settings of the cluster tests, from environment variables; all problems are reported together.

Required:
    REPOT_CLUSTER_STORAGE              gs:// or s3:// folder, writable by this machine and the pods
    REPOT_CLUSTER_IMAGE                image of every task including the trainer; CPU only
    KUBECONFIG                         access to the cluster; default ~/.kube/config
Optional:
    REPOT_CLUSTER_HOST                 address of Kubeflow Pipelines; default through kubeconfig
    REPOT_CLUSTER_UI                   address of the UI; default HOST, else `kubectl port-forward`
    REPOT_CLUSTER_KFP_NAMESPACE        namespace of Kubeflow Pipelines; default kubeflow
    REPOT_CLUSTER_NAMESPACE            namespace of the runs on a multi-user server
    REPOT_CLUSTER_SERVICE_ACCOUNT      of the runs' pods; default: that of the server
    REPOT_CLUSTER_JOB_SERVICE_ACCOUNT  of the pods of Jobs; default repot-worker
    REPOT_CLUSTER_S3_SECRET            with accesskey and secretkey; default repot-s3
    REPOT_CLUSTER_CONFIG_MAP           with S3_ENDPOINT and S3_REGION; default repot-settings
    REPOT_CLUSTER_S3_ENDPOINT, REPOT_CLUSTER_S3_ACCESS_KEY, REPOT_CLUSTER_S3_SECRET_KEY
                                       the same store from this machine; default: the AWS variables
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repot import cluster_names, storage
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
    "UI",
    "KFP_NAMESPACE",
    "NAMESPACE",
    "SERVICE_ACCOUNT",
    "JOB_SERVICE_ACCOUNT",
    "S3_SECRET",
    "CONFIG_MAP",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSettings:
    """The cluster, storage and container image to test with; see the module docstring."""

    kubeconfig_path: Path
    storage_uri: str
    image: str
    host: str = ""
    ui: str = ""
    kfp_namespace: str = "kubeflow"
    namespace: str = ""
    service_account: str = ""
    job_service_account: str = cluster_names.WORKER_ACCOUNT
    s3_secret: str = cluster_names.S3_SECRET
    config_map: str = cluster_names.SETTINGS_CONFIG_MAP
    store_variables: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def pod_namespace(self) -> str:
        """Return the namespace of the pods of runs."""
        return self.namespace or self.kfp_namespace

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment variables for processes that the tests start."""
        return {"KUBECONFIG": str(self.kubeconfig_path), **self.store_variables}

    @property
    def server_options(self) -> list[str]:
        """Return the options of every command that talks to the server."""
        options = {
            "--host": self.host,
            "--namespace": self.namespace,
            "--kfp-namespace": self.kfp_namespace,
        }
        return [part for name, value in options.items() if value for part in (name, value)]


def read_settings(environment: Mapping[str, str], home: Path) -> ClusterSettings:
    """Read the settings from environment variables.

    Args:
        environment: Environment variables by name.
        home: Home folder, for .kube/config.

    Raises:
        UsageError: Lists all missing, invalid and unknown settings.
    """
    values = {
        name.removeprefix(PREFIX): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    kubeconfig_path = Path(environment.get("KUBECONFIG") or home / ".kube" / "config")
    known = {*_REQUIRED, *_OPTIONAL, *_AWS_NAMES}
    problems = [
        f"{PREFIX}{name} is not a setting of these tests." for name in sorted(set(values) - known)
    ]
    problems += [f"{PREFIX}{name} must be set." for name in _REQUIRED if not values.get(name)]
    problems += _storage_problems(values.get("STORAGE", ""))
    if not kubeconfig_path.is_file():
        problems.append(f"KUBECONFIG must name a file; there is no {kubeconfig_path}.")
    if problems:
        raise UsageError(problems)
    return ClusterSettings(
        kubeconfig_path=kubeconfig_path.absolute(),
        storage_uri=storage.normalise(values["STORAGE"]),
        image=values["IMAGE"],
        store_variables={
            variable: values[name] for name, variable in _AWS_NAMES.items() if values.get(name)
        },
        **{name.lower(): values[name] for name in _OPTIONAL if values.get(name)},
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
