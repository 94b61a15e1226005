"""The objects, in memory: made, read, listed and deleted as the real server does it."""

import base64
import copy
import datetime
import itertools
import json
import uuid
from collections.abc import Iterable
from typing import Any

from tests.integration.kubernetes_api.addresses import Resource, Target, resource_of
from tests.integration.kubernetes_api.schemas import check_body
from tests.integration.kubernetes_api.selectors import Facts, matches_fields, matches_labels
from tests.integration.kubernetes_api.status import Refusal

Query = dict[str, str]
_Key = tuple[str, str, str]


class Store:
    """All objects, by resource, namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[_Key, Facts] = {}
        self._versions = itertools.count(1)

    def put(self, facts: Facts, *, namespace: str = "") -> Facts:
        """Put an object there as it is, its status included, over one of the same name; a test's way in.

        Args:
            facts: The object; must be valid.
            namespace: Where, if the object does not say it.
        """
        resource = resource_of(facts)
        check_body(facts, resource)
        stored = copy.deepcopy(facts)
        if resource.is_namespaced:
            stored["metadata"].setdefault("namespace", namespace or "default")
        return self._keep(resource, stored)

    def put_all(self, objects: Iterable[Facts], *, namespace: str = "") -> None:
        """Put several objects there; those of kinds that this server does not have are left out."""
        for facts in objects:
            try:
                resource_of(facts)
            except KeyError:
                continue
            self.put(facts, namespace=namespace)

    def create(self, target: Target, body: Any) -> Facts:
        """Make an object."""
        check_body(body, target.resource)
        facts = copy.deepcopy(body)
        metadata = facts.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if not metadata.get("name"):
            raise _invalid(
                target, "", "metadata.name: Required value: name or generateName is required"
            )
        self._check_namespace(target, metadata)
        if self._key(target.resource, metadata) in self.objects:
            raise Refusal(
                "AlreadyExists", f'{target.resource.title} "{metadata["name"]}" already exists'
            )
        # What the cluster says of an object is not for its maker to say.
        facts.pop("status", None)
        return self._keep(target.resource, facts)

    def get(self, target: Target) -> Facts:
        """Return an object."""
        key = (
            target.resource.title,
            target.namespace if target.resource.is_namespaced else "",
            target.name,
        )
        if key not in self.objects:
            raise Refusal("NotFound", f'{target.resource.title} "{target.name}" not found')
        return self.objects[key]

    def delete(self, target: Target) -> Facts:
        """Delete an object; whatever it owned stays, since there is no garbage collector."""
        facts = self.get(target)
        del self.objects[self._key(target.resource, facts["metadata"])]
        details = {
            "name": target.name,
            "kind": target.resource.plural,
            "uid": facts["metadata"]["uid"],
        }
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }

    def list(self, target: Target, query: Query) -> Facts:
        """Return a page of those that the selectors choose, sorted by namespace and name."""
        chosen = [
            facts
            for (title, namespace, _), facts in sorted(self.objects.items())
            if title == target.resource.title
            and (not target.resource.is_namespaced or target.namespace in ("", namespace))
            and matches_labels(facts, query.get("labelSelector", ""))
            and matches_fields(facts, query.get("fieldSelector", ""))
        ]
        start, limit = _read_token(query.get("continue", "")), int(query.get("limit") or 0)
        end = start + limit if limit else len(chosen)
        page: Facts = {"resourceVersion": str(next(self._versions))}
        if end < len(chosen):
            page |= {"continue": _write_token(end), "remainingItemCount": len(chosen) - end}
        kind = f"{target.resource.kind}List"
        # Objects in a list do not say again what they are.
        items = [_without_type(facts) for facts in chosen[start:end]]
        return {
            "kind": kind,
            "apiVersion": target.resource.api_version,
            "metadata": page,
            "items": items,
        }

    def _keep(self, resource: Resource, facts: Facts) -> Facts:
        metadata = facts["metadata"]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now)
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[self._key(resource, metadata)] = facts
        return facts

    def _key(self, resource: Resource, metadata: Facts) -> _Key:
        return (
            resource.title,
            metadata.get("namespace", "") if resource.is_namespaced else "",
            metadata["name"],
        )

    def _check_namespace(self, target: Target, metadata: Facts) -> None:
        if not target.resource.is_namespaced:
            return
        if metadata.setdefault("namespace", target.namespace) != target.namespace:
            raise Refusal(
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            )
        if ("namespaces", "", target.namespace) not in self.objects:
            raise Refusal("NotFound", f'namespaces "{target.namespace}" not found')


def _invalid(target: Target, name: str, reason: str) -> Refusal:
    return Refusal("Invalid", f'{target.resource.kind} "{name}" is invalid: {reason}')


def _without_type(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if name not in ("kind", "apiVersion")}


def _write_token(offset: int) -> str:
    return base64.b64encode(json.dumps({"start": offset}).encode()).decode()


def _read_token(token: str) -> int:
    if not token:
        return 0
    try:
        return int(json.loads(base64.b64decode(token))["start"])
    except (ValueError, KeyError) as err:
        raise Refusal(
            "Expired",
            "The provided continue parameter is too old to display a consistent list result.",
        ) from err
