"""Checks an object against the OpenAPI schema that Kubernetes publishes, as strictly as `kubectl --validate=strict`."""

from typing import Any

import kubernetes_validate

from tests.integration.kubernetes_api.addresses import Resource
from tests.integration.kubernetes_api.status import Refusal

VERSION = "1.36"


def check_body(facts: Any, resource: Resource) -> None:
    """Refuse what is no object of that kind: 400 for what cannot be decoded, 422 for what is not valid."""
    if not isinstance(facts, dict):
        raise Refusal(
            "BadRequest",
            f"couldn't get version/kind; json parse error: expected an object, got {facts!r}",
        )
    given = (facts.get("apiVersion"), facts.get("kind"))
    if given != (resource.api_version, resource.kind):
        raise Refusal(
            "BadRequest",
            f"the object provided is unrecognized (must be of type {resource.kind}): got {given}",
        )
    try:
        kubernetes_validate.validate(facts, VERSION, strict=True)
    except kubernetes_validate.ValidationError as err:
        at = ".".join(map(str, err.path))
        if "required property" in err.message:
            name = (facts.get("metadata") or {}).get("name", "")
            raise Refusal(
                "Invalid", f'{resource.kind} "{name}" is invalid: {at}: {err.message}'
            ) from err
        raise Refusal("BadRequest", f"strict decoding error: {at}: {err.message}") from err
