"""KServe: the InferenceService of a published version, and the folder that it serves.

TensorFlow Serving, which KServe starts, loads `<folder>/<number>/saved_model.pb`. A version is
therefore copied to serving/1/ in its own folder, inside the store; the manifest is written last and
shows that the copy is complete. KServe's runtime for TensorFlow speaks protocol v1 only.

Source: https://github.com/kserve/kserve, config/runtimes/kserve-tensorflow-serving.yaml and
config/crd/full/serving.kserve.io_inferenceservices.yaml
"""

import re
from typing import Any

import yaml

from repot import storage
from repot.errors import ModelError, NotFoundError, UsageError
from repot.folder_checksums import write_last
from repot.kubernetes_rules import is_object_name
from repot.layout import (
    INFERENCE_SERVICE_NAME,
    MODEL_RECORD_NAME,
    SAVED_MODEL_FOLDER,
    SERVING_FOLDER,
)
from repot.model_registry import ModelRecord, read_model_record
from repot.settings.integrations import IntegrationSettings

_VERSION_FOLDER = "1"
# KServe appends "-predictor" and more to the name, and makes it part of a host name, whose labels
# have 63 characters.
_MAX_NAME = 40
_NAME_RULE = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")


def write_inference_service(
    version_uri: str, settings: IntegrationSettings, *, name: str = "", namespace: str = ""
) -> str:
    """Prepare a version for KServe, and return its manifest.

    The manifest is also written to inference_service.yaml in the version's folder.

    Args:
        version_uri: Folder of a published version, in an object store.
        settings: Resources, service account and runtime of the server.
        name: Name of the InferenceService; "" derives it from the model's.
        namespace: Its namespace; "" leaves that to whoever applies the manifest.

    Raises:
        UsageError: The version is on a local disk, or a name is not one of Kubernetes.
        ModelError: The version is not published.
    """
    if storage.is_local(version_uri):
        raise UsageError(
            "A version must be in an object store, gs:// or s3://, for KServe to load it; got "
            f"{version_uri}. Copy the storage there, or run with such a storage_uri."
        )
    record = _read_version(version_uri)
    name = name or service_name(record.name)
    _check_names(name, namespace)
    manifest_uri = storage.join(version_uri, INFERENCE_SERVICE_NAME)
    serving_uri = storage.join(version_uri, SERVING_FOLDER)
    if not storage.exists(manifest_uri):
        storage.copy_folder(
            storage.join(version_uri, SAVED_MODEL_FOLDER),
            storage.join(serving_uri, _VERSION_FOLDER),
        )
    manifest = _make_manifest(record, serving_uri, settings, name=name, namespace=namespace)
    text = yaml.safe_dump(manifest, sort_keys=False)
    write_last(version_uri, INFERENCE_SERVICE_NAME, text, parts=[f"{SERVING_FOLDER}/"])
    return text


def service_name(model_name: str) -> str:
    """Return a name for a model's InferenceService: lower-case letters, digits and hyphens."""
    name = re.sub(r"[^a-z0-9]+", "-", model_name.lower()).strip("-")
    name = name if _NAME_RULE.match(name) else f"model-{name}"
    return name[:_MAX_NAME].strip("-")


def _read_version(version_uri: str) -> ModelRecord:
    try:
        return read_model_record(version_uri)
    except NotFoundError as err:
        raise ModelError(
            f"A version must be published before it is served; {version_uri} has no "
            f"{MODEL_RECORD_NAME}. Name the folder of a version, models/<name>/<version>, or a "
            "champion.json."
        ) from err


def _check_names(name: str, namespace: str) -> None:
    problems = []
    if len(name) > _MAX_NAME or not _NAME_RULE.fullmatch(name):
        problems.append(
            f"The name of an InferenceService must be 1 to {_MAX_NAME} lower-case letters, digits "
            f"or '-', starting with a letter and not ending with '-'; got name={name!r}."
        )
    if namespace and ("." in namespace or not is_object_name(namespace, max_length=63)):
        problems.append(
            "namespace must be at most 63 lower-case letters, digits or '-'; got "
            f"namespace={namespace!r}."
        )
    if problems:
        raise UsageError(problems)


def _make_manifest(
    record: ModelRecord,
    serving_uri: str,
    settings: IntegrationSettings,
    *,
    name: str,
    namespace: str,
) -> dict[str, Any]:
    resources = {"cpu": settings.kserve_cpu, "memory": settings.kserve_memory}
    account = settings.kserve_service_account
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            **({"namespace": namespace} if namespace else {}),
            "labels": {"app.kubernetes.io/part-of": "repot"},
            "annotations": {
                "repot/model": record.name,
                "repot/version": record.version,
                "repot/dataset": record.dataset_id,
            },
        },
        "spec": {
            "predictor": {
                **({"serviceAccountName": account} if account else {}),
                "model": {
                    "modelFormat": {"name": "tensorflow"},
                    "protocolVersion": "v1",
                    "runtimeVersion": settings.kserve_runtime_version,
                    "storageUri": serving_uri,
                    "resources": {"requests": resources, "limits": dict(resources)},
                },
            }
        },
    }
