"""Estimate pods, hours and money of a run, as ranges, with the assumptions behind them.

The ranges are wide because the speed of a pod is not known in advance. Nothing is measured: the
estimate uses neither the server nor the storage.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repot.kubernetes_rules import parse_quantity
from repot.planner.finished import GATE_ONLY
from repot.recipes import RECIPES
from repot.requested_run import RequestedRun
from repot.settings import (
    DatasetSettings,
    JobSettings,
    ParameterValues,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from repot.zoo import BACKBONES
from repot_pipelines.compiled import PipelineSpec
from repot_pipelines.estimate.prices import GpuPrice, Prices, Range

DEFAULT_NUM_PICTURES = 10_000
"""Assumed if the number of pictures is not known."""

_FORWARD_SPEED = 3.0  # a forward pass, relative to a training step

# Recipe auto; see `repot.trainer.auto`.
_AUTO_VIEWS = 3
_AUTO_EPOCHS: Range = (0.0, 16.0)  # not tried, or all of a trial and of the final training

# Pictures per second per CPU, Inception-v3.
_CPU_TRAINING: Range = (1.0, 4.0)
_CPU_SCORING: Range = (3.0, 12.0)
_CPU_BUILDING: Range = (30.0, 120.0)

# Seconds.
_START: Range = (20.0, 180.0)  # from the pod's creation to its first log line; node and image exist
_GPU_START: Range = (60.0, 480.0)  # the same if a GPU node has to boot and pull a large image
_HEAD: Range = (20.0, 240.0)  # the head's epochs on cached features
_IDLE: Range = (0.0, 600.0)  # until the autoscaler removes an empty GPU node


@dataclass(frozen=True, kw_only=True, slots=True)
class PodCount:
    """Pods of a run in which nothing is cached and every condition is true.

    Attributes:
        tasks: Pods of repot's tasks.
        drivers: Short pods that KFP adds.
    """

    tasks: int
    drivers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimated pods, time and cost of a run.

    Attributes:
        pods: Pods if nothing is cached, promotion included.
        hours: From start to end.
        accelerator_hours: Sum over all GPUs.
        money: In the currency of the prices.
        assumptions: What the estimate assumes, one sentence each.
    """

    pods: PodCount
    hours: Range
    accelerator_hours: Range
    money: Range
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunPlan:
    """The settings that decide time and cost, and the number of pictures of both splits."""

    run: RunSettings
    dataset: DatasetSettings
    training: TrainingSettings
    tasks: TaskSettings
    trainer: JobSettings
    num_pictures: int

    @property
    def num_gpus(self) -> int:
        return self.trainer.accelerator_count * self.trainer.num_workers

    @property
    def training_speed(self) -> float:
        return BACKBONES[self.training.backbone].training_speed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """One task: `num_pods` parallel pods, each busy for `seconds`."""

    seconds: Range
    cpu: float
    memory_gib: float
    num_pods: int = 1


def estimate_run(
    pipeline: PipelineSpec, values: ParameterValues, prices: Prices, *, num_pictures: int = 0
) -> Estimate:
    """Estimate a run in which nothing is cached.

    Args:
        pipeline: The pipeline spec.
        values: Every parameter value by name, defaults included.
        prices: The price table.
        num_pictures: Pictures of both splits together; 0 if unknown.
    """
    plan = _RunPlan(
        run=RunSettings.from_parameters(values),
        dataset=DatasetSettings.from_parameters(values),
        training=TrainingSettings.from_parameters(values),
        tasks=TaskSettings.from_parameters(values),
        trainer=JobSettings.from_parameters(values),
        num_pictures=num_pictures or DEFAULT_NUM_PICTURES,
    )
    gpus = _possible_gpus(plan.trainer, prices)
    training_seconds = _training_seconds(plan, gpus)
    cpu_stages = list(_cpu_stages(plan))
    trainer = _Stage(
        seconds=training_seconds,
        cpu=parse_quantity(plan.trainer.trainer_cpu),
        memory_gib=_gib(plan.trainer.trainer_memory),
        num_pods=plan.trainer.num_workers,
    )
    gpu_hours = _scale(_add(training_seconds, _IDLE), plan.num_gpus / 3600)
    gpu_money = (
        gpu_hours[0] * min((gpu.hour for gpu in gpus.values()), default=0.0),
        gpu_hours[1] * max((gpu.hour for gpu in gpus.values()), default=0.0),
    )
    return Estimate(
        # The first builder is no item of the loop.
        pods=count_pods(pipeline, num_items=plan.run.builder_pods - 1),
        hours=_scale(_add(training_seconds, *(stage.seconds for stage in cpu_stages)), 1 / 3600),
        accelerator_hours=gpu_hours,
        money=_add(gpu_money, *(_cost(stage, prices) for stage in (*cpu_stages, trainer))),
        assumptions=tuple(_assumptions(plan.trainer, prices, gpus, num_pictures)),
    )


def cost_of_run(
    request: RequestedRun, *, training_seconds: float, scoring_seconds: float, prices: Prices
) -> Range | None:
    """Return what training and scoring cost, from what their pods request and how long they worked.

    It is a range if the GPU model is unknown. The pods' start is not included, nor are the other
    tasks. None for a run without pods.
    """
    if request.trainer is None or request.evaluator is None:
        return None
    parts = []
    for pod, seconds in (
        (request.trainer, training_seconds),
        (request.evaluator, scoring_seconds),
    ):
        stage = _Stage(
            seconds=(seconds, seconds),
            cpu=parse_quantity(pod.cpu),
            memory_gib=_gib(pod.memory),
            num_pods=pod.num_pods,
        )
        selected = set(pod.node_selector.values())
        known = [gpu.hour for name, gpu in prices.accelerators.items() if name in selected]
        hourly = known or [gpu.hour for gpu in prices.accelerators.values()]
        gpu_hours = pod.num_pods * pod.num_accelerators * seconds / 3600
        parts += [_cost(stage, prices), (gpu_hours * min(hourly), gpu_hours * max(hourly))]
    return _add(*parts)


def count_pods(pipeline: PipelineSpec, *, num_items: int) -> PodCount:
    """Return the pods of a run that trains, whose loops all have `num_items` items."""
    inner = _count_pods(pipeline, pipeline["root"], num_items)
    return PodCount(tasks=inner.tasks, drivers=inner.drivers + 1)


def _count_pods(pipeline: PipelineSpec, component: dict[str, Any], num_items: int) -> PodCount:
    """Return the pods of a component that is a graph: a driver per task, and one more per loop."""
    tasks = drivers = 0
    for task in component["dag"]["tasks"].values():
        component_inside = pipeline["components"][task["componentRef"]["name"]]
        is_loop = "parameterIterator" in task or "artifactIterator" in task
        times = num_items if is_loop else 1
        is_skipped = task.get("triggerPolicy", {}).get("condition", "").endswith(f"'{GATE_ONLY}'")
        inner = (
            _count_pods(pipeline, component_inside, num_items)
            if "dag" in component_inside
            else PodCount(tasks=0 if is_skipped else 1, drivers=0)
        )
        tasks += times * inner.tasks
        drivers += times * (inner.drivers + 1) + is_loop
    return PodCount(tasks=tasks, drivers=drivers)


def _possible_gpus(trainer: JobSettings, prices: Prices) -> dict[str, GpuPrice]:
    """Return the GPU models that the node selector allows; the whole table if it names none."""
    if not trainer.accelerator_count:
        return {}
    selected = set(trainer.trainer_node_selector.values()) & set(prices.accelerators)
    return {
        name: gpu for name, gpu in prices.accelerators.items() if not selected or name in selected
    }


def _training_seconds(plan: _RunPlan, gpus: Mapping[str, GpuPrice]) -> Range:
    recipe = RECIPES[plan.training.recipe]
    epochs = (plan.training.epochs or recipe.epochs) if recipe.fine_tune else 0
    train_pictures = plan.num_pictures * (1 - _scored_fraction(plan))
    # Every picture runs forward once per view, and its features are stored.
    num_views = _AUTO_VIEWS if recipe.selects_itself else 1
    num_steps = train_pictures * (epochs + num_views / _FORWARD_SPEED)
    slow, fast = _pictures_per_second(plan, gpus)
    start = _GPU_START if gpus else _START
    seconds = _add((num_steps / fast, num_steps / slow), _HEAD, start)
    if recipe.selects_itself and plan.trainer.num_workers == 1:
        budget = plan.training.budget_seconds(has_gpu=bool(gpus))
        low, high = _scale(_AUTO_EPOCHS, train_pictures)
        return _add(seconds, (min(low / fast, budget), min(high / slow, budget)))
    return seconds


def _scored_fraction(plan: _RunPlan) -> float:
    return plan.dataset.validation_fraction + plan.dataset.test_fraction


def _pictures_per_second(plan: _RunPlan, gpus: Mapping[str, GpuPrice]) -> Range:
    """Return the training speed of all workers together."""
    if gpus:
        # Scaling to several GPUs is 70 % efficient at worst, but not slower than one GPU.
        slow = min(gpu.pictures_per_second[0] for gpu in gpus.values()) * max(
            plan.num_gpus * 0.7, 1
        )
        fast = max(gpu.pictures_per_second[1] for gpu in gpus.values()) * plan.num_gpus
    else:
        num_cpus = parse_quantity(plan.trainer.trainer_cpu) * plan.trainer.num_workers
        slow, fast = _scale(_CPU_TRAINING, num_cpus)
    return _scale((slow, fast), plan.training_speed)


def _cpu_stages(plan: _RunPlan) -> Iterator[_Stage]:
    """Yield the stages without a GPU; fetching the checkpoint is shorter than building shards."""
    tasks, num_pictures = plan.tasks, plan.num_pictures
    builder_cpu, builder_gib = parse_quantity(tasks.builder_cpu), _gib(tasks.builder_memory)
    slow, fast = _scale(_CPU_BUILDING, plan.run.builder_pods * builder_cpu)
    score_slow, score_fast = _scale(_CPU_SCORING, plan.training_speed)
    num_scored = num_pictures * _scored_fraction(plan)
    plan_seconds = _add(_START, (num_pictures / 10_000, num_pictures / 1000))
    task_cpu, task_gib = parse_quantity(tasks.task_cpu), _gib(tasks.task_memory)
    yield _Stage(seconds=plan_seconds, cpu=task_cpu, memory_gib=task_gib)
    yield _Stage(  # build the shards
        seconds=_add(_START, (num_pictures / fast, num_pictures / slow)),
        cpu=builder_cpu,
        memory_gib=builder_gib,
        num_pods=plan.run.builder_pods,
    )
    yield _Stage(  # evaluate: score this model and, for the gate, the champion
        seconds=_add(_START, (2 * num_scored / score_fast, 2 * num_scored / score_slow)),
        cpu=parse_quantity(tasks.evaluator_cpu),
        memory_gib=_gib(tasks.evaluator_memory),
    )


def _cost(stage: _Stage, prices: Prices) -> Range:
    hourly = stage.num_pods * (
        stage.cpu * prices.cpu_hour + stage.memory_gib * prices.memory_gib_hour
    )
    return _scale(stage.seconds, hourly / 3600)


def _assumptions(
    trainer: JobSettings, prices: Prices, gpus: Mapping[str, GpuPrice], num_pictures: int
) -> Iterator[str]:
    yield (
        f"{num_pictures:,} pictures, from --num-pictures."
        if num_pictures
        else f"{DEFAULT_NUM_PICTURES:,} pictures; set --num-pictures to the real number."
    )
    if len(gpus) == 1:
        yield f"One GPU model: {next(iter(gpus))}, {trainer.accelerator_count} per worker."
    elif gpus:
        names = sorted(gpus, key=lambda name: gpus[name].hour)
        yield (
            f"Any GPU from {names[0]} to {names[-1]}: "
            "the node selector names none of the price table."
        )
    else:
        yield "No GPU: the trainer uses its CPUs."
    yield (
        "Nothing is cached. With the pictures and settings of an earlier run it takes minutes, "
        "without a trainer pod."
    )
    if gpus:
        yield (
            "A GPU node boots for the trainer and is billed until it is removed, "
            "at most ten minutes after it becomes idle."
        )
    yield (
        f"Prices: {prices.source} ({prices.currency}). "
        "Storage, network and the cluster itself are not included."
    )


def _gib(quantity: str) -> float:
    return parse_quantity(quantity) / 2**30


def _add(*ranges: Range) -> Range:
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def _scale(range_: Range, factor: float) -> Range:
    return range_[0] * factor, range_[1] * factor
