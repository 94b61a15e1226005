"""Identity tokens for a server behind Google's Identity-Aware Proxy (IAP), renewed on expiry."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from repot.user_files import read_user_file
from repot_pipelines.kfp_server.errors import AccessDeniedError

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class IapCredentials:
    """Credentials for kfp.Client: identity tokens whose audience is the proxy's OAuth client.

    The token belongs to a service account: from a key file, impersonated through workload identity
    federation, or attached to the machine.
    Source: https://cloud.google.com/iap/docs/authentication-howto.

    Args:
        client_id: OAuth client id of the proxy.

    Raises:
        AccessDeniedError: No credentials are available that can create an identity token.
    """

    def __init__(self, client_id: str) -> None:
        import google.auth.exceptions
        from google.auth.transport.requests import Request
        from google.oauth2 import id_token

        self._google_error = google.auth.exceptions.GoogleAuthError
        self._request = Request()
        try:
            self._credentials = _federated_credentials(
                client_id
            ) or id_token.fetch_id_token_credentials(client_id, self._request)
        except self._google_error as err:
            raise _no_token_error(err) from err

    def refresh_api_key_hook(self, config: Any) -> None:
        """Store a valid token in the client's configuration; called before every request."""
        if not self._credentials.valid:
            try:
                self._credentials.refresh(self._request)
            except self._google_error as err:
                raise _no_token_error(err) from err
        config.api_key["authorization"] = self._credentials.token


def _federated_credentials(client_id: str) -> Any | None:
    """Return credentials for workload identity federation, e.g. of a CI job; None without it.

    google-auth creates identity tokens from every other kind of credentials. Here the federated
    identity requests the token itself, which the role Workload Identity User permits; the service
    account does not need the permission to impersonate itself.
    """
    from google.auth import identity_pool, impersonated_credentials

    info = _read_credentials_file()
    url = info.pop("service_account_impersonation_url", "")
    if info.get("type") != "external_account" or not url:
        return None
    source = identity_pool.Credentials.from_info(info, scopes=[_CLOUD_PLATFORM])
    # .../serviceAccounts/ACCOUNT:generateAccessToken
    account = url.rpartition("/")[2].partition(":")[0]
    target = impersonated_credentials.Credentials(source, account, target_scopes=[_CLOUD_PLATFORM])
    return impersonated_credentials.IDTokenCredentials(
        target, target_audience=client_id, include_email=True
    )


def _read_credentials_file() -> dict[str, Any]:
    path = Path(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", ""))
    try:
        info = json.loads(read_user_file(path))
    except (OSError, ValueError) as err:
        if isinstance(err, OSError) and err.errno == errno.EFBIG:
            # google-auth would read all of it.
            raise _no_token_error(f"{path}: {err.strerror}") from err
        return {}  # google-auth reports what is wrong with the file
    return info if isinstance(info, dict) else {}


def _no_token_error(reason: object) -> AccessDeniedError:
    return AccessDeniedError(
        f"Cannot get an identity token for the proxy: {reason}. "
        "Set GOOGLE_APPLICATION_CREDENTIALS to the key of a service account, or run where one is "
        "attached; the account needs the role IAP-secured Web App User."
    )
