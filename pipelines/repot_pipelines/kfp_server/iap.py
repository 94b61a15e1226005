"""Identity tokens for a server behind Google's Identity-Aware Proxy (IAP), renewed as they expire."""

import json
import os
from pathlib import Path
from typing import Any

from repot_pipelines.kfp_server.errors import RefusedError

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class IapCredentials:
    """Asks Google for an id token whose audience is the proxy's OAuth client; what kfp calls credentials.

    The token is that of a service account: a key file, an impersonated one (workload identity federation), or the
    machine's own. Source: https://cloud.google.com/iap/docs/authentication-howto.

    Args:
        client_id: The proxy's OAuth client id.

    Raises:
        RefusedError: There are no credentials here that can make an id token.
    """

    def __init__(self, client_id: str) -> None:
        import google.auth.exceptions
        from google.auth.transport.requests import Request
        from google.oauth2 import id_token

        self._failure = google.auth.exceptions.GoogleAuthError
        self._request = Request()
        try:
            self._credentials = _federated(client_id) or id_token.fetch_id_token_credentials(
                client_id, self._request
            )
        except self._failure as err:
            raise _no_token(err) from err

    def refresh_api_key_hook(self, config: Any) -> None:
        """Put a valid token into the client's configuration; the client calls this before every request."""
        if not self._credentials.valid:
            try:
                self._credentials.refresh(self._request)
            except self._failure as err:
                raise _no_token(err) from err
        config.api_key["authorization"] = self._credentials.token


def _federated(client_id: str) -> Any | None:
    """Return the credentials of a service account that a CI job's own token stands for; None where there is no such.

    google-auth makes id tokens of every kind of credentials but this one. The job's identity asks for the token
    itself, as workload identity users may; the service account needs no right to impersonate itself.
    """
    from google.auth import identity_pool, impersonated_credentials

    facts = _credentials_file()
    url = facts.pop("service_account_impersonation_url", "")
    if facts.get("type") != "external_account" or not url:
        return None
    source = identity_pool.Credentials.from_info(facts, scopes=[_CLOUD_PLATFORM])
    account = url.rpartition("/")[2].partition(":")[0]
    target = impersonated_credentials.Credentials(source, account, target_scopes=[_CLOUD_PLATFORM])
    return impersonated_credentials.IDTokenCredentials(
        target, target_audience=client_id, include_email=True
    )


def _credentials_file() -> dict[str, Any]:
    try:
        facts = json.loads(
            Path(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")).read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return {}  # google-auth says what is wrong with it
    return facts if isinstance(facts, dict) else {}


def _no_token(err: Exception) -> RefusedError:
    return RefusedError(
        f"Cannot get an identity token for the proxy: {err}. Point GOOGLE_APPLICATION_CREDENTIALS to the key of a "
        "service account, or run where one is attached; the account needs the role IAP-secured Web App User."
    )
