"""The objects, in memory: created, read, listed and deleted as in the real server."""

import base64
import copy
import datetime
import itertools
import json
import uuid
from collections.abc import Iterable
from typing import Any

from repot.kubernetes_rules import KubernetesObject
from tests.integration.kubernetes_api.resources import Resource, Target, resource_of
from tests.integration.kubernetes_api.schemas import check_body
from tests.integration.kubernetes_api.selectors import matches_fields, matches_labels
from tests.integration.kubernetes_api.status import ApiError

Query = dict[str, str]
_Key = tuple[str, str, str]


class Store:
    """All objects, by resource, namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[_Key, KubernetesObject] = {}
        self._versions = itertools.count(1)

    def put(self, body: KubernetesObject, *, namespace: str = "") -> KubernetesObject:
        """Store or replace an object as it is, including its status.

        Args:
            body: The object; must be valid.
            namespace: Namespace if the object has none.
        """
        resource = resource_of(body)
        check_body(body, resource)
        stored = copy.deepcopy(body)
        if resource.is_namespaced:
            stored["metadata"].setdefault("namespace", namespace or "default")
        return self._keep(resource, stored)

    def put_all(self, objects: Iterable[KubernetesObject], *, namespace: str = "") -> None:
        """Store several objects; those of resources that this server does not have are left out."""
        for each in objects:
            try:
                resource_of(each)
            except KeyError:
                continue
            self.put(each, namespace=namespace)

    def create(self, target: Target, body: Any) -> KubernetesObject:
        """Create an object."""
        check_body(body, target.resource)
        stored = copy.deepcopy(body)
        metadata = stored.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if not metadata.get("name"):
            raise _invalid(
                target, "", "metadata.name: Required value: name or generateName is required"
            )
        self._check_namespace(target, metadata)
        if self._key(target.resource, metadata) in self.objects:
            raise ApiError(
                "AlreadyExists", f'{target.resource.title} "{metadata["name"]}" already exists'
            )
        # Only the cluster sets the status.
        stored.pop("status", None)
        return self._keep(target.resource, stored)

    def get(self, target: Target) -> KubernetesObject:
        """Return an object."""
        key = (
            target.resource.title,
            target.namespace if target.resource.is_namespaced else "",
            target.name,
        )
        if key not in self.objects:
            raise ApiError("NotFound", f'{target.resource.title} "{target.name}" not found')
        return self.objects[key]

    def update(self, target: Target, body: Any) -> KubernetesObject:
        """Replace an object, unless it has changed since the version in `body`."""
        check_body(body, target.resource)
        before = self.get(target)["metadata"]
        if (
            body["metadata"].get("resourceVersion", before["resourceVersion"])
            != (before["resourceVersion"])
        ):
            message = (
                "the object has been modified; please apply your changes to the latest version"
            )
            raise ApiError("Conflict", f'{target.resource.title} "{target.name}": {message}')
        stored = copy.deepcopy(body)
        stored["metadata"] = {**before, **stored["metadata"]}
        return self._keep(target.resource, stored)

    def delete(self, target: Target) -> KubernetesObject:
        """Delete an object; objects that it owns are kept: there is no garbage collector."""
        stored = self.get(target)
        del self.objects[self._key(target.resource, stored["metadata"])]
        details = {
            "name": target.name,
            "kind": target.resource.plural,
            "uid": stored["metadata"]["uid"],
        }
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }

    def list(self, target: Target, query: Query) -> KubernetesObject:
        """Return a page of the objects that match the selectors, sorted by namespace and name."""
        matching = [
            stored
            for (title, namespace, _), stored in sorted(self.objects.items())
            if title == target.resource.title
            and (not target.resource.is_namespaced or target.namespace in ("", namespace))
            and matches_labels(stored, query.get("labelSelector", ""))
            and matches_fields(stored, query.get("fieldSelector", ""))
        ]
        start, limit = _read_token(query.get("continue", "")), int(query.get("limit") or 0)
        end = start + limit if limit else len(matching)
        page: KubernetesObject = {"resourceVersion": str(next(self._versions))}
        if end < len(matching):
            page |= {"continue": _write_token(end), "remainingItemCount": len(matching) - end}
        kind = f"{target.resource.kind}List"
        # Objects in a list have no kind and no apiVersion of their own.
        items = [_without_type(stored) for stored in matching[start:end]]
        return {
            "kind": kind,
            "apiVersion": target.resource.api_version,
            "metadata": page,
            "items": items,
        }

    def _keep(self, resource: Resource, stored: KubernetesObject) -> KubernetesObject:
        metadata = stored["metadata"]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now)
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[self._key(resource, metadata)] = stored
        return stored

    def _key(self, resource: Resource, metadata: KubernetesObject) -> _Key:
        return (
            resource.title,
            metadata.get("namespace", "") if resource.is_namespaced else "",
            metadata["name"],
        )

    def _check_namespace(self, target: Target, metadata: KubernetesObject) -> None:
        if not target.resource.is_namespaced:
            return
        if metadata.setdefault("namespace", target.namespace) != target.namespace:
            raise ApiError(
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the "
                "request",
            )
        if ("namespaces", "", target.namespace) not in self.objects:
            raise ApiError("NotFound", f'namespaces "{target.namespace}" not found')


def _invalid(target: Target, name: str, reason: str) -> ApiError:
    return ApiError("Invalid", f'{target.resource.kind} "{name}" is invalid: {reason}')


def _without_type(stored: KubernetesObject) -> KubernetesObject:
    return {name: value for name, value in stored.items() if name not in ("kind", "apiVersion")}


def _write_token(offset: int) -> str:
    return base64.b64encode(json.dumps({"start": offset}).encode()).decode()


def _read_token(token: str) -> int:
    if not token:
        return 0
    try:
        return int(json.loads(base64.b64decode(token))["start"])
    except (ValueError, KeyError) as err:
        raise ApiError(
            "Expired",
            "The provided continue parameter is too old to display a consistent list result.",
        ) from err
