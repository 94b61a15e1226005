"""Where and how a training computes: its tf.distribute strategy, precision and compiler."""

import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from repot.errors import StoppedError
from repot.settings import TrainingSettings

STEPS_PER_CALL = 16
"""Steps that a GPU takes before the host looks at the results.

A GPU waits for the host after each call. A step on a CPU takes so long that this does not matter,
and a training that is asked to stop finishes its call first.
"""

_BFLOAT16_CAPABILITY = (8, 0)  # Ampere
_FLOAT16_CAPABILITY = (7, 0)  # Volta, the first with tensor cores


def has_gpu() -> bool:
    """Return whether a training computes on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def choose_strategy() -> Any:
    """Return the tf.distribute.Strategy for the available devices.

    That is all GPUs of all workers if TF_CONFIG lists several workers, else all GPUs of this
    machine, else the default strategy. Call it before any other TensorFlow operation.
    """
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    return tf.distribute.MirroredStrategy() if num_gpus > 1 else tf.distribute.get_strategy()


@dataclass(frozen=True, kw_only=True, slots=True)
class Computation:
    """How a device computes training steps.

    Attributes:
        precision: What layers compute in: float32, bfloat16 or float16. Weights are float32.
        uses_xla: Whether XLA compiles the steps.
        num_parts: Parts of a batch that are computed one after the other; more need less memory.
        steps_per_call: Most steps that the device takes before the host looks at the results.
    """

    precision: str = "float32"
    uses_xla: bool = False
    num_parts: int = 1
    steps_per_call: int = 1


FLOAT32 = Computation()
"""As a CPU computes."""


def choose_computation(settings: TrainingSettings, strategy: Any) -> Computation:
    """Return how the available devices compute, as the settings say or as suits them.

    Mixed precision needs tensor cores to be faster. On a CPU, XLA takes minutes to compile a
    network (docs/performance.md); with several replicas or deterministic operations, TensorFlow
    does not support it for every operation (keras/src/trainers/trainer.py).
    """
    gpus = tf.config.list_physical_devices("GPU")
    is_single_gpu = len(gpus) == 1 and strategy.num_replicas_in_sync == 1
    return Computation(
        precision=(_best_precision(gpus) if settings.precision == "auto" else settings.precision),
        uses_xla=(
            is_single_gpu and not settings.deterministic
            if settings.xla == "auto"
            else settings.xla == "on"
        ),
        num_parts=settings.gradient_accumulation,
        steps_per_call=STEPS_PER_CALL if gpus else 1,
    )


def _best_precision(gpus: Sequence[Any]) -> str:
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    lowest = min(capabilities, default=(0, 0))
    if lowest >= _BFLOAT16_CAPABILITY:
        return "bfloat16"
    return "float16" if lowest >= _FLOAT16_CAPABILITY else "float32"


def make_deterministic(*, on_gpu: bool = False) -> None:
    """Make equal steps give bit-identical results, on a CPU always, on a GPU if asked to.

    Nothing is seeded here. Any library in the process may draw from the generators of Python,
    NumPy, Keras and TensorFlow, so training does not: every layer, order and distortion has its
    own seed, derived from the settings. TensorFlow rejects an operation without a seed.

    TensorFlow's graph optimizer turns chains of additions into one AddN, whose order of terms
    depends on timing (`repot.trainer.step`), so it must leave arithmetic as it is.

    On a GPU, some gradients have no deterministic kernel, and TensorFlow refuses to run them
    (`tf.config.experimental.enable_op_determinism`); the others are slower.
    """
    if on_gpu or not has_gpu():
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def is_chief(strategy: Any) -> bool:
    """Return whether this process writes the results: the only worker, or the first of several."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0))


def worker_index_and_count(strategy: Any) -> tuple[int, int]:
    """Return the index of this worker, from 0, and the number of workers."""
    if not _has_several_workers(strategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    tasks = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def local_replicas(strategy: Any) -> int:
    """Return the number of replicas of this worker, such as its GPUs."""
    return strategy.num_replicas_in_sync // worker_index_and_count(strategy)[1]  # type: ignore[no-any-return]


def run_on_replicas(strategy: Any, function: Callable[[Any], Any], values: Any) -> Any:
    """Return a function of a batch, of which each replica of this worker computes its part.

    Call it in a compiled function. Workers do not wait for each other.

    Args:
        strategy: tf.distribute.Strategy.
        function: [n, ...] -> [n, ...]; a result must depend on its own row only.
        values: [batch, ...]. Zeros are added if it is not a multiple of the number of replicas.
    """
    num_replicas = local_replicas(strategy)
    if num_replicas == 1:
        return function(values)
    size = -(-tf.shape(values)[0] // num_replicas)
    padding = [[0, num_replicas * size - tf.shape(values)[0]]] + [[0, 0]] * (values.shape.rank - 1)
    padded = tf.pad(values, padding)

    def of_replica() -> Any:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group % num_replicas
        part = padded[replica * size : (replica + 1) * size]
        return function(tf.ensure_shape(part, [None, *values.shape[1:]]))

    results = strategy.experimental_local_results(strategy.run(of_replica))
    return tf.concat(results, axis=0)[: tf.shape(values)[0]]


def worker_share(strategy: Any, number: int) -> slice:
    """Return this worker's share of a number of things: neighbours, as many as others have."""
    worker, num_workers = worker_index_and_count(strategy)
    return slice(number * worker // num_workers, number * (worker + 1) // num_workers)


def gather_rows(strategy: Any, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rows of all workers, in their order, once every worker has called this.

    Args:
        strategy: tf.distribute.Strategy.
        rows: float64 [n, columns], of this worker; others may have more or fewer.
    """
    if not _has_several_workers(strategy):
        return rows
    num_replicas = local_replicas(strategy)

    @tf.function  # type: ignore[untyped-decorator]
    def gather(values: Any) -> Any:
        def of_replica() -> Any:
            # The first replica of each worker has its rows, the others have none.
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            is_first = tf.equal(replica % num_replicas, 0)
            return values[: tf.where(is_first, tf.shape(values)[0], 0)]

        return strategy.gather(strategy.run(of_replica), axis=0)

    gathered: npt.NDArray[np.float64] = gather(tf.constant(rows, tf.float64)).numpy()
    return gathered


def value_of_chief(strategy: Any, value: float) -> float:
    """Return the first worker's value, once every worker has called this.

    What workers compute alike may differ in the last bits where their processors do, and nothing
    that all of them decide may depend on it.
    """
    return float(gather_rows(strategy, np.array([[value]]))[0, 0])


def any_worker(strategy: Any, *, is_true: bool) -> bool:
    """Return, once every worker has called this, whether it is true on one of them."""
    if not _has_several_workers(strategy):
        return is_true
    return _sum_over_replicas(strategy, int(is_true)) > 0


def check_same_state(strategy: Any, file_name: str) -> None:
    """Check that all workers start from the same saved state; no later step would notice.

    Args:
        strategy: tf.distribute.Strategy of the training.
        file_name: File of the state that this worker loaded; "" if there was none.

    Raises:
        StoppedError: Another worker loaded a different state: one read it while it was written.
    """
    if not _has_several_workers(strategy):
        return
    # 12 bits, because the sum is float32, which is exact for integers only up to 2^24.
    checksum = zlib.crc32(file_name.encode()) % 2**12
    if _sum_over_replicas(strategy, checksum) != strategy.num_replicas_in_sync * checksum:
        raise StoppedError(
            "All workers must begin with the same state; this one loaded "
            f"{file_name or 'none'!r}, another one a different state. Start all of them again."
        )


def measure_exchange(strategy: Any, num_values: int) -> float:
    """Return the seconds that all replicas take to add up float32 values, such as gradients.

    Every worker must call this.
    """
    if strategy.num_replicas_in_sync == 1:
        return 0.0

    @tf.function  # type: ignore[untyped-decorator]
    def exchange(values: Any) -> Any:
        sums = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: values), axis=None)
        return sums[0]

    values = tf.zeros([num_values])
    exchange(values)
    started = time.monotonic()
    float(exchange(values))
    return time.monotonic() - started


def wait_for_all(strategy: Any) -> None:
    """Return once every worker has called this; a worker that exits early would stop the others."""
    if _has_several_workers(strategy):
        _sum_over_replicas(strategy, 1)


def _has_several_workers(strategy: Any) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _sum_over_replicas(strategy: Any, number: int) -> float:
    total = tf.function(
        lambda value: strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(lambda: value), axis=None
        )
    )
    return float(total(tf.constant(float(number))))
