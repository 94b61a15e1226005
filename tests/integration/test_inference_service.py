"""The InferenceService of a version: its manifest, and the folder that TensorFlow Serving loads."""

import contextlib
import copy
import dataclasses
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from repot import storage
from repot.errors import ModelError, UsageError
from repot.evaluator.after_verdict import report_outcome
from repot.evaluator.inference_service import service_name, write_inference_service
from repot.evaluator.verdict import Score, Verdict
from repot.settings.integrations import IntegrationSettings
from repot_pipelines.commands.serve_manifest import serve_manifest_command
from tests.unit.evaluator.samples import make_model_record

VERSION = "0123456789abcdef"
RECORD = make_model_record("My_Flowers.v2", VERSION, dataset_id="fedcba9876543210")
FILES = ("saved_model.pb", "variables/variables.index")


def publish(storage_uri: str) -> str:
    """Publish a version without a model, and return its folder."""
    uri = storage.join(storage_uri, "models", RECORD.name, VERSION)
    for name in FILES:
        storage.write_text(f"{uri}/saved_model/{name}", name)
    storage.write_text(f"{uri}/model.keras", "")
    storage.write_text(f"{uri}/labels.txt", "cat\ndog\n")
    storage.write_json(f"{uri}/model.json", RECORD.to_json())
    return uri


@pytest.fixture
def version_uri(s3: str) -> str:
    return publish(f"{s3}/repot")


def test_manifest_and_folder_of_a_version(version_uri: str) -> None:
    settings = IntegrationSettings(
        kserve_service_account="models", kserve_memory="4Gi", kserve_runtime_version="2.20.0-gpu"
    )

    text = write_inference_service(version_uri, settings, namespace="research")

    resources = {"cpu": "1", "memory": "4Gi"}
    assert yaml.safe_load(text) == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "my-flowers-v2",
            "namespace": "research",
            "labels": {"app.kubernetes.io/part-of": "repot"},
            "annotations": {
                "repot/model": RECORD.name,
                "repot/version": VERSION,
                "repot/dataset": RECORD.dataset_id,
            },
        },
        "spec": {
            "predictor": {
                "serviceAccountName": "models",
                "model": {
                    "modelFormat": {"name": "tensorflow"},
                    "protocolVersion": "v1",
                    "runtimeVersion": "2.20.0-gpu",
                    "storageUri": f"{version_uri}/serving",
                    "resources": {"requests": resources, "limits": resources},
                },
            }
        },
    }
    assert storage.read_text(f"{version_uri}/inference_service.yaml") == text
    # TensorFlow Serving loads <folder>/<number>/saved_model.pb.
    served = [info.uri for info in storage.list_objects(f"{version_uri}/serving")]
    assert served == [f"{version_uri}/serving/1/{name}" for name in FILES]
    assert storage.read_text(served[0]) == FILES[0]


def test_version_is_copied_once(version_uri: str) -> None:
    write_inference_service(version_uri, IntegrationSettings())
    before = storage.stat(f"{version_uri}/serving/1/saved_model.pb")
    storage.delete_folder(f"{version_uri}/saved_model")

    again = write_inference_service(version_uri, IntegrationSettings(kserve_cpu="2"), name="other")

    assert storage.stat(f"{version_uri}/serving/1/saved_model.pb") == before
    assert yaml.safe_load(again)["metadata"]["name"] == "other"
    assert storage.read_text(f"{version_uri}/inference_service.yaml") == again


def test_interrupted_copy_is_repeated(version_uri: str) -> None:
    storage.write_text(f"{version_uri}/serving/1/saved_model.pb", "half")

    write_inference_service(version_uri, IntegrationSettings())

    assert storage.read_text(f"{version_uri}/serving/1/saved_model.pb") == FILES[0]


def test_manifest_has_only_fields_of_kserve(
    version_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it with KServe's models drops unknown fields and rejects missing ones."""
    kserve = pytest.importorskip("kserve", reason="pip install kserve")
    from kubernetes import client

    # KServe's models refer to each other and to those of Kubernetes by name.
    for name in vars(kserve.models):
        if name.startswith(("V1alpha1", "V1beta1")):
            monkeypatch.setattr(client.models, name, getattr(kserve.models, name), raising=False)
    settings = IntegrationSettings(kserve_service_account="models")
    manifest = yaml.safe_load(write_inference_service(version_uri, settings, namespace="research"))
    response = SimpleNamespace(data=json.dumps(manifest))

    service = client.ApiClient().deserialize(response, "V1beta1InferenceService")

    read = client.ApiClient().sanitize_for_serialization(service)
    assert read["spec"]["predictor"]["model"].pop("name") == ""  # a default of these models
    assert read == manifest


QUANTITIES = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
        r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
    },
}
# What KServe's CRD (config/crd/full, version v1beta1 of the schema) says about the fields that a
# manifest of ours has; all others are rejected here, where a cluster would drop them.
SPEC_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["predictor"],
    "properties": {
        "predictor": {
            "type": "object",
            "properties": {
                "serviceAccountName": {"type": "string"},
                "model": {
                    "type": "object",
                    "properties": {
                        "modelFormat": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "version": {"type": "string"},
                            },
                        },
                        "protocolVersion": {"type": "string"},
                        "runtimeVersion": {"type": "string"},
                        "storageUri": {"type": "string"},
                        "resources": {
                            "type": "object",
                            "properties": {"requests": QUANTITIES, "limits": QUANTITIES},
                        },
                    },
                },
            },
        }
    },
}


def spec_schema() -> dict[str, Any]:
    """Return the schema of the field spec: of the CRD in the file $KSERVE_CRD, or our excerpt."""
    path = os.environ.get("KSERVE_CRD")
    if not path:
        return copy.deepcopy(SPEC_SCHEMA)
    versions = yaml.safe_load(Path(path).read_text("utf-8"))["spec"]["versions"]
    (version,) = [each for each in versions if each["name"] == "v1beta1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def close_objects(schema: Any) -> None:
    """Let every object of a schema reject fields that it does not have."""
    for each in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(each, dict | list):
            close_objects(each)
    if isinstance(schema, dict):
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"runtimeVersion": 2.19}, "2.19 is not of type 'string'"),
        ({"storageURI": "s3://b/m"}, "'storageURI' was unexpected"),
        ({"resources": {"limits": {"memory": "2 GB"}}}, "'2 GB' does not match"),
        ({"modelFormat": {}}, "'name' is a required property"),
    ],
)
def test_manifest_is_valid_by_the_schema_of_the_crd(
    version_uri: str, changes: dict[str, Any], problem: str
) -> None:
    settings = IntegrationSettings(kserve_service_account="models")
    manifest = yaml.safe_load(write_inference_service(version_uri, settings, namespace="research"))
    manifest["spec"]["predictor"]["model"] |= changes
    schema = spec_schema()
    close_objects(schema)

    errors = [
        error.message
        for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest["spec"])
    ]

    assert problem in "; ".join(errors)
    assert bool(errors) == bool(problem)


@pytest.mark.parametrize(
    ("model_name", "name"),
    [
        ("classifier", "classifier"),
        ("My_Flowers.v2", "my-flowers-v2"),
        ("2flowers", "model-2flowers"),
        ("a-_.", "a"),
        ("x" * 63, "x" * 40),
        ("y" * 39 + "-z", "y" * 39),
    ],
)
def test_name_of_the_service_is_derived_from_the_model(model_name: str, name: str) -> None:
    assert service_name(model_name) == name


@pytest.mark.parametrize("name", ["Flowers", "2flowers", "a.b", "a-", "x" * 41])
def test_wrong_name_is_reported(version_uri: str, name: str) -> None:
    with pytest.raises(UsageError, match="name of an InferenceService must be") as caught:
        write_inference_service(version_uri, IntegrationSettings(), name=name, namespace="a.b")

    assert len(caught.value.problems) == 2
    assert not storage.exists(f"{version_uri}/inference_service.yaml")


def test_version_on_a_local_disk_cannot_be_served(tmp_path: Path) -> None:
    uri = publish(str(tmp_path))

    with pytest.raises(UsageError, match="must be in an object store, gs:// or s3://"):
        write_inference_service(uri, IntegrationSettings())


def test_folder_that_is_no_version_cannot_be_served(s3: str) -> None:
    with pytest.raises(ModelError, match=r"must be published before it is served; .* no model\.js"):
        write_inference_service(f"{s3}/repot/runs/x/model", IntegrationSettings())


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"REPOT_KSERVE_MANIFEST": "yes"}, "kserve_manifest must be true or false"),
        ({"REPOT_KSERVE_CPU": "2Gi"}, "kserve_cpu must be a number of CPUs"),
        ({"REPOT_KSERVE_MEMORY": "2"}, "kserve_memory must lie in"),
        ({"REPOT_KSERVE_RUNTIME_VERSION": "2.19 1"}, "kserve_runtime_version must be the tag"),
        ({"REPOT_KSERVE_SERVICE_ACCOUNT": "A b"}, "kserve_service_account must be the name"),
    ],
)
def test_wrong_settings_are_reported(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        IntegrationSettings.from_environment(variables)


def test_command_prints_the_manifest(version_uri: str) -> None:
    options = ["--memory", "4Gi", "--service-account", "models", "--namespace", "research"]

    done = CliRunner().invoke(
        serve_manifest_command, [version_uri, *options], catch_exceptions=False
    )

    assert done.output == storage.read_text(f"{version_uri}/inference_service.yaml")
    model = yaml.safe_load(done.output)["spec"]["predictor"]["model"]
    assert model["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    # KServe's own choice, 2.6.2, cannot load the model.
    assert model["runtimeVersion"] == "2.19.1"


def make_verdict(storage_uri: str, **changes: Any) -> str:
    """Store a verdict on the version, and return its name."""
    verdict = Verdict(
        decision="promote",
        reasons=("It is the first version.",),
        model_name=RECORD.name,
        version=VERSION,
        champion_version="none",
        min_precision=0.0,
        challenger=Score(precision_at_1=0.5, interval=(0.25, 0.75), num_examples=10),
        decided_at="2026-11-27T14:05:00Z",
    )
    verdict = dataclasses.replace(verdict, **changes)
    storage.write_json(f"{storage_uri}/runs/verdict.json", verdict.to_json())
    return "runs/verdict.json"


@pytest.mark.parametrize(
    "case",
    [
        ("true", "promote", True),
        ("True", "unchanged", True),
        ("true", "reject", False),
        ("false", "promote", False),
        ("", "promote", False),
    ],
)
def test_promotion_writes_the_manifest_if_chosen(
    s3: str,
    version_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str, bool],
) -> None:
    value, decision, is_written = case
    monkeypatch.setenv("REPOT_KSERVE_MANIFEST", value)

    report_outcome(f"{s3}/repot", make_verdict(f"{s3}/repot", decision=decision))

    assert storage.exists(f"{version_uri}/inference_service.yaml") == is_written


def test_manifest_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("REPOT_KSERVE_MANIFEST", "true")
    publish(str(tmp_path))

    report_outcome(str(tmp_path), make_verdict(str(tmp_path)))

    assert "warning: The manifest for KServe was not written. A version must be" in caplog.text


@pytest.mark.parametrize("is_required", [False, True])
def test_wrong_settings_are_a_warning_unless_services_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_required: bool
) -> None:
    monkeypatch.setenv("REPOT_KSERVE_CPU", "2Gi")
    monkeypatch.setenv("REPOT_INTEGRATIONS_REQUIRED", str(is_required))
    failing = pytest.raises(UsageError, match="kserve_cpu must be")

    with failing if is_required else contextlib.nullcontext():
        report_outcome(str(tmp_path), make_verdict(str(tmp_path)))
