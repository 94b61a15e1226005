"""Credentials from the service account key that an optional Secret of the pipeline gives a pod."""

import json

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from repot.cluster_names import GOOGLE_KEY_VARIABLE
from repot.errors import StorageError
from repot.storage.gcs import client
from repot.storage.plain_http import Server


@pytest.fixture(autouse=True)
def _no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)


def test_key_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "client_email": "repot@example.iam.gserviceaccount.com",
        "private_key": private_key.decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    monkeypatch.setenv(GOOGLE_KEY_VARIABLE, json.dumps(key))
    assert (
        client.client()._credentials.service_account_email
        == "repot@example.iam.gserviceaccount.com"
    )
    client.state.clients.clear()


def test_invalid_key_is_rejected_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client.state.clients.clear()
    monkeypatch.setenv(GOOGLE_KEY_VARIABLE, "secret words")
    with pytest.raises(StorageError, match="must hold a Google service account's key") as caught:
        client.client()
    assert "secret words" not in str(caught.value)


@pytest.mark.usefixtures("task_pod")
def test_invalid_key_in_a_pod_names_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    client.state.clients.clear()
    monkeypatch.setenv(GOOGLE_KEY_VARIABLE, "secret words")
    with pytest.raises(StorageError) as caught:
        client.client()
    assert str(caught.value).startswith(
        "the key key.json of the Secret repot-google-key in the namespace research must hold"
    )


def test_behind_a_proxy_only_the_client_makes_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert direct_server() is not None
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    assert direct_server() is None
    monkeypatch.setenv("NO_PROXY", "storage.test")
    assert direct_server() is not None


def direct_server() -> Server | None:
    session = requests.Session()
    session.is_mtls = False  # type: ignore[attr-defined]
    return client._direct_server(session, "http://storage.test")


def test_client_certificates_are_left_to_the_client() -> None:
    session = requests.Session()
    session.is_mtls = True  # type: ignore[attr-defined]
    assert client._direct_server(session, "http://storage.test") is None


def test_address_of_a_download_is_the_one_that_the_client_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer-1")
    uri = "gs://bucket/a b/ä%2F+#?&=~.jpg"

    blob = client.blob_handle(uri, version="17")

    expected = blob._get_download_url(client.client())
    assert f"http://127.0.0.1:1{client.download_path(uri, '17')}" == expected
    client.state.clients.clear()
