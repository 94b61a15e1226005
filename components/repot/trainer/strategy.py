"""The tf.distribute strategy of a training, and what its workers agree on."""

import json
import os
import zlib
from typing import Any

import tensorflow as tf

from repot.errors import StoppedError


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


def make_deterministic() -> None:
    """On a CPU, make equal steps give bit-identical results.

    Nothing is seeded here. Any library in the process may draw from the generators of Python,
    NumPy, Keras and TensorFlow, so training does not: every layer, order and distortion has its
    own seed, derived from the settings. TensorFlow rejects an operation without a seed.

    On a GPU, some gradients have no deterministic kernel, and TensorFlow would refuse to run them
    (`tf.config.experimental.enable_op_determinism`).
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


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
