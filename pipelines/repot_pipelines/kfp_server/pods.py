"""How many pods KFP starts for a pipeline: most of them are its own drivers, which end within seconds.

A task is two pods, a driver and itself; a condition has one driver, and so have a loop and every pass of it.
Source: backend/src/v2/compiler/argocompiler of KFP 2.14 to 2.17.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class PodCount:
    """Pods of a run in which nothing is cached and every condition holds.

    Attributes:
        working: Those of the tasks.
        drivers: Those of KFP.
    """

    working: int
    drivers: int


def count_pods(pipeline: dict[str, Any], *, num_items: int) -> PodCount:
    """Return the pods of a pipeline spec whose loops all have `num_items` items."""
    inside = _count(pipeline, pipeline["root"], num_items)
    return PodCount(working=inside.working, drivers=inside.drivers + 1)


def _count(pipeline: dict[str, Any], component: dict[str, Any], num_items: int) -> PodCount:
    working = drivers = 0
    for task in component["dag"]["tasks"].values():
        inner = pipeline["components"][task["componentRef"]["name"]]
        is_loop = "parameterIterator" in task or "artifactIterator" in task
        times = num_items if is_loop else 1
        inside = _count(pipeline, inner, num_items) if "dag" in inner else PodCount(working=1, drivers=0)
        working += times * inside.working
        drivers += times * (inside.drivers + 1) + is_loop
    return PodCount(working=working, drivers=drivers)
