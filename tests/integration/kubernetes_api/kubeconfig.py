"""Kubeconfig files for the server."""

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
    """Write a kubeconfig with one context, which is the current one.

    Args:
        path: The file.
        address: Of the API server.
        token: Bearer token.
        user: What is said of the user instead of a token, e.g. `{"exec": {...}}`.
        context: Name of the context, the cluster and the user.
    """
    facts = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": address}}],
        "users": [{"name": context, "user": user if user is not None else {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    }
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")
    return path
