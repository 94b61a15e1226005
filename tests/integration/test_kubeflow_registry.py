"""Entries in the Model Registry: written to a server with the paths of its OpenAPI document."""

import contextlib
import itertools
import json
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from repot import layout
from repot.errors import RepotError, UsageError
from repot.evaluator.after_verdict import report_outcome
from repot.evaluator.kubeflow_registry import ModelRegistryError, register_version
from repot.model_registry import read_champion
from repot.settings.integrations import IntegrationSettings
from repot_pipelines.cli import repot
from tests.conftest import free_port
from tests.integration.evaluator.results import (
    change_champion,
    make_result,
    put_into_production,
    write_model_record,
)

Json = dict[str, Any]
VERSION = "0123456789abcdef"
# What https://github.com/kubeflow/model-registry, api/openapi/model-registry.yaml, requires and
# allows in the body of a request, for the paths that are used.
BODIES = {
    ("POST", "registered_models"): {"name"},
    ("POST", "model_versions"): {
        "name",
        "registeredModelId",
        "description",
        "author",
        "customProperties",
    },
    ("PATCH", "model_versions/ID"): {"description", "author", "customProperties"},
    ("POST", "model_versions/ID/artifacts"): {
        "artifactType",
        "id",
        "name",
        "uri",
        "modelFormatName",
        "modelFormatVersion",
    },
}


class Registry:
    """A Model Registry that keeps its objects in memory.

    Attributes:
        url: Its address.
        api: The version of the API that it has.
        token: The token that it requires, "" for none.
        status: A status that it answers writes with instead, 0 for none.
        models, versions: Its objects, by id.
        artifacts: The id of its version, and the artifact, by the artifact's id.
    """

    def __init__(self, url: str) -> None:
        self.url, self.api, self.token, self.status = url, "v1", "", 0
        self.models: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.artifacts: dict[str, tuple[str, Json]] = {}
        self._ids = itertools.count(1)

    def answer(self, method: str, target: str, body: Json, token: str) -> tuple[int, Json]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        prefix, _, path = parts.path.partition(f"/api/model_registry/{self.api}/")
        if prefix or not path:
            return 404, {"message": "no such path"}
        if self.token and token != f"Bearer {self.token}":
            return 401, {"message": f"invalid token {token}"}
        return self._read(path, query) if method == "GET" else self._write(method, path, body)

    def _read(self, path: str, query: dict[str, str]) -> tuple[int, Json]:
        if path == "registered_models":
            return 200, listed(list(self.models.values()))
        if found := re.fullmatch(r"registered_models/(\d+)/versions", path):
            owned = [
                each for each in self.versions.values() if each["registeredModelId"] == found[1]
            ]
            first = int(query.get("nextPageToken", "0"))
            page, rest = owned[first : first + 1], owned[first + 1 :]
            return 200, {**listed(page), "nextPageToken": str(first + 1) if rest else ""}
        if found := re.fullmatch(r"model_versions/(\d+)/artifacts", path):
            owned = [each for owner, each in self.artifacts.values() if owner == found[1]]
            return 200, listed(owned)
        objects, parent = {
            "registered_model": (self.models, ""),
            "model_version": (self.versions, "registeredModelId"),
        }[path]
        for each in objects.values():
            if each["name"] == query["name"] and (
                not parent or each[parent] == query["parentResourceId"]
            ):
                return 200, each
        return 404, {"message": "not found"}

    def _write(self, method: str, path: str, body: Json) -> tuple[int, Json]:
        if self.status:
            return self.status, {"message": "the database is locked"}
        assert set(body) <= BODIES[method, re.sub(r"\d+", "ID", path)], (path, body)
        if method == "PATCH":
            self.versions[path.split("/")[1]].update(body)
            return 200, self.versions[path.split("/")[1]]
        identifier = body.get("id") or str(next(self._ids))
        new = {"state": "LIVE", **body, "id": identifier}
        if path == "registered_models":
            self.models[identifier] = new
        elif path == "model_versions":
            assert body["registeredModelId"] in self.models
            self.versions[identifier] = new
        else:
            self.artifacts[identifier] = (path.split("/")[1], new)
        return 201, new

    def version(self, name: str) -> Json:
        (found,) = [each for each in self.versions.values() if each["name"] == name]
        return found


def listed(items: list[Json]) -> Json:
    return {"items": items, "nextPageToken": "", "pageSize": 100, "size": len(items)}


@pytest.fixture
def registry() -> Iterator[Registry]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, value = served.answer(
                self.command,
                self.path,
                json.loads(body or "{}"),
                self.headers.get("Authorization", ""),
            )
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Registry(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(registry: Registry) -> IntegrationSettings:
    return IntegrationSettings(model_registry_url=f"{registry.url}/")


@pytest.fixture
def storage_uri(tmp_path: Path) -> str:
    return str(tmp_path / "storage")


@pytest.mark.parametrize("api", ["v1", "v1alpha3"])
def test_promoted_version_gets_an_entry(
    registry: Registry, settings: IntegrationSettings, storage_uri: str, api: str
) -> None:
    registry.api = api
    result = make_result(storage_uri)

    register_version(result, settings)

    (model,) = registry.models.values()
    assert model["name"] == "flowers"
    version = registry.version(VERSION)
    assert version["registeredModelId"] == model["id"]
    assert version["description"] == f"{result.verdict.headline} It is the first version."
    properties = version["customProperties"]
    assert properties["precision_at_1"] == {
        "metadataType": "MetadataDoubleValue",
        "double_value": 0.5,
    }
    assert properties["num_examples"] == {"metadataType": "MetadataIntValue", "int_value": "2"}
    assert properties["champion"] == {"metadataType": "MetadataBoolValue", "bool_value": True}
    texts = {name: each.get("string_value") for name, each in properties.items()}
    assert texts["verdict"] == "promote"
    assert (texts["dataset_id"], texts["labels"]) == ("d1d1", "cat, dog")
    assert texts["report_uri"] == result.report_uri
    ((_, artifact),) = registry.artifacts.values()
    assert (artifact["name"], artifact["modelFormatName"]) == ("flowers", "tensorflow")
    assert artifact["uri"] == f"{result.version_uri}/saved_model"


def test_repeated_report_updates_the_entry(
    registry: Registry, storage_uri: str, settings: IntegrationSettings
) -> None:
    register_version(make_result(storage_uri), settings)
    someone_elses = {"metadataType": "MetadataStringValue", "string_value": "approved"}
    registry.version(VERSION)["customProperties"]["review"] = someone_elses
    with_kserve = IntegrationSettings(model_registry_url=registry.url, kserve_manifest=True)

    register_version(make_result(storage_uri, "unchanged"), with_kserve)

    assert [len(each) for each in (registry.models, registry.versions, registry.artifacts)] == [
        1,
        1,
        1,
    ]
    properties = registry.version(VERSION)["customProperties"]
    assert properties["verdict"]["string_value"] == "unchanged"
    assert properties["review"] == someone_elses
    ((_, artifact),) = registry.artifacts.values()
    assert artifact["uri"].endswith("/serving")


def test_former_champion_loses_its_mark(
    registry: Registry, storage_uri: str, settings: IntegrationSettings
) -> None:
    register_version(make_result(storage_uri, version="a" * 16), settings)

    register_version(
        make_result(storage_uri, version="b" * 16, champion_version="a" * 16), settings
    )

    assert len(registry.models) == 1
    assert champions(registry) == {"a" * 16: False, "b" * 16: True}
    # The other properties of the former champion stay.
    assert registry.version("a" * 16)["customProperties"]["verdict"]["string_value"] == "promote"


def champions(registry: Registry) -> dict[str, bool]:
    return {
        each["name"]: each["customProperties"]["champion"]["bool_value"]
        for each in registry.versions.values()
    }


def test_champion_of_a_run_without_a_change_is_the_only_one_with_the_mark(
    registry: Registry, storage_uri: str, settings: IntegrationSettings
) -> None:
    register_version(make_result(storage_uri, version="a" * 16), settings)
    register_version(make_result(storage_uri, version="b" * 16), settings)

    register_version(make_result(storage_uri, "unchanged", version="a" * 16), settings)

    assert champions(registry) == {"a" * 16: True, "b" * 16: False}


def test_rollback_and_promotion_by_hand_move_the_mark(
    registry: Registry,
    storage_uri: str,
    settings: IntegrationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", registry.url)
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    for version in ("a" * 16, "b" * 16):
        register_version(make_result(storage_uri, version=version), settings)
        write_model_record(storage_uri, version)

    change_champion("rollback", storage_uri)
    assert champions(registry) == {"a" * 16: True, "b" * 16: False}

    change_champion("models", storage_uri, "promote", "b" * 16, "--reason", "checked by a person")
    assert champions(registry) == {"a" * 16: False, "b" * 16: True}


def test_rejected_run_moves_the_mark_after_a_rollback_elsewhere(
    registry: Registry,
    storage_uri: str,
    settings: IntegrationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    for version in ("a" * 16, "b" * 16):
        register_version(make_result(storage_uri, version=version), settings)
        write_model_record(storage_uri, version)
    change_champion("rollback", storage_uri)
    assert champions(registry) == {"a" * 16: False, "b" * 16: True}
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", registry.url)
    make_result(storage_uri, "reject", version="b" * 16)

    report_outcome(storage_uri, f"runs/{'b' * 16}/gate/verdict.json")

    assert champions(registry) == {"a" * 16: True, "b" * 16: False}


def test_rollback_with_a_wrong_setting_changes_nothing(
    storage_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", "registry:8080")

    result = CliRunner().invoke(
        repot, ["rollback", "--storage-uri", storage_uri, "--model-name", "flowers"]
    )

    assert isinstance(result.exception, UsageError)
    uri = layout.champion_uri(storage_uri, "flowers")
    champion = read_champion(uri).champion
    assert champion is not None
    assert champion.version == "b" * 16


def test_rollback_stands_when_the_registry_does_not_answer(
    storage_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_production(storage_uri, "a" * 16, "b" * 16)
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", f"http://127.0.0.1:{free_port()}")

    result = change_champion("rollback", storage_uri)

    assert "warning: The champion was not marked in the Model Registry. The Model" in result.output
    assert f"champion is {'a' * 16} again" in result.output


@pytest.mark.filterwarnings("ignore::UserWarning:pydantic", "ignore::DeprecationWarning")
def test_client_of_the_registry_reads_the_entry(
    registry: Registry, storage_uri: str, settings: IntegrationSettings
) -> None:
    """The client checks what it reads against the schemas of the OpenAPI document."""
    model_registry = pytest.importorskip("model_registry", reason="pip install model-registry")
    result = make_result(storage_uri)
    register_version(result, settings)

    client = model_registry.ModelRegistry(registry.url, author="test", user_token="t")

    assert client.get_registered_model("flowers").name == "flowers"
    version = client.get_model_version("flowers", VERSION)
    assert version.custom_properties["precision_at_1"] == 0.5
    assert version.custom_properties["num_examples"] == 2
    assert version.custom_properties["champion"] is True


def test_token_is_sent_and_never_shown(
    registry: Registry,
    storage_uri: str,
    settings: IntegrationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.token = "x9secretx9"
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_TOKEN", "wrong9secret")
    with pytest.raises(ModelRegistryError, match="status 401") as caught:
        register_version(make_result(storage_uri), settings)
    assert "wrong9secret" not in str(caught.value)

    monkeypatch.setenv("REPOT_MODEL_REGISTRY_TOKEN", registry.token)
    register_version(make_result(storage_uri), settings)

    assert len(registry.versions) == 1


def test_problem_in_a_pod_names_config_map_and_secret(
    registry: Registry, storage_uri: str, settings: IntegrationSettings, task_pod: None
) -> None:
    del task_pod
    registry.token = "x9secretx9"

    with pytest.raises(ModelRegistryError, match="status 401") as caught:
        register_version(make_result(storage_uri), settings)

    assert str(caught.value).endswith(
        "Check the key MODEL_REGISTRY_URL of the ConfigMap repot-settings in the namespace "
        "research and the key registry_token of the Secret repot-integrations in the namespace "
        "research."
    )


@pytest.mark.parametrize("problem", ["no registry", "unreachable", "locked"])
def test_problem_is_a_warning_unless_required(
    registry: Registry,
    storage_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: str,
) -> None:
    caplog.set_level(logging.INFO)
    registry.api = "v9" if problem == "no registry" else "v1"
    registry.status = 500 if problem == "locked" else 0
    dead = f"http://user:pass9word@127.0.0.1:{free_port()}"
    url = dead if problem == "unreachable" else registry.url
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", url)
    make_result(storage_uri)

    for value in ("false", "true"):
        monkeypatch.setenv("REPOT_INTEGRATIONS_REQUIRED", value)
        failing = pytest.raises(RepotError, match="was not entered in the Model Registry")
        with failing if value == "true" else contextlib.nullcontext():
            report_outcome(storage_uri, f"runs/{VERSION}/gate/verdict.json")

    reasons = {
        "no registry": "must be a Model Registry with the API v1 or v1alpha3; it has neither",
        "unreachable": "must accept GET registered_models; got ",
        "locked": 'got status 500 {"message": "the database is locked"}',
    }
    said = "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("repot"))
    assert reasons[problem] in said
    assert "pass9word" not in said


@pytest.mark.parametrize(
    ("decision", "num_entries"), [("promote", 1), ("unchanged", 1), ("reject", 0)]
)
def test_only_champions_get_an_entry(
    registry: Registry,
    storage_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    decision: Any,
    num_entries: int,
) -> None:
    monkeypatch.setenv("REPOT_MODEL_REGISTRY_URL", registry.url)
    make_result(storage_uri, decision)

    report_outcome(storage_uri, f"runs/{VERSION}/gate/verdict.json")

    assert len(registry.versions) == num_entries
