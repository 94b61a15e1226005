"""Kubeflow's Model Registry: one entry per promoted version, with its address, scores and verdict.

The entry is found again by the names of model and version: a repeated report updates it.

This speaks the REST API itself. The package `model-registry` speaks only one version of the API,
the newest, which an installed registry may not have; it needs a token for every https:// address,
and sends that of the pod's service account to any other.

Source: https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml
"""

import http
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import requests.adapters
import urllib3

from repot import storage
from repot.cluster_names import name_sources
from repot.errors import RepotError, innermost_reason, printable
from repot.evaluator.summary import RunResult, comparable_metrics
from repot.layout import SAVED_MODEL_FOLDER, SERVING_FOLDER
from repot.masking import mask, read_secrets, secret_parts
from repot.settings.integrations import IntegrationSettings, variable_name
from repot.tls import CA_VARIABLES, find_ca_bundle

API_VERSIONS = ("v1", "v1alpha3")
"""Newest first."""
TOKEN_VARIABLE = "REPOT_MODEL_REGISTRY_TOKEN"

_URL_VARIABLE = variable_name("model_registry_url")
_TIMEOUT_SECONDS = (5, 30)  # connect, read
_RETRIES = urllib3.Retry(
    total=2, backoff_factor=0.5, status_forcelist=(502, 503, 504), raise_on_status=False
)
_MAX_ANSWER_CHARACTERS = 300

_Json = dict[str, Any]
"""An object of the API."""

_log = logging.getLogger(__name__)


class ModelRegistryError(RepotError):
    """The registry did not accept an entry."""


def register_version(result: RunResult, settings: IntegrationSettings) -> None:
    """Create or update the entry of a version that is the champion.

    Raises:
        ModelRegistryError: The registry is not reachable or does not accept the entry.
        StorageError: The file of CA certificates cannot be used.
    """
    verdict = result.verdict
    with _Registry(settings.model_registry_url) as registry:
        model_id = registry.find_or_create_model(verdict.model_name)
        version_id = registry.write_version(
            model_id,
            verdict.version,
            description=" ".join((verdict.headline, *verdict.reasons)),
            properties=_properties(result),
        )
        folder = SERVING_FOLDER if settings.kserve_manifest else SAVED_MODEL_FOLDER
        registry.write_artifact(
            version_id, verdict.model_name, storage.join(result.version_uri, folder)
        )
        registry.move_champion(model_id, verdict.version)
    _log.info("Model Registry: %s, version %s", verdict.model_name, verdict.version)


def mark_champion(model_name: str, version: str, settings: IntegrationSettings) -> bool:
    """Move the mark of the champion to the entry of a version.

    Returns:
        Whether the version has an entry. Without one, no version of the model has the mark.

    Raises:
        ModelRegistryError: The registry is not reachable or does not accept the change.
        StorageError: The file of CA certificates cannot be used.
    """
    with _Registry(settings.model_registry_url) as registry:
        model_id = registry.find_model(model_name)
        return model_id is not None and registry.move_champion(model_id, version)


def _properties(result: RunResult) -> dict[str, bool | float | str]:
    """Return what the registry shows of a version beside its name and address."""
    training = result.data.training
    return {
        **comparable_metrics(result.data.evaluation, result.verdict),
        "champion": True,
        "dataset_id": result.data.dataset.dataset_id,
        "labels": ", ".join(training.labels if training else result.data.evaluation.labels),
        "backbone": training.settings.backbone if training else "",
        "model_uri": result.version_uri,
        "report_uri": result.report_uri,
        "run_id": result.run_id,
    }


class _Registry:
    """A registry at an address: finds and writes its objects."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.mount(self._url, requests.adapters.HTTPAdapter(max_retries=_RETRIES))
        self._session.verify = find_ca_bundle(*CA_VARIABLES) or True
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._api = ""

    def __enter__(self) -> "_Registry":
        for version in API_VERSIONS:
            self._api = f"{self._url}/api/model_registry/{version}"
            if self._find("registered_models", {"pageSize": "1"}) is not None:
                return self
        raise ModelRegistryError(
            f"{self._shown(self._url)} must be a Model Registry with the API "
            f"{' or '.join(API_VERSIONS)}; it has neither. Check {name_sources(_URL_VARIABLE)}: it "
            "is the address without /api."
        )

    def __exit__(self, *exc_info: object) -> None:
        self._session.close()

    def find_model(self, name: str) -> str | None:
        """Return the id of a registered model, or None."""
        found = self._find("registered_model", {"name": name})
        return _id(found) if found else None

    def find_or_create_model(self, name: str) -> str:
        """Return the id of a registered model."""
        found = self.find_model(name)
        return found or _id(self._send("POST", "registered_models", {"name": name}))

    def write_version(
        self, model_id: str, name: str, *, description: str, properties: _Json
    ) -> str:
        """Create or update a version, and return its id."""
        typed = {key: _typed(value) for key, value in properties.items()}
        content = {"description": description, "author": "repot", "customProperties": typed}
        found = self._find_version(model_id, name)
        if found is None:
            created = {**content, "name": name, "registeredModelId": model_id}
            return _id(self._send("POST", "model_versions", created))
        content["customProperties"] = {**_custom_properties(found), **typed}
        return _id(self._send("PATCH", f"model_versions/{_id(found)}", content))

    def write_artifact(self, version_id: str, name: str, uri: str) -> None:
        """Create or update the only model artifact of this name of a version."""
        path = f"model_versions/{version_id}/artifacts"
        listed = self._find(path, {"pageSize": "100"}) or {}
        artifact = {
            "artifactType": "model-artifact",
            "name": name,
            "uri": uri,
            "modelFormatName": "tensorflow",
            "modelFormatVersion": "2",
        }
        ids = [_id(each) for each in listed.get("items") or [] if each.get("name") == name]
        self._send("POST", path, {**artifact, **({"id": ids[0]} if ids else {})})

    def move_champion(self, model_id: str, name: str) -> bool:
        """Make a version the only one of its model with the mark; return whether it exists."""
        exists = False
        for version in list(self._list_versions(model_id)):  # A change may reorder the pages.
            is_champion = version.get("name") == name
            exists = exists or is_champion
            properties, mark = _custom_properties(version), _typed(is_champion)
            if properties.get("champion", _typed(False)) != mark:
                path = f"model_versions/{_id(version)}"
                self._send("PATCH", path, {"customProperties": {**properties, "champion": mark}})
        return exists

    def _list_versions(self, model_id: str) -> Iterator[_Json]:
        """Yield every version of a model."""
        query = {"pageSize": "100"}
        while True:
            page = self._find(f"registered_models/{model_id}/versions", query) or {}
            yield from page.get("items") or []
            query["nextPageToken"] = page.get("nextPageToken") or ""
            if not query["nextPageToken"]:
                return

    def _find_version(self, model_id: str, name: str) -> _Json | None:
        return self._find("model_version", {"name": name, "parentResourceId": model_id})

    def _find(self, path: str, query: Mapping[str, str]) -> _Json | None:
        """Return an object or a list of them, or None if there is none."""
        return self._request("GET", path, params=query, is_missing_allowed=True)

    def _send(self, method: str, path: str, content: _Json) -> _Json:
        return self._request(method, path, json=content) or {}

    def _request(
        self, method: str, path: str, *, is_missing_allowed: bool = False, **arguments: Any
    ) -> _Json | None:
        try:
            answer = self._session.request(
                method, f"{self._api}/{path}", timeout=_TIMEOUT_SECONDS, **arguments
            )
            if is_missing_allowed and answer.status_code == http.HTTPStatus.NOT_FOUND:
                return None
            if answer.ok:
                value = answer.json()
                return value if isinstance(value, dict) else {}
            text = answer.text[:_MAX_ANSWER_CHARACTERS].strip()
            reason = f"status {answer.status_code} {text}".strip()
        except requests.RequestException as err:  # JSONDecodeError is one
            reason = innermost_reason(err)
        raise ModelRegistryError(
            f"The Model Registry at {self._shown(self._url)} must accept {method} {path}; got "
            f"{printable(self._shown(reason)).rstrip('.')}. Check {name_sources(_URL_VARIABLE)} "
            f"and {name_sources(TOKEN_VARIABLE)}."
        )

    def _shown(self, text: str) -> str:
        return mask(text, [*read_secrets(os.environ), *secret_parts(self._url)])


def _id(value: _Json) -> str:
    """Return the id of an object of the registry.

    Raises:
        ModelRegistryError: It has none, so the server is no Model Registry.
    """
    identifier = value.get("id")
    if not isinstance(identifier, str):
        raise ModelRegistryError(
            "An object of the Model Registry must have an id; the answer has none. Check "
            f"{name_sources(_URL_VARIABLE)}."
        )
    return identifier


def _custom_properties(version: _Json) -> _Json:
    """Return the properties of a version; an update must repeat those that it does not change."""
    properties: _Json | None = version.get("customProperties")
    return properties or {}


def _typed(value: bool | float | str) -> _Json:
    """Return a property in the form of the API: the value with the name of its type."""
    if isinstance(value, bool):
        return {"metadataType": "MetadataBoolValue", "bool_value": value}
    if isinstance(value, int):
        return {"metadataType": "MetadataIntValue", "int_value": str(value)}
    if isinstance(value, float):
        return {"metadataType": "MetadataDoubleValue", "double_value": value}
    return {"metadataType": "MetadataStringValue", "string_value": value}
