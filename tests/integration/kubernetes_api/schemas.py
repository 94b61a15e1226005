"""Checks objects against the published OpenAPI schemas, like `kubectl --validate=strict`."""

from typing import Any

import kubernetes_validate

from tests.integration.kubernetes_api.resources import Resource
from tests.integration.kubernetes_api.status import ApiError

VERSION = "1.36"


def check_body(body: Any, resource: Resource) -> None:
    """Raise 400 for a body that is not an object of this resource, 422 for a missing field."""
    if not isinstance(body, dict):
        raise ApiError(
            "BadRequest",
            f"couldn't get version/kind; json parse error: expected an object, got {body!r}",
        )
    found = (body.get("apiVersion"), body.get("kind"))
    if found != (resource.api_version, resource.kind):
        raise ApiError(
            "BadRequest",
            f"the object provided is unrecognized (must be of type {resource.kind}): got {found}",
        )
    try:
        kubernetes_validate.validate(body, VERSION, strict=True)
    except kubernetes_validate.ValidationError as err:
        path = ".".join(map(str, err.path))
        if "required property" in err.message:
            name = (body.get("metadata") or {}).get("name", "")
            raise ApiError(
                "Invalid", f'{resource.kind} "{name}" is invalid: {path}: {err.message}'
            ) from err
        raise ApiError("BadRequest", f"strict decoding error: {path}: {err.message}") from err
