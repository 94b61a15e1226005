"""Kubeconfig files that refer to the server."""

from pathlib import Path
from typing import Any

import yaml


def write_kubeconfig(
    path: Path,
    address: str,
    *,
    token: str = "",
    user: dict[str, Any] | None = None,
    context: str = "test",
) -> Path:
    """Write a kubeconfig with one context, and return its path.

    Args:
        path: The file.
        address: URL of the API server.
        token: Bearer token.
        user: Credentials of the user instead of a token, e.g. `{"exec": {...}}`.
        context: Name of the context, of the cluster and of the user.
    """
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": address}}],
        "users": [{"name": context, "user": user if user is not None else {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
