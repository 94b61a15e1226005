"""Identity tokens for a CI job: its own token, exchanged at a fake of Google's two endpoints."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from repot_pipelines.kfp_server.errors import AccessDeniedError
from repot_pipelines.kfp_server.iap import IapCredentials

ACCOUNT = "ci@project.iam.gserviceaccount.com"


class Google(BaseHTTPRequestHandler):
    requests: ClassVar[list[tuple[str, str, str]]] = []
    accepts_job: ClassVar[bool] = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.requests.append((self.path, self.headers.get("Authorization", ""), body))
        if not self.accepts_job:
            self.answer(400, {"error": "invalid_grant", "error_description": "unknown job"})
        elif self.path == "/v1/token":
            token = {"access_token": "federated", "expires_in": 3600, "token_type": "Bearer"}
            token_type = "urn:ietf:params:oauth:token-type:access_token"
            self.answer(200, {**token, "issued_token_type": token_type})
        else:
            self.answer(200, {"token": jwt({"exp": int(time.time()) + 3600})})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def jwt(claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"signature")
    )


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Google]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Google)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    Google.requests.clear()
    (tmp_path / "job-token").write_text("the job's own token")
    (tmp_path / "credentials.json").write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/"
                "workloadIdentityPools/p/providers/x",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{address}/v1/token",
                "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/"
                f"projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken",
                "credential_source": {"file": str(tmp_path / "job-token")},
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))
    monkeypatch.setattr("google.auth.iam._IAM_IDTOKEN_ENDPOINT", address + "/{}:generateIdToken")
    yield Google
    server.shutdown()
    server.server_close()


def test_token_of_a_ci_job_is_exchanged_for_an_identity_token(google: type[Google]) -> None:
    config = SimpleNamespace(api_key={})

    IapCredentials("the-proxy").refresh_api_key_hook(config)

    (exchange, _, exchange_body), (request, authorization, body) = google.requests
    assert exchange == "/v1/token"
    assert "subject_token=the+job%27s+own+token" in exchange_body
    assert (request, authorization) == (f"/{ACCOUNT}:generateIdToken", "Bearer federated")
    assert json.loads(body) == {"audience": "the-proxy", "delegates": None, "includeEmail": True}
    assert config.api_key["authorization"].count(".") == 2


def test_valid_token_is_reused(google: type[Google]) -> None:
    config, credentials = SimpleNamespace(api_key={}), IapCredentials("the-proxy")

    for _ in range(2):
        credentials.refresh_api_key_hook(config)

    assert len(google.requests) == 2


def test_job_that_google_rejects_is_an_access_error(
    google: type[Google], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "accepts_job", False)

    with pytest.raises(AccessDeniedError, match="unknown job"):
        IapCredentials("the-proxy").refresh_api_key_hook(SimpleNamespace(api_key={}))
