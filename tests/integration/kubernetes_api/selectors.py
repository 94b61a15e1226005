"""Label and field selectors of list requests."""

import re

from repot.kubernetes_rules import KubernetesObject
from tests.integration.kubernetes_api.status import ApiError

_FIELDS = {
    "metadata.name": lambda stored: stored["metadata"].get("name", ""),
    "metadata.namespace": lambda stored: stored["metadata"].get("namespace", ""),
    "spec.nodeName": lambda stored: (stored.get("spec") or {}).get("nodeName", ""),
    "status.phase": lambda stored: (stored.get("status") or {}).get("phase", ""),
    "involvedObject.kind": lambda stored: (stored.get("involvedObject") or {}).get("kind", ""),
    "involvedObject.name": lambda stored: (stored.get("involvedObject") or {}).get("name", ""),
}
_TERM = re.compile(r"\s*(?P<key>[^=!]+?)\s*(?P<operator>==|=|!=)\s*(?P<value>[^=!]*?)\s*")
_SET = re.compile(r"\s*(?P<key>\S+)\s+(?P<operator>in|notin)\s+\((?P<values>[^)]*)\)\s*")


def matches_fields(stored: KubernetesObject, selector: str) -> bool:
    """Return whether an object matches a field selector."""
    for text in filter(None, selector.split(",")):
        term = _TERM.fullmatch(text)
        if term is None or term["key"] not in _FIELDS:
            raise ApiError("BadRequest", f"field label not supported: {text}")
        if (_FIELDS[term["key"]](stored) == term["value"]) == (term["operator"] == "!="):
            return False
    return True


def matches_labels(stored: KubernetesObject, selector: str) -> bool:
    """Return whether an object matches a label selector."""
    labels = stored["metadata"].get("labels") or {}
    # A comma inside parentheses does not separate terms.
    return all(
        _has_label(labels, text.strip())
        for text in re.split(r",(?![^(]*\))", selector)
        if text.strip()
    )


def _has_label(labels: dict[str, str], text: str) -> bool:
    if term := _SET.fullmatch(text):
        values = [value.strip() for value in term["values"].split(",")]
        return (labels.get(term["key"]) in values) == (term["operator"] == "in")
    if term := _TERM.fullmatch(text):
        return (labels.get(term["key"]) == term["value"]) == (term["operator"] != "!=")
    return text.removeprefix("!") not in labels if text.startswith("!") else text in labels
