"""Every overlay builds valid objects that are consistent with the pipeline and the README."""

import functools
import ipaddress
import re
import subprocess
import sys
import sysconfig
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from repot import __version__, storage
from repot.cluster_names import (
    CONFIG_MAP_VARIABLES,
    GOOGLE_SECRET,
    GOOGLE_SECRET_VARIABLES,
    INTEGRATIONS_SECRET,
    S3_SECRET,
    S3_SECRET_VARIABLES,
    TASK_LABELS,
    WORKER_LABELS,
)
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE
from repot.errors import UsageError
from repot.kubernetes_rules import KubernetesObject
from repot.settings import CLUSTER_KEYS, cluster_default_problems
from repot.trainer.job.spec import WORKER_PORT
from repot_pipelines.commands.prune import prune_command
from repot_pipelines.commands.submit import submit_command
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.parameters import with_defaults
from tests.pod_security import restricted_violations

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(folder.name for folder in (MANIFESTS / "overlays").iterdir())
KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))
SCHEDULED = [overlay for overlay in OVERLAYS if overlay.endswith("-scheduled")]
WITH_S3 = [overlay for overlay in OVERLAYS if not overlay.startswith("gke")]
FOLDERS = ["argo-requeue", "argo-retry", "prune", *(f"overlays/{overlay}" for overlay in OVERLAYS)]
NEWEST_KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
# `make oldest-kubectl` downloads the oldest version that the docs name.
OLDEST_KUBECTL = Path(sys.prefix) / "oldest-kubectl" / "kubectl" / "kubectl"
OLDEST_KUSTOMIZE = "5.0.1"
OLDEST_VERSIONS = f"kubectl 1.27 or kustomize {OLDEST_KUSTOMIZE}"
# The fields of a kustomization that exist in that version. Newer versions have more, and older ones
# ignore some of them without an error.
KUSTOMIZATION_FIELDS = {
    "apiVersion": str,
    "kind": str,
    "namespace": str,
    "resources": list,
    "components": list,
    "labels": [{"includeTemplates": bool, "pairs": dict}],
    "replacements": [
        {
            "source": {"kind": str, "name": str, "fieldPath": str},
            "targets": [
                {
                    "select": {"kind": str, "name": str},
                    "fieldPaths": list,
                    "options": {"create": bool, "delimiter": str, "index": int},
                }
            ],
        }
    ],
}
KUBERNETES_VERSIONS = ["1.27", "1.29", "1.31", "1.33", "1.35", "1.36"]
WITHOUT_NAMESPACE = {"PriorityClass"}
# These have none either. kustomize does not know them and sets one, which the API server removes.
POLICIES = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
LABELS = {"name", "instance", "version", "component", "part-of", "managed-by"}


@functools.cache
def built(folder: str, kubectl: Path = NEWEST_KUBECTL) -> list[KubernetesObject]:
    command = [str(kubectl), "kustomize", str(MANIFESTS / folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(text))


def objects(overlay: str, kind: str) -> dict[str, KubernetesObject]:
    return {
        found["metadata"]["name"]: found
        for found in built(f"overlays/{overlay}")
        if found["kind"] == kind
    }


def permissions(overlay: str, role: str) -> set[tuple[str, str, str]]:
    rules = objects(overlay, "Role")[role]["rules"]
    return {
        ("/".join(filter(None, [group, resource])), verb, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def account_permissions(overlay: str, account: str) -> set[tuple[str, str, str]]:
    bindings = objects(overlay, "RoleBinding").values()
    return {
        permission
        for binding in bindings
        if account in {subject["name"] for subject in binding["subjects"]}
        for permission in permissions(overlay, binding["roleRef"]["name"])
    }


def settings(overlay: str) -> dict[str, str]:
    maps = objects(overlay, "ConfigMap")
    schedule: KubernetesObject = maps.get("repot-schedule", {"data": {}})
    return {**maps["repot-settings"]["data"], **schedule["data"]}


def defaults() -> dict[str, Any]:
    return dict(with_defaults({}, read_pipeline(find_compiled())))


def s3_secret() -> str:
    """Return the default name of the Secret with the store's keys."""
    return str(defaults()["s3_secret_name"])


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        # A variable read from a ConfigMap may have the name of its setting.
        for inner in value.values() if "valueFrom" not in value else ():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def unknown_fields(value: Any, known: Any, path: str = "") -> Iterator[str]:
    """Return the path of every field that is not known, or is of another type."""
    if isinstance(known, dict):
        for name, inner in value.items():
            if name in known:
                yield from unknown_fields(inner, known[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}"
    elif isinstance(known, list):
        for inner in value:
            yield from unknown_fields(inner, known[0], path)
    elif not isinstance(value, known):
        yield path


def submit_container(overlay: str) -> tuple[KubernetesObject, KubernetesObject]:
    (cron_job,) = objects(overlay, "CronJob").values()
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def submit_command_line(overlay: str, folder: Path) -> list[str]:
    """Return the command of the CronJob's container; its mounted files are written to `folder`."""
    pod, container = submit_container(overlay)
    (source,) = container["envFrom"]
    config = objects(overlay, "ConfigMap")
    sources = {
        found["name"]: found["valueFrom"]["configMapKeyRef"]
        for found in container["env"]
        if "valueFrom" in found
    }
    variables = dict(config[source["configMapRef"]["name"]]["data"])
    variables |= {
        name: config[source["name"]]["data"][source["key"]] for name, source in sources.items()
    }
    (volume,) = [volume for volume in pod["volumes"] if "configMap" in volume]
    (mount,) = [
        mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume["name"]
    ]
    for item in volume["configMap"]["items"]:
        (folder / item["path"]).write_text(config[volume["configMap"]["name"]]["data"][item["key"]])
    return [
        re.sub(r"\$\((\w+)\)", lambda name: variables[name.group(1)], argument).replace(
            mount, str(folder)
        )
        for argument in container["command"]
    ]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("folder", [name for name in FOLDERS if name != "argo-requeue"])
def test_every_object_is_valid_for_kubernetes(folder: str, version: str) -> None:
    for found in built(folder):
        # The component job-policy needs this version, and is left out on older clusters.
        if found["kind"] not in POLICIES or version >= "1.30":
            assert kubernetes_validate.validate(found, version, strict=True) == version


@pytest.mark.skipif(not OLDEST_KUBECTL.exists(), reason="run `make oldest-kubectl` first")
@pytest.mark.parametrize("folder", FOLDERS)
def test_oldest_supported_kustomize_builds_the_same_objects(folder: str) -> None:
    version = subprocess.run(
        [OLDEST_KUBECTL, "version", "--client", "--output=json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.findall(r'"kustomizeVersion": "v(.*)"', version) == [OLDEST_KUSTOMIZE]

    assert built(folder, OLDEST_KUBECTL) == built(folder)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_kustomizations_use_only_what_the_oldest_supported_version_has(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text("utf-8"))

    assert list(unknown_fields(kustomization, KUSTOMIZATION_FIELDS)) == []
    # Before 5.8, a regular expression is taken literally: it selects nothing, without an error.
    for replacement in kustomization.get("replacements", []):
        selects = [target["select"] for target in replacement["targets"]]
        for name in [text for each in (replacement["source"], *selects) for text in each.values()]:
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", name), name


@pytest.mark.parametrize(
    "kustomization",
    [
        {"patches": []},
        {"labels": [{"pairs": {}, "includeSelectors": True}]},
        {"replacements": [{"sourceValue": "x", "targets": []}]},
        {"replacements": [{"targets": [{"reject": []}]}]},
        {"replacements": [{"targets": [{"select": {"kind": ["Job"], "name": "x"}}]}]},
    ],
    ids=str,
)
def test_other_kustomization_fields_are_found(kustomization: KubernetesObject) -> None:
    assert list(unknown_fields(kustomization, KUSTOMIZATION_FIELDS)) != []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_replacement_finds_its_objects(overlay: str) -> None:
    components = [
        ROOT / "manifests" / "overlays" / each / component
        for each in (overlay, overlay.removesuffix("-scheduled"))
        for component in yaml.safe_load(
            (MANIFESTS / "overlays" / each / "kustomization.yaml").read_text("utf-8")
        )["components"]
    ]
    for component in components:
        text = (component / "kustomization.yaml").read_text("utf-8")
        for replacement in yaml.safe_load(text).get("replacements", []):
            for select in (each["select"] for each in replacement["targets"]):
                assert select["name"] in objects(overlay, select["kind"])


def test_documentation_names_the_oldest_kubectl() -> None:
    for page in ("manifests/README.md", "docs/gke.md", "docs/cluster.md"):
        assert OLDEST_VERSIONS in " ".join((ROOT / page).read_text("utf-8").split()), page


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_has_the_recommended_labels(overlay: str) -> None:
    for found in built(f"overlays/{overlay}"):
        labels = found["metadata"]["labels"]
        assert {f"app.kubernetes.io/{label}" for label in LABELS} == set(labels), found["metadata"][
            "name"
        ]
        assert labels["app.kubernetes.io/version"] == __version__


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_in_one_namespace(overlay: str) -> None:
    for found in built(f"overlays/{overlay}"):
        expected = None if found["kind"] in WITHOUT_NAMESPACE else "kubeflow"
        assert found["metadata"].get("namespace") == expected
        assert {subject["namespace"] for subject in found.get("subjects", [])} <= {"kubeflow"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_role_bindings_refer_to_objects_of_the_overlay(overlay: str) -> None:
    for binding in objects(overlay, "RoleBinding").values():
        assert binding["roleRef"]["name"] in objects(overlay, "Role")
        assert {subject["name"] for subject in binding["subjects"]} <= set(
            objects(overlay, "ServiceAccount")
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_permissions_contain_no_wildcard(overlay: str) -> None:
    for role in objects(overlay, "Role"):
        assert "*" not in "".join(map("".join, permissions(overlay, role)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_runners_have_exactly_the_permissions_that_they_need(overlay: str) -> None:
    for_kfp_and_argo = {
        ("configmaps", "get", "kfp-launcher"),
        ("argoproj.io/workflowtaskresults", "create", ""),
        ("argoproj.io/workflowtaskresults", "patch", ""),
        *(("pods", verb, "") for verb in ("get", "list", "watch")),
    }
    for_the_job = {
        ("pods/log", "get", ""),
        ("events", "list", ""),
        *(("services", verb, "") for verb in ("create", "get", "delete")),
        *(("batch/jobs", verb, "") for verb in ("create", "get", "list", "watch", "delete")),
    }
    for_the_store = {("secrets", "get", s3_secret())} if overlay in WITH_S3 else set()

    assert account_permissions(overlay, "repot-runner") == for_kfp_and_argo | for_the_store
    assert account_permissions(overlay, "repot-job-runner") == (
        for_kfp_and_argo | for_the_job | for_the_store
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_worker_has_no_permissions_and_no_token(overlay: str) -> None:
    bound = {
        subject["name"]
        for binding in objects(overlay, "RoleBinding").values()
        for subject in binding["subjects"]
    }

    assert "repot-worker" not in bound
    assert (
        objects(overlay, "ServiceAccount")["repot-worker"]["automountServiceAccountToken"] is False
    )


def is_in(peer: dict[str, str], cidr: str) -> bool:
    return "ip" in peer and ipaddress.ip_address(peer["ip"]) in ipaddress.ip_network(cidr)


def allows(rules: list[KubernetesObject], side: str, peer: dict[str, str], port: int) -> bool:
    """Return whether a NetworkPolicy's rules allow TCP between its pods and a peer.

    Args:
        rules: The rules.
        side: "from" or "to".
        peer: Labels of a pod in the same namespace; "namespace" for that of a namespace; or "ip".
        port: Port of the pod that is connected to.
    """

    def selects(each: KubernetesObject) -> bool:
        if "ipBlock" in each:
            block = each["ipBlock"]
            return is_in(peer, block["cidr"]) and not any(
                is_in(peer, cidr) for cidr in block.get("except", ())
            )
        if "namespaceSelector" in each:
            if not each["namespaceSelector"]:
                return "namespace" in peer
            expected = {"kubernetes.io/metadata.name": peer.get("namespace")}
            return bool(each["namespaceSelector"]["matchLabels"] == expected)
        return bool(each["podSelector"]["matchLabels"].items() <= peer.items())

    return any(
        (side not in rule or any(map(selects, rule[side])))
        and ("ports" not in rule or {"protocol": "TCP", "port": port} in rule["ports"])
        for rule in rules
    )


OTHER_POD = {"app.kubernetes.io/part-of": "repot", "app.kubernetes.io/component": "schedule"}
KFP = {"namespace": "kubeflow"}
INTERNET = {"ip": "192.0.2.1"}
OTHER_NAMESPACE = {"namespace": "mlflow"}
METADATA_SERVERS = [
    *("169.254.169.254", "fd00:ec2::254"),  # Amazon; Google and Azure share the first
    *("169.254.170.2", "168.63.129.16"),  # tasks of Amazon, agents of Azure
]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_workers_reach_workers(overlay: str) -> None:
    policy = objects(overlay, "NetworkPolicy")["repot-worker-ingress"]["spec"]
    ingress = policy["ingress"]

    assert policy["podSelector"] == {"matchLabels": WORKER_LABELS}
    assert policy["policyTypes"] == ["Ingress"]
    assert allows(ingress, "from", WORKER_LABELS, WORKER_PORT)
    for peer in (TASK_LABELS, OTHER_POD, KFP, INTERNET, {}):
        assert not allows(ingress, "from", peer, WORKER_PORT)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_reach_only_workers_and_storage(overlay: str) -> None:
    policy = objects(overlay, "NetworkPolicy")["repot-worker-egress"]["spec"]
    egress = policy["egress"]

    assert policy["podSelector"] == {"matchLabels": WORKER_LABELS}
    assert policy["policyTypes"] == ["Egress"]
    assert allows(egress, "to", WORKER_LABELS, WORKER_PORT)
    assert allows(egress, "to", INTERNET, 443)
    for peer, port in [(INTERNET, 80), (INTERNET, 6443), (KFP, 8887), (TASK_LABELS, WORKER_PORT)]:
        assert not allows(egress, "to", peer, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_tasks_reach_storage_kfp_and_the_kubernetes_api(overlay: str) -> None:
    policy = objects(overlay, "NetworkPolicy")["repot-task"]["spec"]
    egress = policy["egress"]

    assert policy["podSelector"] == {"matchLabels": TASK_LABELS}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    allowed = [(INTERNET, 443), (INTERNET, 80), (INTERNET, 6443), (KFP, 8887), (KFP, 8333)]
    for peer, port in [*allowed, (OTHER_NAMESPACE, 80), ({"ip": "2001:db8::1"}, 80)]:
        assert allows(egress, "to", peer, port)
    for peer, port in [(INTERNET, 22), (INTERNET, 5432), (WORKER_LABELS, WORKER_PORT)]:
        assert not allows(egress, "to", peer, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_no_metadata_server_but_that_of_gke(overlay: str) -> None:
    policies = objects(overlay, "NetworkPolicy")
    gke = policies.pop("repot-gke-metadata", None)

    for name, policy in policies.items():
        egress = policy["spec"].get("egress", [])
        for address in METADATA_SERVERS:
            for port in (80, 988):
                assert not allows(egress, "to", {"ip": address}, port), (name, address)
    assert (gke is not None) == overlay.startswith("gke")
    if gke is not None:
        selector = gke["spec"]["podSelector"]
        (component,) = selector["matchExpressions"]
        for labels in (WORKER_LABELS, TASK_LABELS):
            assert selector["matchLabels"].items() <= labels.items()
            assert labels[component["key"]] in component["values"]
        assert OTHER_POD[component["key"]] not in component["values"]
        assert allows(gke["spec"]["egress"], "to", {"ip": "169.254.169.252"}, 988)
        assert allows(gke["spec"]["egress"], "to", {"ip": "169.254.169.254"}, 80)
        assert not allows(gke["spec"]["egress"], "to", INTERNET, 80)


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_submitter_may_only_submit_and_list(overlay: str) -> None:
    verbs = {verb for _, verb, _ in account_permissions(overlay, "repot-submitter")}

    assert verbs == {"create", "get", "list"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_policies_allow_the_store_of_the_settings(overlay: str) -> None:
    endpoint = urllib.parse.urlsplit(settings(overlay).get("S3_ENDPOINT", "https://s3"))
    port = endpoint.port or {"http": 80, "https": 443}[endpoint.scheme]

    for policy in ("repot-worker-egress", "repot-task"):
        egress = objects(overlay, "NetworkPolicy")[policy]["spec"]["egress"]
        assert allows(egress, "to", INTERNET, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_contain_no_secret_values(overlay: str) -> None:
    # The keys of the store on a local cluster are published by KFP itself.
    published = {"accesskey": "minio", "secretkey": "minio123"} if overlay == "kind" else None
    assert [found["stringData"] for found in objects(overlay, "Secret").values()] == (
        [published] if published else []
    )
    assert not [name for name in settings(overlay) if re.search("PASSWORD|TOKEN|KEY", name)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_placeholder_is_replaced_by_its_setting(overlay: str) -> None:
    names = settings(overlay).keys()
    assert "STORAGE_URI" in names
    remaining = [
        text
        for found in built(f"overlays/{overlay}")
        # A policy reads its setting from the ConfigMap.
        if found["kind"] not in POLICIES
        for text in texts(found)
        for word in re.findall(r"[A-Z][A-Z0-9_]+", re.sub(r"\$\(\w+\)", "", text))
        if word in names
    ]

    assert remaining == []


@pytest.mark.parametrize("overlay", WITH_S3)
def test_kfp_launcher_uses_the_s3_store_of_the_settings(overlay: str) -> None:
    launcher = objects(overlay, "ConfigMap")["kfp-launcher"]["data"]
    expected = settings(overlay)

    assert launcher["defaultPipelineRoot"] == expected["PIPELINE_ROOT"]
    assert yaml.safe_load(launcher["providers"])["s3"]["default"] == {
        "endpoint": expected["S3_ENDPOINT"],
        "region": expected["S3_REGION"],
        "disableSSL": expected["S3_ENDPOINT"].startswith("http:"),
        "forcePathStyle": True,
        "credentials": {
            "fromEnv": False,
            "secretRef": {
                "secretName": s3_secret(),
                "accessKeyKey": "accesskey",
                "secretKeyKey": "secretkey",
            },
        },
    }
    assert permissions(overlay, "repot-store-credentials") == {("secrets", "get", s3_secret())}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_have_every_default_of_runs_and_are_valid(overlay: str) -> None:
    data = objects(overlay, "ConfigMap")["repot-settings"]["data"]

    assert set(CLUSTER_KEYS) <= set(data)
    assert cluster_default_problems(data, "repot-settings") == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_default_parameters_name_existing_config_maps_and_secrets(overlay: str) -> None:
    assert defaults()["settings_config_map"] in objects(overlay, "ConfigMap")
    assert {"S3_ENDPOINT", "S3_REGION"} <= set(settings(overlay)) or overlay not in WITH_S3
    secrets = set(objects(overlay, "Secret"))
    assert secrets == ({s3_secret()} if overlay == "kind" else set())
    for page in ("manifests/README.md", "docs/cluster.md"):
        text = (ROOT / page).read_text("utf-8")
        assert set(re.findall(r"kubectl create secret generic (\S+) .*store-keys", text)) == {
            s3_secret()
        }, page


@pytest.mark.parametrize("overlay", ["gke", "gke-scheduled"])
def test_gke_accesses_storage_without_a_secret(overlay: str) -> None:
    launcher = objects(overlay, "ConfigMap")["kfp-launcher"]["data"]
    expected = settings(overlay)

    assert launcher["defaultPipelineRoot"] == expected["PIPELINE_ROOT"]
    assert yaml.safe_load(launcher["providers"]) == {
        "gs": {"default": {"credentials": {"fromEnv": True}}}
    }
    for account in ("repot-runner", "repot-job-runner", "repot-worker"):
        annotations = objects(overlay, "ServiceAccount")[account]["metadata"]["annotations"]
        assert annotations == {"iam.gke.io/gcp-service-account": expected["GOOGLE_SERVICE_ACCOUNT"]}


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "kind"])
def test_quota_limits_only_gpus(overlay: str) -> None:
    (quota,) = objects(overlay, "ResourceQuota").values()

    assert quota["spec"] == {"hard": {"requests.nvidia.com/gpu": settings(overlay)["GPU_QUOTA"]}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_priority_is_low_but_high_enough_for_the_autoscaler(overlay: str) -> None:
    (priority,) = objects(overlay, "PriorityClass").values()

    assert -10 <= priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_cron_job_command_is_accepted_by_repot(overlay: str, tmp_path: Path) -> None:
    program, name, *arguments = submit_command_line(overlay, tmp_path)
    assert (program, name) == ("repot", "submit")
    try:
        storage.normalise(settings(overlay)["STORAGE_URI"])
    except UsageError:
        pytest.skip("this version of repot does not know the overlay's storage")

    result = CliRunner().invoke(
        submit_command, [*arguments, "--dry-run"], catch_exceptions=False, standalone_mode=False
    )

    parameters = yaml.safe_load((tmp_path / "parameters.yaml").read_text("utf-8"))
    assert parameters["pictures_uri"] in result.output
    assert settings(overlay)["STORAGE_URI"] in result.output
    for name in ("CPU_IMAGE", "TRAINER_IMAGE"):
        assert f"{name.lower()}={settings(overlay)[name]}" in result.output
    assert parameters.keys() >= {
        "model_name",
        "accelerator_count",
        "trainer_node_selector",
        "trainer_tolerations",
    }


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_cron_job_runs_as_submitter_and_starts_the_run_as_runner(overlay: str) -> None:
    pod, container = submit_container(overlay)

    assert "--service-account=$(RUN_ACCOUNT)" in container["command"]
    assert settings(overlay)["RUN_ACCOUNT"] == "repot-runner"
    assert (
        settings(overlay).items()
        >= {"CPU_IMAGE": CPU_IMAGE, "TRAINER_IMAGE": TRAINER_IMAGE}.items()
    )
    assert pod["serviceAccountName"] == "repot-submitter"
    assert {"repot-runner", "repot-submitter"} <= objects(overlay, "ServiceAccount").keys()
    assert container["image"] == settings(overlay)["CPU_IMAGE"]


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_cron_job_meets_the_pod_security_standard_restricted(overlay: str) -> None:
    pod, _ = submit_container(overlay)

    assert restricted_violations(pod) == []


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_cron_job_mounts_a_token_for_kfp(overlay: str) -> None:
    pod, container = submit_container(overlay)
    (token,) = [volume for volume in pod["volumes"] if "projected" in volume]
    (source,) = token["projected"]["sources"]
    (folder,) = [
        mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == token["name"]
    ]
    (variable,) = [found for found in container["env"] if "value" in found]

    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    assert variable["name"] == "KF_PIPELINES_SA_TOKEN_PATH"
    assert variable["value"] == f"{folder}/{source['serviceAccountToken']['path']}"


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_cron_job_follows_the_schedule_without_catching_up(overlay: str) -> None:
    (cron_job,) = objects(overlay, "CronJob").values()

    assert cron_job["spec"]["schedule"] == settings(overlay)["SCHEDULE"]
    assert len(settings(overlay)["SCHEDULE"].split()) == 5
    assert cron_job["spec"]["timeZone"] == settings(overlay)["TIME_ZONE"]
    assert cron_job["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron_job["spec"]["startingDeadlineSeconds"] == 3600


@pytest.mark.parametrize("overlay", SCHEDULED)
def test_scheduled_overlay_contains_its_base_overlay(overlay: str) -> None:
    base = built(f"overlays/{overlay.removesuffix('-scheduled')}")

    assert [found for found in base if found not in built(f"overlays/{overlay}")] == []


def prune_objects() -> dict[str, KubernetesObject]:
    return {found["kind"]: found for found in built("prune")}


def test_prune_command_is_accepted_by_repot_with_the_settings() -> None:
    found, values = prune_objects(), prune_objects()["ConfigMap"]["data"]
    pod = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    storage_uri = settings("plain")["STORAGE_URI"]
    command = [
        re.sub(
            r"\$\((\w+)\)", lambda name: {**values, "STORAGE_URI": storage_uri}[name[1]], argument
        )
        for argument in container["command"]
    ]
    given = prune_command.make_context("prune", command[2:]).params

    assert command[:2] == ["repot", "prune"]
    assert given == {
        "storage_uri": storage_uri,
        "older_than_seconds": 30 * 86_400.0,
        "keep_versions": 3,
        "delete": True,
        "as_json": False,
    }
    defaults = prune_command.make_context("prune", []).params
    assert {name: given[name] for name in ("older_than_seconds", "keep_versions")} == {
        name: defaults[name] for name in ("older_than_seconds", "keep_versions")
    }
    assert container["image"] == values["CPU_IMAGE"] == CPU_IMAGE
    assert found["CronJob"]["spec"]["schedule"] == values["SCHEDULE"]
    assert found["CronJob"]["spec"]["timeZone"] == values["TIME_ZONE"]


def test_pruner_has_the_storage_access_of_a_task_and_nothing_else() -> None:
    found = prune_objects()
    pod = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {
        source[next(iter(source))]["key"]: (each["name"], source[next(iter(source))]["name"])
        for each in container["env"]
        for source in [each["valueFrom"]]
    }

    assert set(found) == {"ServiceAccount", "ConfigMap", "CronJob"}
    assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert restricted_violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    for object_name, keys in (
        ("repot-settings", CONFIG_MAP_VARIABLES),
        (S3_SECRET, S3_SECRET_VARIABLES),
        (GOOGLE_SECRET, GOOGLE_SECRET_VARIABLES),
    ):
        for key, variable in keys.items():
            assert variables.pop(key) == (variable, object_name)
    assert variables.keys() == {"STORAGE_URI", "OLDER_THAN", "KEEP_VERSIONS"}


def test_argo_retries_lost_pods_but_not_failed_programs() -> None:
    (config,) = built("argo-retry")
    assert config["data"].keys() == {"workflowDefaults"}
    retry = yaml.safe_load(config["data"]["workflowDefaults"])["spec"]["templateDefaults"][
        "retryStrategy"
    ]
    expression = re.fullmatch(r"lastRetry\.message matches '(.*)'", retry["expression"])
    assert expression is not None
    pattern = expression.group(1)

    lost = [
        "pod deleted",
        "Pod was terminated in response to imminent node shutdown.",
        "Pod Node is in progress of shutting down, not admitting any new pods",
        "Preempted in order to admit critical pod",
        "The node was low on resource: memory.",
        "Pod The node had condition: [DiskPressure]. Evicted",
    ]
    assert [message for message in lost if not re.search(pattern, message)] == []
    failed = ["Error (exit code 1)", "OOMKilled (exit code 137)", "child 'run-1' failed", ""]
    assert [message for message in failed if re.search(pattern, message)] == []
    assert retry["retryPolicy"] == "Always"
    assert int(retry["limit"]) == 3


STOCK_CONTROLLER = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: workflow-controller
  namespace: kubeflow
spec:
  selector:
    matchLabels: {app: workflow-controller}
  template:
    metadata:
      labels: {app: workflow-controller}
    spec:
      containers:
        - name: workflow-controller
          image: quay.io/argoproj/workflow-controller:v4.0.8
          args: [--configmap, workflow-controller-configmap]
          env:
            - name: LEADER_ELECTION_IDENTITY
              valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
"""
"""Shortened from manifests/kustomize/third-party/argo of KFP 2.17."""


def test_argo_requeue_adds_one_variable_to_the_controller_of_kfp(tmp_path: Path) -> None:
    (patch,) = built("argo-requeue")
    # A strategic merge, like a server-side apply, merges containers and variables by name.
    (tmp_path / "controller.yaml").write_text(STOCK_CONTROLLER)
    (tmp_path / "patch.yaml").write_text(yaml.safe_dump(patch))
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [controller.yaml]\npatches: [{path: patch.yaml}]\n"
    )

    (deployment,) = built(str(tmp_path))

    expected = yaml.safe_load(STOCK_CONTROLLER)
    variables = expected["spec"]["template"]["spec"]["containers"][0]["env"]
    found = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "DEFAULT_REQUEUE_TIME", "value": "1s"} in found
    found.remove({"name": "DEFAULT_REQUEUE_TIME", "value": "1s"})
    assert found == variables
    assert deployment == expected
    for version in KUBERNETES_VERSIONS:
        assert kubernetes_validate.validate(deployment, version, strict=True) == version


def test_readme_describes_every_folder_and_setting() -> None:
    readme = (MANIFESTS / "README.md").read_text("utf-8")
    names = {name for overlay in OVERLAYS for name in settings(overlay)}
    names |= prune_objects()["ConfigMap"]["data"].keys()

    assert {f"overlays/{overlay}" for overlay in OVERLAYS} <= set(
        re.findall(r"(?m)^\| `([^`]+)`", readme)
    )
    table = "\n".join(line for line in readme.splitlines() if line.startswith("|"))
    assert [name for name in names if f"`{name}`" not in table] == []
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", readme)) <= names


def test_readme_names_only_existing_paths_and_objects() -> None:
    readme = (MANIFESTS / "README.md").read_text("utf-8")
    existing = {
        found["metadata"]["name"] for overlay in OVERLAYS for found in built(f"overlays/{overlay}")
    }

    paths = set(re.findall(r"\bmanifests/[\w/-]+", readme)) | set(
        re.findall(r"`(overlays/[\w/.-]+)`", readme)
    )
    assert [
        path for path in paths if not (MANIFESTS / path.removeprefix("manifests/")).exists()
    ] == []
    accounts = re.findall(r"\*\*\w+ `(repot-[\w-]+|kfp-launcher)`", readme)
    assert len(accounts) == 16
    # The README says that this Secret is never created by an overlay.
    assert set(accounts) <= existing | {INTEGRATIONS_SECRET}
