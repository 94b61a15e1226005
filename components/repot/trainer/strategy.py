"""Which devices and workers train together, and which worker writes the results."""

import json
import os
import zlib
from typing import Any

import keras
import tensorflow as tf

from repot.errors import StoppedError
from repot.trainer.state import TrainingState


def choose_strategy() -> Any:
    """Return the tf.distribute.Strategy for what there is; to be called before anything else is done with TensorFlow.

    Several workers where TF_CONFIG names them, each with all of its GPUs; else every GPU of this machine; else the
    default strategy.
    """
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    return tf.distribute.MirroredStrategy() if num_gpus > 1 else tf.distribute.get_strategy()


def is_chief(strategy: Any) -> bool:
    """Return whether this process is the one that writes: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0))


def wait_for_all(strategy: Any) -> None:
    """Return when every worker has called this: the first to leave would take the others with it."""
    if _has_workers(strategy):
        _sum_over_replicas(strategy, 1)


def check_same_start(strategy: Any, state: TrainingState) -> None:
    """Refuse to begin where the workers have not all read the same state: nothing else would notice.

    Raises:
        StoppedError: Another worker begins elsewhere: the state was still being written when one of them read it.
    """
    if not _has_workers(strategy):
        return
    here = (
        zlib.crc32(state.file_name.encode()) % 2**12
    )  # float32 adds whole numbers exactly up to 2^24
    if _sum_over_replicas(strategy, here) != strategy.num_replicas_in_sync * here:
        raise StoppedError(
            f"All workers must begin with the same state; this one read {state.file_name or 'none'!r}, another one "
            "something else. Start all of them again."
        )


def _sum_over_replicas(strategy: Any, number: int) -> float:
    total = tf.function(
        lambda value: strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(lambda: value), axis=None
        )
    )
    return float(total(tf.constant(float(number))))


def _has_workers(strategy: Any) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def make_repeatable(seed: int) -> None:
    """Seed everything random; on a CPU also see to it that the same steps give the same bits.

    A GPU is left alone: some of its gradients have no deterministic kernel, and TensorFlow then refuses to run them
    (`tf.config.experimental.enable_op_determinism`).
    """
    keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
