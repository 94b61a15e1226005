"""One training step and the scoring of a split, under any tf.distribute strategy.

`Model.fit` does not work under MultiWorkerMirroredStrategy (Keras issue 20585), so training uses a
custom step.
A batch is (inputs, labels, mask), see `repot.trainer.batches`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from repot.trainer.batches import ShareOfBatches
from repot.trainer.optimizer import WeightAverage
from repot.trainer.position import Sums

LABEL_SMOOTHING = 0.1
"""Source: research/inception, inception_model.py:loss; counts the background among the classes."""

Outputs = Callable[[Any, bool], tuple[Any, ...]]
Loss = Callable[[tuple[Any, ...], Any], Any]


def smoothed_cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy with smoothed labels: float32 [batch], in nats.

    Args:
        logits: float32 [batch, N + 1].
        labels: int64 [batch], class ids.
    """
    targets = tf.one_hot(labels, logits.shape[-1])
    targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / logits.shape[-1]
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


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
    ) -> None:
        self._outputs = outputs
        self._loss = loss
        self._optimizers = optimizers
        self._strategy = strategy
        self._penalty = penalty
        self._average = average
        self._statistics = [variable.value for variable in statistics]
        self._train = tf.function(self._train_all_replicas)
        self._score = tf.function(lambda batch: self._sum_over_replicas(self._score_replica, batch))
        self._predict = tf.function(self._predict_all_replicas)

    def distribute(self, batches: Any) -> Any:
        """Return the batches of a tf.data.Dataset, or this worker's share, split over replicas."""
        if isinstance(batches, ShareOfBatches):
            return self._strategy.distribute_datasets_from_function(
                lambda _context: batches.replica_batches
            )
        return self._strategy.experimental_distribute_dataset(batches)

    def train_step(self, batch: Any, *, stop: bool) -> tuple[Sums, bool]:
        """Take one optimisation step.

        Args:
            batch: A distributed batch.
            stop: Whether this worker was asked to stop.

        Returns:
            The Sums of the batch before the update, and whether any worker was asked to stop. All
            workers get the same answer, so they all stop after the same step.
        """
        *sums, num_stopping = self._train(batch, tf.constant(float(stop))).numpy().tolist()
        return Sums(*sums), num_stopping > 0

    def score(self, batches: Any) -> Sums:
        """Return the Sums over all batches of a tf.data.Dataset."""
        totals = [self._score(batch) for batch in self.distribute(batches)]
        return Sums(*(tf.add_n(totals).numpy().tolist() if totals else [0.0] * 3))

    def predict(self, batches: Any) -> tuple[Any, Any]:
        """Return the classifier's logits for all examples of a tf.data.Dataset.

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

    def _train_all_replicas(self, batch: Any, stop: Any) -> Any:
        sums = self._sum_over_replicas(self._train_replica, (*batch, stop))
        if self._average is not None:
            self._average.update(self._strategy)
        return sums

    def _train_replica(self, inputs: Any, labels: Any, mask: Any, stop: Any) -> Any:
        """Return float32 [4]: the sums of the batch, and 1 if this worker was asked to stop."""
        context = tf.distribute.get_replica_context()
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(mask))
        with tf.GradientTape() as tape:
            outputs = self._outputs(inputs, True)
            loss = tf.reduce_sum(self._loss(outputs, labels) * mask) / count
            if self._penalty is not None:
                loss += self._penalty() / context.num_replicas_in_sync
        groups = [[variable.value for variable in group] for _, group in self._optimizers]
        gradients = tape.gradient(loss, groups)
        for (optimizer, group), group_gradients in zip(self._optimizers, gradients, strict=True):
            optimizer.apply(group_gradients, group)
        if self._statistics and context.num_replicas_in_sync > 1:
            means = context.all_reduce(
                tf.distribute.ReduceOp.MEAN,
                [variable.read_value() for variable in self._statistics],
            )
            for variable, mean in zip(self._statistics, means, strict=True):
                variable.assign(mean)
        return tf.concat([_batch_sums(outputs[0], labels, mask), [stop]], axis=0)

    def _score_replica(self, inputs: Any, labels: Any, mask: Any) -> Any:
        return _batch_sums(self._outputs(inputs, False)[0], labels, mask)

    def _predict_all_replicas(self, batch: Any) -> Any:
        parts = self._strategy.run(
            lambda inputs, labels, mask: (self._outputs(inputs, False)[0], labels, mask), args=batch
        )
        return [self._strategy.gather(part, axis=0) for part in parts]


def _batch_sums(logits: Any, labels: Any, mask: Any) -> Any:
    """Return float32 [3]: loss, correct, num_examples; without padding and the background class."""
    # Padding has label 0, which has no class here; it counts as class 1 and is masked out.
    classes = tf.maximum(labels - 1, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits[:, 1:])
    correct = tf.cast(tf.equal(tf.argmax(logits[:, 1:], axis=-1), classes), tf.float32)
    return tf.stack(
        [tf.reduce_sum(losses * mask), tf.reduce_sum(correct * mask), tf.reduce_sum(mask)]
    )
