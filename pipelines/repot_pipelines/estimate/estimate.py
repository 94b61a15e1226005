"""What a run will take, before it is started: pods, hours and money, as ranges, with everything that they assume.

The ranges are wide because the speed of a pod is not known beforehand. Nobody is asked: neither the server nor the
storage.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repot.recipes import RECIPES
from repot_pipelines.estimate.prices import Accelerator, Prices, Range


@dataclass(frozen=True, kw_only=True, slots=True)
class PodCount:
    """Pods of a run in which nothing is cached and every condition holds.

    Attributes:
        working: Those of the tasks.
        drivers: Those of KFP.
    """

    working: int
    drivers: int


UNKNOWN_PICTURES = 10_000
"""Pictures that are assumed where nobody says how many there are."""

_SPEED = {  # whole network, against Inception-v3 at 299 x 299
    "inception_v3": 1.0,
    "resnet50_v2": 1.5,
    "xception": 0.7,
    "convnext_tiny": 1.0,
    "inception_resnet_v2": 0.45,
}
_SMALL_SPEED = 3.0  # every other backbone is a small one
_FORWARD_SPEED = 3.0  # a picture's features alone, against a training step
_CPU_TRAINING: Range = (1.0, 4.0)  # pictures a second and CPU, Inception-v3
_CPU_SCORING: Range = (3.0, 12.0)
_CPU_BUILDING: Range = (30.0, 120.0)
_START: Range = (
    20.0,
    180.0,
)  # seconds from asking for a pod to its first line, image and node at hand
_GPU_START: Range = (60.0, 480.0)  # the same where a GPU node is booted and a large image pulled
_HEAD: Range = (20.0, 240.0)  # seconds for the head's epochs on cached features
_IDLE: Range = (0.0, 600.0)  # seconds until the autoscaler takes an empty GPU node away
_BINARY = {
    "k": 1e3,
    "Ki": 2**10,
    "M": 1e6,
    "Mi": 2**20,
    "G": 1e9,
    "Gi": 2**30,
    "T": 1e12,
    "Ti": 2**40,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run will take.

    Attributes:
        pods: When nothing is cached, promotion included.
        hours: From start to end.
        accelerator_hours: Of all GPUs together.
        money: In the currency of the prices.
        assumptions: Sentences.
    """

    pods: PodCount
    hours: Range
    accelerator_hours: Range
    money: Range
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """One task: `num_pods` at once, each busy for `seconds`, with so many CPUs and so much memory."""

    seconds: Range
    cpu: float
    memory_gib: float
    num_pods: int = 1


def estimate_run(
    pipeline: dict[str, Any], values: Mapping[str, Any], prices: Prices, *, num_pictures: int = 0
) -> Estimate:
    """Estimate a run in which nothing is cached.

    Args:
        pipeline: The pipeline spec.
        values: Every parameter by name, defaults included.
        prices: The table of prices.
        num_pictures: Pictures of both splits together; 0 where nobody knows.
    """
    pictures = num_pictures or UNKNOWN_PICTURES
    models = _models(values, prices)
    num_workers = int(values["num_workers"])
    count = int(values["accelerator_count"]) * num_workers
    training = _training_seconds(values, models, pictures)
    stages = list(_cpu_stages(values, pictures))
    trainer = _Stage(
        seconds=training,
        cpu=_cpu(values["trainer_cpu"]),
        memory_gib=_gib(values["trainer_memory"]),
        num_pods=num_workers,
    )
    gpu_hours = _scale(_add(training, _IDLE), count / 3600)
    gpu_money = (
        gpu_hours[0] * min((model.hour for model in models.values()), default=0.0),
        gpu_hours[1] * max((model.hour for model in models.values()), default=0.0),
    )
    pods = count_pods(pipeline, num_items=int(values["builder_pods"]))
    return Estimate(
        pods=pods,
        hours=_scale(_add(training, *(stage.seconds for stage in stages)), 1 / 3600),
        accelerator_hours=gpu_hours,
        money=_add(gpu_money, *(_cost(stage, prices) for stage in (*stages, trainer))),
        assumptions=tuple(_assumptions(values, prices, models, num_pictures)),
    )


def _models(values: Mapping[str, Any], prices: Prices) -> dict[str, Accelerator]:
    """Return the GPUs that the node selector leaves; all of the table where it names none of them."""
    if not int(values["accelerator_count"]):
        return {}
    chosen = set(values["trainer_node_selector"].values()) & set(prices.accelerators)
    return {
        name: model for name, model in prices.accelerators.items() if not chosen or name in chosen
    }


def _training_seconds(
    values: Mapping[str, Any], models: Mapping[str, Accelerator], pictures: int
) -> Range:
    recipe = RECIPES[values["recipe"]]
    epochs = (int(values["epochs"]) or recipe.epochs) if recipe.fine_tune else 0
    train_pictures = pictures * (1 - values["validation_fraction"])
    # A picture of the head's phase is seen once, forward only; its features are kept.
    num_images = train_pictures * (epochs + 1 / _FORWARD_SPEED)
    slow, fast = _images_per_second(values, models)
    start = _GPU_START if models else _START
    return _add((num_images / fast, num_images / slow), _HEAD, start)


def _images_per_second(values: Mapping[str, Any], models: Mapping[str, Accelerator]) -> Range:
    num_workers = int(values["num_workers"])
    if models:
        count = int(values["accelerator_count"]) * num_workers
        slow = min(model.images_per_second[0] for model in models.values())
        fast = max(model.images_per_second[1] for model in models.values()) * count
        slow *= max(count * 0.7, 1)
    else:
        slow, fast = _scale(_CPU_TRAINING, _cpu(values["trainer_cpu"]) * num_workers)
    return _scale((slow, fast), _speed(values))


def _cpu_stages(values: Mapping[str, Any], pictures: int) -> Iterator[_Stage]:
    num_builders = int(values["builder_pods"])
    builder_cpu, builder_gib = _cpu(values["builder_cpu"]), _gib(values["builder_memory"])
    validation = pictures * values["validation_fraction"]
    slow, fast = _scale(_CPU_BUILDING, num_builders * builder_cpu)
    score_slow, score_fast = _scale(_CPU_SCORING, _speed(values))
    yield _Stage(
        seconds=_add(_START, (pictures / 10_000, pictures / 1000)), cpu=1, memory_gib=2
    )  # plan
    yield _Stage(
        seconds=_add(_START, (pictures / fast, pictures / slow)),
        cpu=builder_cpu,
        memory_gib=builder_gib,
        num_pods=num_builders,
    )
    yield _Stage(
        seconds=_START, cpu=builder_cpu, memory_gib=builder_gib
    )  # merge; the checkpoint is fetched meanwhile
    for _ in ("evaluate", "gate"):
        yield _Stage(
            seconds=_add(_START, (validation / score_fast, validation / score_slow)),
            cpu=_cpu(values["evaluator_cpu"]),
            memory_gib=_gib(values["evaluator_memory"]),
        )
    yield _Stage(seconds=_START, cpu=1, memory_gib=2)  # promote


def _cost(stage: _Stage, prices: Prices) -> Range:
    an_hour = stage.num_pods * (
        stage.cpu * prices.cpu_hour + stage.memory_gib * prices.memory_gib_hour
    )
    return _scale(stage.seconds, an_hour / 3600)


def _assumptions(
    values: Mapping[str, Any], prices: Prices, models: Mapping[str, Accelerator], num_pictures: int
) -> Iterator[str]:
    yield (
        f"{num_pictures} pictures, as you say."
        if num_pictures
        else f"{UNKNOWN_PICTURES} pictures, because nobody counted them: give --num-pictures."
    )
    if len(models) == 1:
        yield f"One GPU model: {next(iter(models))}, {values['accelerator_count']} of it."
    elif models:
        names = sorted(models, key=lambda name: models[name].hour)
        yield f"Any GPU from {names[0]} to {names[-1]}: the node selector names none of the table."
    else:
        yield "No GPU: the trainer works on its CPUs."
    yield "Nothing is cached. With the pictures and settings of an earlier run it is minutes, and no trainer pod."
    if models:
        yield "A GPU node boots for the trainer and is billed until it is taken away, ten minutes idle at most."
    yield f"Prices: {prices.source} ({prices.currency}). Storage, network and the cluster itself are not counted."


def _speed(values: Mapping[str, Any]) -> float:
    return _SPEED.get(values["backbone"], _SMALL_SPEED)


def _cpu(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def _gib(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", quantity).groups()  # type: ignore[union-attr]  # checked before
    return float(number) * _BINARY.get(unit, 1) / 2**30


def _add(*ranges: Range) -> Range:
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def _scale(range_: Range, factor: float) -> Range:
    return range_[0] * factor, range_[1] * factor


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
        inside = (
            _count(pipeline, inner, num_items) if "dag" in inner else PodCount(working=1, drivers=0)
        )
        working += times * inside.working
        drivers += times * (inside.drivers + 1) + is_loop
    return PodCount(working=working, drivers=drivers)
