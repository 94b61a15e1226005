"""Names of Kubernetes objects that repot expects in a namespace, and the variables they provide.

The pipeline's tasks and the pods of a training Job access object storage in the same way: optional
keys of one ConfigMap and two Secrets become environment variables. `manifests/` has the objects.
Further keys of the ConfigMap, and a third Secret, say which services hear about a run.
"""

import os
from pathlib import Path

from repot.errors import is_task_pod

RUNNER_ACCOUNT = "repot-runner"
JOB_RUNNER_ACCOUNT = "repot-job-runner"
JOB_POLICIES = ("repot-job-runner-jobs", "repot-job-runner-services")
"""Admission policies, and their bindings, that limit what that account creates and deletes."""
WORKER_ACCOUNT = "repot-worker"
SETTINGS_CONFIG_MAP = "repot-settings"
S3_SECRET = "repot-s3"
GOOGLE_SECRET = "repot-google-key"
INTEGRATIONS_SECRET = "repot-integrations"
RUN_LABEL = "pipeline/runid"
"""Label that KFP gives to the pods of a run: the run's id."""

GOOGLE_ACCOUNT_KEY = "GOOGLE_SERVICE_ACCOUNT"
"""Key of the ConfigMap: the Google service account that pods act as through workload identity."""
GOOGLE_ANNOTATION = "iam.gke.io/gcp-service-account"
"""Annotation of a service account with the same value; GKE reads it."""

TASK_LABELS = {"app.kubernetes.io/part-of": "repot", "app.kubernetes.io/component": "task"}
WORKER_LABELS = {"app.kubernetes.io/part-of": "repot", "app.kubernetes.io/component": "worker"}
"""Labels of the pods of a run and of a training Job, by which the NetworkPolicies select them."""
TASK_POD_ANNOTATION = "repot/task-pod"
"""Annotation of a training Job: the pod of the Train task that created it."""

# Environment variable by key of the object.
CONFIG_MAP_VARIABLES = {
    "S3_ENDPOINT": "AWS_ENDPOINT_URL_S3",
    "S3_REGION": "AWS_REGION",
    "S3_REQUEST_PAYER": "AWS_REQUEST_PAYER",
    "GOOGLE_USER_PROJECT": "GOOGLE_CLOUD_QUOTA_PROJECT",
}
S3_SECRET_VARIABLES = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
GOOGLE_KEY_VARIABLE = "REPOT_GOOGLE_KEY"
GOOGLE_SECRET_VARIABLES = {"key.json": GOOGLE_KEY_VARIABLE}
# Of the tasks only, see repot.settings.integrations; the workers of a Job report to their task.
INTEGRATION_VARIABLES = {
    "MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME": "MLFLOW_EXPERIMENT_NAME",
} | {
    key: f"REPOT_{key}"
    for key in (
        "NOTIFY_EVENTS",
        "NOTIFY_FORMAT",
        "KFP_UI_URL",
        "KSERVE_MANIFEST",
        "KSERVE_SERVICE_ACCOUNT",
        "KSERVE_CPU",
        "KSERVE_MEMORY",
        "KSERVE_RUNTIME_VERSION",
        "MLFLOW_LOG_MODEL",
        "MODEL_REGISTRY_URL",
        "INTEGRATIONS_REQUIRED",
        "SIGNING_PUBLIC_KEY",
    )
}
INTEGRATION_SECRET_VARIABLES = {"notify_url": "REPOT_NOTIFY_URL"}
SIGNING_KEY_VARIABLE = "REPOT_SIGNING_PRIVATE_KEY"
# Of the evaluator only.
TRACKING_SECRET_VARIABLES = {
    "mlflow_username": "MLFLOW_TRACKING_USERNAME",
    "mlflow_password": "MLFLOW_TRACKING_PASSWORD",
    "mlflow_token": "MLFLOW_TRACKING_TOKEN",
    "registry_token": "REPOT_MODEL_REGISTRY_TOKEN",
    "signing_private_key": SIGNING_KEY_VARIABLE,
}
RUN_ID_VARIABLE = "REPOT_RUN_ID"
"""The id of the run that a task belongs to."""

CONFIG_MAP_KEYS = (
    *CONFIG_MAP_VARIABLES,
    *INTEGRATION_VARIABLES,
    GOOGLE_ACCOUNT_KEY,
    "GPU_QUOTA",
    "JOB_SECRETS",
    "KF_PIPELINES_ENDPOINT",
    "PIPELINE_ROOT",
    "RUN_NAMESPACE",
    "S3_DISABLE_SSL",
    "TRAINER_IMAGES",
)
"""Keys of the ConfigMap for the storage, the manifests and the schedule. Other keys are defaults of
settings, see `repot.settings`."""

_NAME_VARIABLES = {
    SETTINGS_CONFIG_MAP: "REPOT_SETTINGS_CONFIG_MAP",
    S3_SECRET: "REPOT_S3_SECRET",
    GOOGLE_SECRET: "REPOT_GOOGLE_SECRET",
}
"""Variable that has the name of an object in a run that names another one, by the usual name."""
_SOURCES = (
    ("ConfigMap", SETTINGS_CONFIG_MAP, {**CONFIG_MAP_VARIABLES, **INTEGRATION_VARIABLES}),
    ("Secret", S3_SECRET, S3_SECRET_VARIABLES),
    ("Secret", GOOGLE_SECRET, GOOGLE_SECRET_VARIABLES),
    (
        "Secret",
        INTEGRATIONS_SECRET,
        {**INTEGRATION_SECRET_VARIABLES, **TRACKING_SECRET_VARIABLES},
    ),
)
"""Kind and usual name of each object, and the variable of each of its keys."""
_NAMESPACE_PATH = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def name_variables(*, config_map: str, s3_secret: str, google_secret: str) -> dict[str, str]:
    """Return the variables that tell a pod the names of its run's objects, for `name_sources`.

    Only for names other than the usual ones.

    Args:
        config_map: Name of the ConfigMap for the storage.
        s3_secret: Name of the Secret with the S3 store's keys.
        google_secret: Name of the Secret with a Google service account's key.
    """
    names = zip(_NAME_VARIABLES.items(), (config_map, s3_secret, google_secret), strict=True)
    return {variable: name for (usual_name, variable), name in names if name != usual_name}


def name_sources(*variables: str) -> str:
    """Return where a user sets environment variables, for a message.

    On a machine these are the variables themselves. In a pod of a run, they are keys of an object,
    e.g. "the key S3_ENDPOINT of the ConfigMap repot-settings in the namespace kubeflow".

    Args:
        variables: Names of variables that come from the same object.
    """
    if is_task_pod():
        for kind, usual_name, variable_by_key in _SOURCES:
            keys = [key for key, variable in variable_by_key.items() if variable in variables]
            if keys:
                noun = "key" if len(keys) == 1 else "keys"
                name = os.environ.get(_NAME_VARIABLES.get(usual_name, ""), usual_name)
                return f"the {noun} {' and '.join(keys)} of the {kind} {name} in {_namespace()}"
    return " and ".join(variables)


def _namespace() -> str:
    try:
        return f"the namespace {_NAMESPACE_PATH.read_text(encoding='utf-8').strip()}"
    except OSError:  # the pod has no token of its service account
        return "the run's namespace"
