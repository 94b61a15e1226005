"""The admission policies accept what repot creates for a training Job, and nothing else.

The expressions run in CEL's own implementation. Kubernetes uses the one in Go, with the same
language and the same string functions.
"""

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

from repot.cluster_names import GOOGLE_SECRET, S3_SECRET, SETTINGS_CONFIG_MAP
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE
from repot.kubernetes_rules import KubernetesObject
from repot.settings import JobSettings, TrainingSettings
from repot.trainer.job.run_job import _FORWARDED_VARIABLES
from repot.trainer.job.spec import make_job, make_service
from repot.trainer.request import TrainingRequest
from tests.integration.test_manifests import OVERLAYS, objects

cel = pytest.importorskip("cel_expr_python.cel", reason="pip install cel-expr-python")

REQUEST = TrainingRequest(
    dataset_uri="gs://b/datasets/d",
    weights_uri="gs://b/checkpoints/c",
    run_uri="gs://b/runs/x",
    training_id="0123456789abcdef",
    checkpoint_id="c",
    settings=TrainingSettings(),
)
ENVIRONMENT = dict.fromkeys(_FORWARDED_VARIABLES, "http://store")
JOB_RUNNER = "system:serviceaccount:kubeflow:repot-job-runner"
OVERLAY = "kind"
Change = Callable[[Any], object]


@functools.cache
def _compile(expression: str) -> Any:
    from cel_expr_python.ext import ext_strings

    names = ("object", "oldObject", "request", "params", "variables")
    environment = cel.NewEnv(
        variables=dict.fromkeys(names, cel.Type.DYN), extensions=[ext_strings.ExtStrings()]
    )
    return environment.compile(expression)


class Admission:
    """A request to the API, decided by one policy as Kubernetes decides it."""

    def __init__(self, policy: str, **data: Any) -> None:
        self._spec = objects(OVERLAY, "ValidatingAdmissionPolicy")[policy]["spec"]
        self._expressions = {each["name"]: each["expression"] for each in self._spec["variables"]}
        self._data = {"object": None, "oldObject": None, "params": None, **data}
        self._variables: dict[str, Any] = {}

    def is_concerned(self) -> bool:
        return all(self._evaluate(each["expression"]) for each in self._spec["matchConditions"])

    def refusals(self) -> list[str]:
        """Return the message of each validation that fails; an error fails, too."""
        return [
            self._message(each)
            for each in self._spec["validations"]
            if self._evaluate(each["expression"]) is not True
        ]

    def _message(self, validation: dict[str, str]) -> str:
        expression = validation.get("messageExpression")
        return str(self._evaluate(expression)) if expression else validation["message"]

    def _evaluate(self, expression: str) -> Any:
        # Kubernetes evaluates a variable when an expression needs it.
        for name in re.findall(r"\bvariables\.(\w+)", expression):
            if name not in self._variables:
                self._variables[name] = self._evaluate(self._expressions[name])
        data = {**self._data, "variables": self._variables}
        return _compile(expression).eval(data=data).plain_value()


def _admission(
    policy: str,
    created: KubernetesObject | None,
    *,
    deleted: KubernetesObject | None = None,
    user: str = JOB_RUNNER,
    images: str | None = None,
    settings: dict[str, str] | None = None,
    config_map: str = SETTINGS_CONFIG_MAP,
) -> Admission:
    params = copy.deepcopy(objects(OVERLAY, "ConfigMap")[SETTINGS_CONFIG_MAP])
    params["metadata"]["name"] = config_map
    params["data"] |= settings or {}
    if images is not None:
        params["data"]["TRAINER_IMAGES"] = images
    operation = "DELETE" if deleted else "CREATE"
    return Admission(
        policy,
        object=created,
        oldObject=deleted,
        params=params,
        request={"operation": operation, "userInfo": {"username": user}},
    )


def _refusals(policy: str, created: KubernetesObject | None, **options: Any) -> list[str]:
    return _admission(f"repot-job-runner-{policy}", created, **options).refusals()


def _job(**settings: Any) -> KubernetesObject:
    return make_job(JobSettings(**settings), REQUEST, ENVIRONMENT)


def _as_stored(job: KubernetesObject) -> KubernetesObject:
    """Return a Job with the defaults that the API server sets before it asks a policy."""
    stored = copy.deepcopy(job)
    uid = "8a1f0c1e-0000-0000-0000-000000000000"
    stored["metadata"] |= {"namespace": "kubeflow", "uid": uid, "generation": 1}
    stored["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    template = stored["spec"]["template"]
    template["metadata"]["labels"] |= {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": stored["metadata"]["name"],
        "controller-uid": uid,
        "job-name": stored["metadata"]["name"],
    }
    pod = template["spec"]
    pod |= {
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccount": pod["serviceAccountName"],
    }
    container = pod["containers"][0]
    container |= {"imagePullPolicy": "IfNotPresent"}
    container["securityContext"]["procMount"] = "Default"
    return stored


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accelerator_count": 0, "trainer_image": CPU_IMAGE},
        {"trainer_image": TRAINER_IMAGE.partition(":")[0] + "@sha256:" + 64 * "0"},
        {
            "num_workers": 4,
            "job_queue": "gpus",
            "trainer_node_selector": {"a": "b"},
            "trainer_tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
            "job_priority_class": "repot-training",
        },
    ],
)
def test_job_that_repot_creates_is_accepted(settings: dict[str, Any]) -> None:
    for job in (_job(**settings), _as_stored(_job(**settings))):
        assert _refusals("jobs", job) == []
        assert _refusals("jobs", None, deleted=job) == []


def test_service_that_repot_creates_is_accepted() -> None:
    owner = {"metadata": {"name": _job()["metadata"]["name"], "uid": "1"}}
    service = make_service(REQUEST, owner=owner)

    assert _refusals("services", service) == []
    assert _refusals("services", None, deleted=service) == []


def _set(path: str, value: Any) -> Change:
    """Return a function that sets a field: names and indexes, separated by blanks."""
    *folders, last = path.split()

    def change(found: Any) -> None:
        for name in folders:
            found = found[int(name)] if isinstance(found, list) else found.setdefault(name, {})
        if isinstance(found, list):
            found.insert(int(last), value)
        else:
            found[last] = value

    return change


POD = "spec template spec"
CONTAINER = f"{POD} containers 0"
COMMAND = ["sh", "-c", "env"]
HOSTILE_JOBS = {
    # name, kind of Job
    "other name": _set("metadata name", "repot-submit"),
    "name of another training": _set("metadata name", "repot-train-ffffffffffffffff"),
    "no labels": _set("metadata labels", {}),
    "label of another component": _set("metadata labels app.kubernetes.io/component", "schedule"),
    "pod that no NetworkPolicy selects": _set(
        "spec template metadata labels app.kubernetes.io/component", "x"
    ),
    # what runs
    "foreign image": _set(f"{CONTAINER} image", "evil.example/repot-trainer:1"),
    "similar image": _set(f"{CONTAINER} image", "ghcr.io/repot-evil/trainer:1"),
    "other command": _set(f"{CONTAINER} command", COMMAND),
    "no command": _set(f"{CONTAINER} command", []),
    "further arguments": _set(f"{CONTAINER} args", ["x"]),
    "other module": _set(f"{CONTAINER} command", ["python3", "-m", "http.server", "80"]),
    "hook": _set(f"{CONTAINER} lifecycle", {"postStart": {"exec": {"command": COMMAND}}}),
    "probe": _set(f"{CONTAINER} livenessProbe", {"exec": {"command": COMMAND}}),
    "start probe": _set(f"{CONTAINER} startupProbe", {"exec": {"command": COMMAND}}),
    "working directory": _set(f"{CONTAINER} workingDir", "/tmp"),
    "second container": _set(f"{POD} containers 1", {"name": "x", "image": TRAINER_IMAGE}),
    "init container": _set(f"{POD} initContainers", [{"name": "x", "image": TRAINER_IMAGE}]),
    # secrets and variables
    "preloaded library": _set(f"{CONTAINER} env 0", {"name": "LD_PRELOAD", "value": "/tmp/x.so"}),
    "other module path": _set(f"{CONTAINER} env 0", {"name": "PYTHONPATH", "value": "/tmp"}),
    "foreign Secret": _set(
        f"{CONTAINER} env 0",
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "mlpipeline", "key": "password"}}},
    ),
    "foreign ConfigMap": _set(
        f"{CONTAINER} env 0",
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}},
    ),
    "Secret behind a ConfigMap": _set(
        f"{CONTAINER} env 0",
        {
            "name": "X",
            "valueFrom": {
                "configMapKeyRef": {"name": "repot-settings", "key": "y"},
                "secretKeyRef": {"name": "mlpipeline", "key": "password"},
            },
        },
    ),
    "field of the pod": _set(
        f"{CONTAINER} env 0",
        {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ),
    "all of a Secret": _set(f"{CONTAINER} envFrom", [{"secretRef": {"name": "mlpipeline"}}]),
    "secret volume": _set(f"{POD} volumes 0", {"name": "x", "secret": {"secretName": "x"}}),
    "folder of the node": _set(f"{POD} volumes 0", {"name": "x", "hostPath": {"path": "/"}}),
    "token volume": _set(
        f"{POD} volumes 0",
        {"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ),
    "claim": _set(
        f"{POD} volumes 0", {"name": "x", "persistentVolumeClaim": {"claimName": "mysql"}}
    ),
    # account
    "other account": _set(f"{POD} serviceAccountName", "pipeline-runner"),
    "account by its old name": _set(f"{POD} serviceAccount", "pipeline-runner"),
    "default account": lambda job: job["spec"]["template"]["spec"].pop("serviceAccountName"),
    "token": _set(f"{POD} automountServiceAccountToken", True),
    # node
    "network of the node": _set(f"{POD} hostNetwork", True),
    "processes of the node": _set(f"{POD} hostPID", True),
    "memory of the node": _set(f"{POD} hostIPC", True),
    "port of the node": _set(f"{CONTAINER} ports", [{"containerPort": 80, "hostPort": 80}]),
    "chosen node": _set(f"{POD} nodeName", "control-plane"),
    "other runtime": _set(f"{POD} runtimeClassName", "runc-privileged"),
    "system priority": _set(f"{POD} priorityClassName", "system-node-critical"),
    # security context
    "privileged": _set(f"{CONTAINER} securityContext privileged", True),
    "more privileges": _set(f"{CONTAINER} securityContext allowPrivilegeEscalation", True),
    "capability": _set(f"{CONTAINER} securityContext capabilities add", ["SYS_ADMIN"]),
    "all capabilities": _set(f"{CONTAINER} securityContext capabilities drop", []),
    "root": _set(f"{CONTAINER} securityContext runAsUser", 0),
    "perhaps root": _set(f"{CONTAINER} securityContext runAsNonRoot", False),
    "root in the pod": _set(f"{POD} securityContext runAsUser", 0),
    "perhaps root in the pod": _set(f"{POD} securityContext runAsNonRoot", False),
    "no seccomp": _set(f"{CONTAINER} securityContext seccompProfile", {"type": "Unconfined"}),
    "no seccomp in the pod": _set(f"{POD} securityContext seccompProfile", {"type": "Unconfined"}),
    "no AppArmor": _set(f"{POD} securityContext appArmorProfile", {"type": "Unconfined"}),
    "no AppArmor by annotation": _set(
        "spec template metadata annotations container.apparmor.security.beta.kubernetes.io/trainer",
        "unconfined",
    ),
    "SELinux": _set(f"{CONTAINER} securityContext seLinuxOptions", {"type": "spc_t"}),
    "all of /proc": _set(f"{CONTAINER} securityContext procMount", "Unmasked"),
    "sysctl": _set(f"{POD} securityContext sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    "no security context": _set(f"{CONTAINER} securityContext", {}),
    "no security context in the pod": _set(f"{POD} securityContext", {}),
    "writable root": _set(f"{CONTAINER} securityContext readOnlyRootFilesystem", False),
}


@pytest.mark.parametrize("name", HOSTILE_JOBS)
def test_hostile_job_is_rejected_for_one_reason(name: str) -> None:
    job = _as_stored(_job(num_workers=2))
    HOSTILE_JOBS[name](job)

    refusals = _refusals("jobs", job)

    assert len(refusals) == 1, refusals
    assert re.search(r" (must|may only) ", refusals[0])


HOSTILE_SERVICES = {
    "other name": _set("metadata name", "ml-pipeline"),
    "no labels": _set("metadata labels", {}),
    "pods of others": _set("spec selector", {"app": "mysql"}),
    "pods of another training": _set("spec selector repot/training-id", "f"),
    "address of its own": _set("spec clusterIP", "10.0.0.1"),
    "external address": _set("spec externalIPs", ["8.8.8.8"]),
    "load balancer": _set("spec type", "LoadBalancer"),
    "external name": _set("spec type", "ExternalName"),
}


@pytest.mark.parametrize("name", HOSTILE_SERVICES)
def test_hostile_service_is_rejected(name: str) -> None:
    service = make_service(REQUEST, owner={"metadata": {"name": "x", "uid": "1"}})
    HOSTILE_SERVICES[name](service)

    assert _refusals("services", service) != []


@pytest.mark.parametrize("policy", ["jobs", "services"])
@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "repot-submit-123", "labels": {"app.kubernetes.io/component": "schedule"}},
        {"name": "repot-train-x"},
        {"name": "backup", "labels": _job()["metadata"]["labels"]},
    ],
)
def test_only_objects_of_a_training_can_be_deleted(policy: str, metadata: dict[str, Any]) -> None:
    (refusal,) = _refusals(policy, None, deleted={"metadata": metadata, "spec": {}})

    assert refusal.startswith("repot-job-runner may only create and delete")


@pytest.mark.parametrize(
    ("images", "is_accepted"),
    [
        ("registry.example/team/", True),
        ("ghcr.io/repot/  registry.example/team/trainer", True),
        ("registry.example/team/trainer:2", True),
        ("registry.example/team/train", False),
        ("registry.example/team", False),
        ("registry.example/tea", False),
        ("", False),
        ("  ", False),
    ],
)
def test_image_must_be_one_of_the_setting(images: str, is_accepted: bool) -> None:
    job = _job(trainer_image="registry.example/team/trainer:2")

    refusals = _refusals("jobs", job, images=images)

    assert (refusals == []) == is_accepted
    if not is_accepted:
        (refusal,) = refusals
        assert refusal.startswith(
            "The image registry.example/team/trainer:2 of a training Job must"
        )


def test_image_is_rejected_if_the_setting_is_missing() -> None:
    admission = _admission("repot-job-runner-jobs", _job())
    admission._data["params"] = {"metadata": {"name": SETTINGS_CONFIG_MAP}}

    assert len(admission.refusals()) == 1


@pytest.mark.parametrize(
    ("user", "is_concerned"),
    [
        (JOB_RUNNER, True),
        ("system:serviceaccount:team-a:repot-job-runner", True),
        ("system:serviceaccount:kubeflow:repot-runner", False),
        ("system:serviceaccount:kubeflow:argo", False),
        ("someone@example.com:repot-job-runner", False),
    ],
)
def test_policies_concern_the_job_runner_only(user: str, is_concerned: bool) -> None:
    for policy in ("jobs", "services"):
        admission = _admission(f"repot-job-runner-{policy}", _job(), user=user)
        assert admission.is_concerned() == is_concerned


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_enforces_the_policies(overlay: str) -> None:
    policies = objects(overlay, "ValidatingAdmissionPolicy")
    bindings = objects(overlay, "ValidatingAdmissionPolicyBinding")

    assert (
        policies.keys() == bindings.keys() == {"repot-job-runner-jobs", "repot-job-runner-services"}
    )
    for name, binding in bindings.items():
        assert binding["spec"]["policyName"] == name
        assert binding["spec"]["validationActions"] == ["Deny"]
        assert policies[name]["spec"]["failurePolicy"] == "Fail"
        has_parameters = "paramKind" in policies[name]["spec"]
        expected = {"name": SETTINGS_CONFIG_MAP, "parameterNotFoundAction": "Deny"}
        assert binding["spec"].get("paramRef") == (expected if has_parameters else None)
    operations = {
        (resource, operation)
        for policy in policies.values()
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for resource in rule["resources"]
        for operation in rule["operations"]
    }
    # All that the Role allows to change, and what an update could change.
    (role,) = [
        role for name, role in objects(overlay, "Role").items() if name == "repot-job-runner"
    ]
    assert operations == {
        (resource, operation)
        for rule in role["rules"]
        for resource in rule["resources"]
        if "create" in rule["verbs"]
        for operation in ("CREATE", "UPDATE", "DELETE")
    }
    images = objects(overlay, "ConfigMap")[SETTINGS_CONFIG_MAP]["data"]["TRAINER_IMAGES"]
    for image in (CPU_IMAGE, TRAINER_IMAGE):
        assert any(image.startswith(prefix) for prefix in images.split())


def test_policy_names_the_secrets_of_the_settings() -> None:
    text = str(objects(OVERLAY, "ValidatingAdmissionPolicy")["repot-job-runner-jobs"])
    settings = objects(OVERLAY, "ConfigMap")[SETTINGS_CONFIG_MAP]["data"]

    assert f"['{S3_SECRET}', '{GOOGLE_SECRET}']" in text.replace("\\", "")
    assert settings["JOB_SECRETS"].split() == [S3_SECRET, GOOGLE_SECRET]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ({"job_service_account": "team-worker"}, {"JOB_SERVICE_ACCOUNT": "team-worker"}),
        ({"s3_secret_name": "keys"}, {"JOB_SECRETS": "other keys repot-google-key"}),
    ],
)
def test_renamed_objects_are_named_in_the_settings(
    names: dict[str, str], keys: dict[str, str]
) -> None:
    job = _job(**names)

    (refusal,) = _refusals("jobs", job)
    (name,) = set(keys) & {"JOB_SERVICE_ACCOUNT", "JOB_SECRETS"}
    assert f"{name} of" in refusal
    assert _refusals("jobs", job, settings=keys) == []


def test_policy_follows_a_renamed_config_map() -> None:
    job = _job(settings_config_map="team-settings")

    assert len(_refusals("jobs", job)) == 1
    assert _refusals("jobs", job, config_map="team-settings") == []
