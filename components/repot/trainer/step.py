"""Training steps and the scoring of a split, under any tf.distribute strategy.

`Model.fit` does not work under MultiWorkerMirroredStrategy (Keras issue 20585), so training uses a
custom step.
A batch is (inputs, labels, mask), see `repot.trainer.batches`.

Features are read in another way than pictures: the compiled loop over steps gathers each batch from
the table by itself, because a step of a head takes less time than to get a batch from tf.data. The
batches are the same.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from repot.trainer.batches import FeatureTable, RowBatches, ShareOfBatches, batch_labels
from repot.trainer.optimizer import WeightAverage
from repot.trainer.position import Sums
from repot.trainer.strategy import FLOAT32, Computation

LABEL_SMOOTHING = 0.1
"""Source: research/inception, inception_model.py:loss; counts the background among the classes."""

MAX_DEVICE_TABLE_BYTES = 2**30
"""Size up to which a table of features is copied to a GPU; it gets a larger one batch by batch."""

_ALIGNMENT = 64
"""Multiple that TensorFlow requires of the address of memory that it does not own."""

Outputs = Callable[[Any, bool], tuple[Any, ...]]
Loss = Callable[[tuple[Any, ...], Any], Any]


class StepOutOfMemoryError(Exception):
    """The device's memory does not suffice for a training step; more parts need less."""


def smoothed_cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy with smoothed labels: float32 [batch], in nats.

    Args:
        logits: float32 [batch, N + 1].
        labels: int64 [batch], class ids.
    """
    targets = tf.one_hot(labels, logits.shape[-1])
    targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / logits.shape[-1]
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What one call of the compiled training steps returns.

    Attributes:
        sums: The Sums of each step's batch, before its update.
        is_stopping: Whether any worker was asked to stop. All workers get the same answer, so they
            all stop after the same step.
        waited_seconds: How long a call of one step waited for its batch; 0 for several steps,
            because nobody can tell while a device computes.
    """

    sums: list[Sums]
    is_stopping: bool
    waited_seconds: float


class _Rows(NamedTuple):
    """RowBatches as tensors.

    Attributes:
        features: float32 [num_rows, features].
        labels: int64 [num_rows].
        numbers, mask: As in RowBatches.
    """

    features: Any
    labels: Any
    numbers: Any
    mask: Any

    def batch(self, index: Any, is_on_host: bool) -> tuple[Any, Any, Any]:
        """Return one batch, in a compiled function.

        Args:
            index: int32 [], number of the batch.
            is_on_host: Whether the features are in the host's memory, which a GPU cannot read.
        """
        numbers, mask = self.numbers[index], self.mask[index]
        with tf.device("CPU:0" if is_on_host else None):
            features = tf.gather(self.features, numbers)
        return features, batch_labels(self.labels, numbers, mask), mask


class _RowIterator:
    """An iterator over the batches of a table, of which several can be taken at once.

    Args:
        rows: The batches.
        skip: Batches to leave out at the start.
        is_on_host: See `_Rows.batch`.
    """

    def __init__(self, rows: _Rows, skip: int, *, is_on_host: bool) -> None:
        self.rows, self.is_on_host = rows, is_on_host
        self._next_batch = skip

    def __iter__(self) -> "_RowIterator":
        return self

    def __next__(self) -> tuple[Any, Any, Any]:
        first, end = self.take(1)
        if first == end:
            raise StopIteration
        return self.rows.batch(first, self.is_on_host)

    def take(self, num_batches: int | None = None) -> tuple[int, int]:
        """Return the number of the next batch, and of the one after those that are taken."""
        first, end = self._next_batch, len(self.rows.numbers)
        self._next_batch = end if num_batches is None else min(first + num_batches, end)
        return first, self._next_batch


class StepRunner:
    """The compiled steps of one phase.

    Args:
        outputs: (inputs, training) -> tuple of float32 [batch, N + 1] logits; the first ones are
            the classifier's, others are only for the loss.
        loss: (outputs, labels) -> float32 [batch], the loss of each example. A step follows the
            gradient of the mean over the examples of the batch, on all replicas, without padding.
        optimizers: Each keras.Optimizer with the variables that it trains, created under the
            strategy; it sums gradients over replicas.
        strategy: tf.distribute.Strategy.
        penalty: () -> float32 [], added to the mean loss once; None without one.
        average: Moves towards the weights after each step; None without one.
        statistics: Variables that each replica updates by its own share of a batch, as BatchNorm
            does in training mode. They become the mean over the replicas after each step.
        in_pairs: Whether `outputs` blends rows 0 and 1 of a batch, rows 2 and 3, and so on: then
            the parts of a batch begin at even rows.
        model: keras.Model whose layers `outputs` calls; needed for a precision below float32.
        computation: How the steps are computed.
    """

    def __init__(
        self,
        outputs: Outputs,
        loss: Loss,
        optimizers: Sequence[tuple[Any, Sequence[Any]]],
        strategy: Any,
        *,
        penalty: Callable[[], Any] | None = None,
        average: WeightAverage | None = None,
        statistics: Sequence[Any] = (),
        in_pairs: bool = False,
        model: Any = None,
        computation: Computation = FLOAT32,
    ) -> None:
        self._outputs = outputs
        self._loss = loss
        self._optimizers = optimizers
        self._strategy = strategy
        self._penalty = penalty
        self._average = average
        self._statistics = [variable.value for variable in statistics]
        self._rows_multiple = 2 if in_pairs else 1
        self._model = model
        self._computation = computation
        # AutoGraph takes as long as tracing, and no function here needs it.
        compiled = functools.partial(tf.function, autograph=False)
        self._train_one = compiled(self._take_step)
        self._train_several = compiled(self._take_steps)
        self._train_rows = compiled(self._take_row_steps)
        # Of a step, XLA compiles all but the update, which communicates between replicas.
        self._gradients = compiled(self._batch_gradients, jit_compile=computation.uses_xla)
        self._score = compiled(lambda batch: self._sum_over_replicas(self._score_replica, batch))
        self._score_rows = compiled(self._score_all_rows)
        self._predict = compiled(self._predict_all_replicas)
        self._tables: list[tuple[FeatureTable, Any, Any, bool]] = []

    def distribute(self, batches: Any) -> Any:
        """Return batches split over replicas, to iterate over.

        Args:
            batches: A tf.data.Dataset, this worker's share, or RowBatches. The batches of a dataset
                are copied to the devices before they are needed.
        """
        if isinstance(batches, RowBatches):
            if self._strategy.num_replicas_in_sync > 1:
                return self.distribute(batches.dataset())
            return self._iterate_rows(batches)
        if isinstance(batches, ShareOfBatches):
            return self._strategy.distribute_datasets_from_function(
                lambda _context: batches.replica_batches
            )
        gpus = tf.config.list_logical_devices("GPU")
        if len(gpus) == 1 and self._strategy.num_replicas_in_sync == 1:
            # The default strategy does not copy; the others do.
            return batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))
        return self._strategy.experimental_distribute_dataset(batches)

    def train_steps(self, batches: Any, num_steps: int, *, stop: bool) -> CallResult:
        """Take several optimisation steps in one call, which the host waits for only once.

        The results of a step do not depend on how many others are in the call.

        Args:
            batches: Iterator of distributed batches, with at least `num_steps` left.
            num_steps: Number of steps.
            stop: Whether this worker was asked to stop.

        Raises:
            StepOutOfMemoryError: The device's memory does not suffice for a step.
        """
        started = time.monotonic()
        try:
            if isinstance(batches, _RowIterator):
                waited_seconds = 0.0
                first, end = batches.take(num_steps)
                rows = self._train_rows(
                    batches.rows,
                    tf.constant(first),
                    tf.constant(end - first),
                    tf.constant(float(stop)),
                    batches.is_on_host,
                )
            elif num_steps == 1:
                batch = next(batches)
                waited_seconds = time.monotonic() - started
                rows = self._train_one(batch, tf.constant(float(stop)))[tf.newaxis]
            else:
                waited_seconds = 0.0
                rows = self._train_several(
                    batches, tf.constant(num_steps), tf.constant(float(stop))
                )
            rows = rows.numpy().tolist()
        except tf.errors.ResourceExhaustedError as err:
            raise StepOutOfMemoryError(str(err)) from err
        return CallResult(
            sums=[Sums(*row[:3]) for row in rows],
            is_stopping=rows[-1][3] > 0,
            waited_seconds=waited_seconds,
        )

    def score(self, batches: Any) -> Sums:
        """Return the Sums over all batches, see `distribute`."""
        distributed = self.distribute(batches)
        if isinstance(distributed, _RowIterator):
            first, end = distributed.take()
            totals = [
                self._score_rows(
                    distributed.rows,
                    tf.constant(first),
                    tf.constant(end - first),
                    distributed.is_on_host,
                )
            ]
        else:
            totals = [self._score(batch) for batch in distributed]
        return Sums(*(tf.add_n(totals).numpy().tolist() if totals else [0.0] * 3))

    def predict(self, batches: Any) -> tuple[Any, Any]:
        """Return the classifier's logits for all examples of batches, see `distribute`.

        All workers get the same arrays.

        Returns:
            float32 [num_examples, N + 1] logits, and int64 [num_examples] labels.
        """
        parts = []
        for batch in self.distribute(batches):
            logits, labels, mask = (part.numpy() for part in self._predict(batch))
            parts.append((logits[mask > 0], labels[mask > 0]))
        if not parts:
            return np.zeros([0, 0], np.float32), np.zeros([0], np.int64)
        logits, labels = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(labels)

    def _sum_over_replicas(self, step: Any, arguments: Any) -> Any:
        # sums: float32 [3] or [4] on each replica
        sums = self._strategy.run(step, args=arguments)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _take_step(self, batch: Any, stop: Any) -> Any:
        """Return float32 [4]: the sums of the batch, and the number of workers that stop."""
        row = self._sum_over_replicas(self._train_replica, (*batch, stop))
        if self._average is not None:
            self._average.update(self._strategy)
        return row

    def _take_steps(self, batches: Any, num_steps: Any, stop: Any) -> Any:
        """Return float32 [num_steps, 4], a row of `_take_step` for each step."""
        return _stack_results(num_steps, 4, lambda _: self._take_step(next(batches), stop))

    def _take_row_steps(
        self, rows: _Rows, first: Any, num_steps: Any, stop: Any, is_on_host: bool
    ) -> Any:
        """Return what `_take_steps` does, for the batches of a table from `first` on."""
        return _stack_results(
            num_steps,
            4,
            lambda index: self._take_step(rows.batch(first + index, is_on_host), stop),
        )

    def _score_all_rows(self, rows: _Rows, first: Any, num_batches: Any, is_on_host: bool) -> Any:
        """Return float32 [3], the sums over batches of a table from `first` on."""
        sums = _stack_results(
            num_batches,
            3,
            lambda index: self._sum_over_replicas(
                self._score_replica, rows.batch(first + index, is_on_host)
            ),
        )
        return tf.reduce_sum(sums, axis=0)

    def _iterate_rows(self, batches: RowBatches) -> _RowIterator:
        features, labels, is_on_host = self._place(batches.table)
        rows = _Rows(features, labels, tf.constant(batches.numbers), tf.constant(batches.mask))
        return _RowIterator(rows, batches.skip, is_on_host=is_on_host)

    def _place(self, table: FeatureTable) -> tuple[Any, Any, bool]:
        """Return a table's features and labels as tensors, and whether a GPU cannot read them."""
        for known, *placed in self._tables:
            if known is table:
                return tuple(placed)
        features, labels = _share_memory(table.features), tf.constant(table.labels, tf.int64)
        gpus = tf.config.list_logical_devices("GPU")
        is_on_host = bool(gpus) and table.features.nbytes > MAX_DEVICE_TABLE_BYTES
        if gpus and not is_on_host:
            with tf.device(gpus[0].name):
                features = tf.identity(features)
        self._tables.append((table, features, labels, is_on_host))
        return features, labels, is_on_host

    def _train_replica(self, inputs: Any, labels: Any, mask: Any, stop: Any) -> Any:
        """Return float32 [4]: the sums of the replica's examples, and 1 if its worker stops."""
        context = tf.distribute.get_replica_context()
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(mask))
        sums, gradients = self._gradients(inputs, labels, mask, count)
        if self._computation.precision == "float16":
            gradients = _skip_together(gradients, context)
        for (optimizer, group), group_gradients in zip(self._optimizers, gradients, strict=True):
            optimizer.apply(group_gradients, group)
        if self._statistics and context.num_replicas_in_sync > 1:
            means = context.all_reduce(
                tf.distribute.ReduceOp.MEAN,
                [variable.read_value() for variable in self._statistics],
            )
            for variable, mean in zip(self._statistics, means, strict=True):
                variable.assign(mean)
        return tf.concat([sums, [stop]], axis=0)

    def _batch_gradients(
        self, inputs: Any, labels: Any, mask: Any, count: Any
    ) -> tuple[Any, list[list[Any]]]:
        """Return the sums of a replica's examples and the gradients of its part of the loss.

        Args:
            inputs, labels, mask: The replica's share of a batch.
            count: Number of examples in the whole batch.
        """
        if self._computation.num_parts == 1:
            return self._part_gradients(inputs, labels, mask, count)
        rows, is_row = _divide_rows(
            labels.shape[0], self._computation.num_parts, multiple=self._rows_multiple
        )
        num_parts = len(rows)
        parts = tf.nest.map_structure(
            lambda values: tf.gather(values, rows), (inputs, labels, mask)
        )
        parts = (*parts[:2], parts[2] * is_row)

        def add_part(index: Any, sums: Any, gradients: Any) -> tuple[Any, Any, Any]:
            part: tuple[Any, Any, Any] = tf.nest.map_structure(lambda values: values[index], parts)
            more_sums, more = self._part_gradients(*part, count, part_of_penalty=1 / num_parts)
            return index + 1, sums + more_sums, tf.nest.map_structure(tf.add, gradients, more)

        zeros = [[tf.zeros(variable.shape) for variable in group] for _, group in self._optimizers]
        _, sums, gradients = tf.while_loop(
            lambda index, *_: index < num_parts,
            add_part,
            (0, tf.zeros([3]), zeros),
            parallel_iterations=1,
        )
        return sums, gradients

    def _part_gradients(
        self, inputs: Any, labels: Any, mask: Any, count: Any, *, part_of_penalty: float = 1.0
    ) -> tuple[Any, list[list[Any]]]:
        with computing_in(self._computation.precision, self._model):
            outputs = self._outputs(inputs, True)
        outputs = tuple(tf.cast(output, tf.float32) for output in outputs)
        loss = tf.reduce_sum(self._loss(outputs, labels) * mask) / count
        if self._penalty is not None:
            loss += self._penalty() * part_of_penalty / self._strategy.num_replicas_in_sync
        if self._computation.precision == "float16":
            loss = self._optimizers[0][0].scale_loss(loss)
        groups = [[variable.value for variable in group] for _, group in self._optimizers]
        # A sum of three gradients or more is made of sums of two: AddN begins with the term whose
        # memory it can reuse, which depends on when the others were last used. GradientTape has no
        # such choice.
        gradients = tf.nest.pack_sequence_as(
            groups,
            tf.gradients(
                loss,
                tf.nest.flatten(groups),
                aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
            ),
        )
        return _batch_sums(outputs[0], labels, mask), gradients

    def _score_replica(self, inputs: Any, labels: Any, mask: Any) -> Any:
        return _batch_sums(self._outputs(inputs, False)[0], labels, mask)

    def _predict_all_replicas(self, batch: Any) -> Any:
        parts = self._strategy.run(
            lambda inputs, labels, mask: (self._outputs(inputs, False)[0], labels, mask), args=batch
        )
        return [self._strategy.gather(part, axis=0) for part in parts]


def _stack_results(num_results: Any, width: int, compute: Callable[[Any], Any]) -> Any:
    """Return float32 [num_results, width]: what `compute` returns for 0, 1, ..., in this order."""

    def compute_next(index: Any, results: Any) -> tuple[Any, Any]:
        return index + 1, results.write(index, compute(index))

    results = tf.TensorArray(tf.float32, size=num_results, element_shape=[width])
    _, results = tf.while_loop(
        lambda index, _: index < num_results, compute_next, (0, results), parallel_iterations=1
    )
    return results.stack()


def _share_memory(array: Any) -> Any:
    """Return a float32 array as a tensor on the host, without a copy if TensorFlow allows it."""
    can_share = array.size and array.flags.c_contiguous and array.flags.writeable
    if can_share and array.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("CPU:0"):
        return tf.constant(array, tf.float32)


@contextlib.contextmanager
def computing_in(precision: str, model: Any) -> Iterator[None]:
    """Let a network compute in another precision for the duration of a `with` block.

    Weights stay float32. So do the layers that make logits, and all others around a network that is
    a layer of the model, such as a backbone: they take little time, and lose what is computed. A
    function that is traced in the block keeps the precision.

    Args:
        precision: float32, bfloat16 or float16.
        model: keras.Model whose layers compute in float32.
    """
    if precision == "float32":
        yield
        return
    networks = [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
    heads = [
        output._keras_history.operation
        for network in networks
        for output in network.outputs
        if isinstance(output._keras_history.operation, keras.layers.Dense)
    ]
    layers = [
        layer
        for network in networks
        for layer in network._flatten_layers()
        if layer not in heads and layer.dtype_policy.name == "float32"
    ]
    try:
        for layer in layers:
            layer.dtype_policy = f"mixed_{precision}"
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"


def _divide_rows(num_rows: int, num_parts: int, *, multiple: int) -> tuple[Any, Any]:
    """Divide the rows of a batch into parts of equal size.

    The last parts are filled up with the first rows, because BatchNorm in training mode would take
    padding for pictures.

    Args:
        num_rows: Rows of the batch.
        num_parts: Most parts; fewer hold all rows if their size is rounded up.
        multiple: The size of a part is a multiple of this.

    Returns:
        int32 [parts, size], the rows of each part, and float32 [parts, size], 0 where one is
        repeated.
    """
    size = multiple * math.ceil(num_rows / (multiple * num_parts))
    places = np.arange(size * math.ceil(num_rows / size), dtype=np.int32).reshape(-1, size)
    return places % num_rows, (places < num_rows).astype(np.float32)


def _skip_together(gradients: list[list[Any]], context: Any) -> list[list[Any]]:
    """Make all gradients non-finite if one is on any replica, so that all optimizers skip the step.

    So their loss scales stay equal. keras.optimizers.LossScaleOptimizer takes the gradients of the
    first replica for those of all.

    Args:
        gradients: The replica's gradients for each optimizer.
        context: tf.distribute.ReplicaContext.
    """
    total = tf.add_n([tf.reduce_sum(gradient) for gradient in tf.nest.flatten(gradients)])
    nothing = total - total  # NaN unless all are finite
    if context.num_replicas_in_sync > 1:
        nothing = context.all_reduce(tf.distribute.ReduceOp.SUM, nothing)
    return tf.nest.map_structure(lambda gradient: gradient + nothing, gradients)  # type: ignore[no-any-return]


def _batch_sums(logits: Any, labels: Any, mask: Any) -> Any:
    """Return float32 [3]: loss, correct, num_examples; without padding and the background class."""
    # Padding has label 0, which has no class here; it counts as class 1 and is masked out.
    classes = tf.maximum(labels - 1, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits[:, 1:])
    correct = tf.cast(tf.equal(tf.argmax(logits[:, 1:], axis=-1), classes), tf.float32)
    return tf.stack(
        [tf.reduce_sum(losses * mask), tf.reduce_sum(correct * mask), tf.reduce_sum(mask)]
    )
