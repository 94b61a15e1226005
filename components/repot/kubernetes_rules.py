"""What Kubernetes takes as a quantity, a name, a node selector and a toleration; each problem is one sentence.

A server that gets something else refuses the pod, or makes one that never finds a node.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+(\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?", re.ASCII)
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_RESOURCE_NAME = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
)
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_TOLERATION_KEYS = ("key", "operator", "value", "effect", "tolerationSeconds")
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")


def quantity_problems(quantities: Mapping[str, str]) -> list[str]:
    """Return a sentence for every value, by its parameter, that is no quantity above zero."""
    return [
        f"{name} must be a Kubernetes quantity such as 4, 500m or 16Gi; got {name}={value!r}."
        for name, value in quantities.items()
        if (found := _QUANTITY.fullmatch(value)) is None or not float(found[1])
    ]


def name_problems(names: Mapping[str, str]) -> list[str]:
    """Return a sentence for every value, by its parameter, that no object can be called."""
    return [
        f"{name} must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.'; "
        f"got {name}={value!r}."
        for name, value in names.items()
        if not _DNS_NAME.fullmatch(value)
    ]


def resource_problems(name: str, resource: str) -> list[str]:
    """Return a sentence if a parameter is no extended resource, as accelerators are."""
    if _RESOURCE_NAME.fullmatch(resource):
        return []
    problem = (
        f"{name} must be a resource name such as nvidia.com/gpu; got {name}={resource!r}. The model of the GPU is a "
        'node label and goes into trainer_node_selector, e.g. {"cloud.google.com/gke-accelerator": "nvidia-l4"}.'
    )
    return [problem]


def selector_problems(name: str, selector: Mapping[str, Any]) -> list[str]:
    """Return a sentence for what is no label of a node, and for values that are no texts, such as JSON's true."""
    wrong = sorted(label for label, text in selector.items() if not isinstance(text, str))
    problems = [
        f"{name} must map labels to texts; got other values for {', '.join(wrong)}. Put them in quotes."
    ]
    return (problems if wrong else []) + [
        f"{name} must map labels of nodes to their values, e.g. cloud.google.com/gke-accelerator to nvidia-l4; "
        f"got {label!r}: {text!r}."
        for label, text in selector.items()
        if isinstance(text, str)
        and not (_LABEL_KEY.fullmatch(label) and _LABEL_VALUE.fullmatch(text))
    ]


def toleration_problems(name: str, tolerations: Sequence[Any]) -> list[str]:
    """Return a sentence for every toleration that is none."""
    return [
        f"{name}[{index}] must be an object of {', '.join(_TOLERATION_KEYS)}, with texts but for the last, an operator "
        f"Equal or Exists (without a value), and an effect of {', '.join(_EFFECTS[1:])} or none; got {toleration!r}."
        for index, toleration in enumerate(tolerations)
        if not _is_toleration(toleration)
    ]


def _is_toleration(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) - set(_TOLERATION_KEYS):
        return False
    if not all(isinstance(value.get(name, ""), str) for name in _TOLERATION_KEYS[:-1]):
        return False
    operator = value.get("operator", "Equal")
    is_matched = (
        bool(value.get("key"))
        if operator == "Equal"
        else operator == "Exists" and not value.get("value")
    )
    return is_matched and value.get("effect", "") in _EFFECTS
