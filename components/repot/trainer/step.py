"""One training step and the scoring of a split, under any tf.distribute strategy.

`Model.fit` does not work under MultiWorkerMirroredStrategy (Keras issue 20585), so training uses a
custom step.
A batch is (inputs, labels, mask), see `repot.trainer.batches`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from repot.trainer.position import Sums

LABEL_SMOOTHING = 0.1
"""Source: research/inception, inception_model.py:loss; counts the background among the classes."""


class StepRunner:
    """The compiled steps of one phase.

    Args:
        logits: (inputs, training) -> float32 [batch, N + 1] logits.
        variables: Variables to train.
        optimizer: keras.Optimizer, created under the strategy; it sums gradients over replicas.
        strategy: tf.distribute.Strategy.
    """

    def __init__(
        self,
        logits: Callable[[Any, bool], Any],
        variables: Sequence[Any],
        optimizer: Any,
        strategy: Any,
    ) -> None:
        self._logits = logits
        self._variables = list(variables)
        self._optimizer = optimizer
        self._strategy = strategy
        self._train = tf.function(
            lambda batch, stop: self._sum_over_replicas(self._train_replica, (*batch, stop))
        )
        self._score = tf.function(lambda batch: self._sum_over_replicas(self._score_replica, batch))

    def distribute(self, batches: Any) -> Any:
        """Return the batches of a tf.data.Dataset, each split over the replicas."""
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

    def _sum_over_replicas(self, step: Any, arguments: Any) -> Any:
        # sums: float32 [3] or [4] on each replica
        sums = self._strategy.run(step, args=arguments)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _train_replica(self, inputs: Any, labels: Any, mask: Any, stop: Any) -> Any:
        """Return float32 [4]: the sums of the batch, and 1 if this worker was asked to stop."""
        count = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, tf.reduce_sum(mask)
        )
        with tf.GradientTape() as tape:
            logits = self._logits(inputs, True)
            targets = tf.one_hot(labels, logits.shape[-1])
            targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / logits.shape[-1]
            smoothed = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(smoothed * mask) / count
        gradients = tape.gradient(loss, [variable.value for variable in self._variables])
        self._optimizer.apply(gradients, self._variables)
        return tf.concat([_batch_sums(logits, labels, mask), [stop]], axis=0)

    def _score_replica(self, inputs: Any, labels: Any, mask: Any) -> Any:
        return _batch_sums(self._logits(inputs, False), labels, mask)


def _batch_sums(logits: Any, labels: Any, mask: Any) -> Any:
    """Return float32 [3]: loss, correct, num_examples; without padding and the background class."""
    # Padding has label 0, which has no class here; it counts as class 1 and is masked out.
    classes = tf.maximum(labels - 1, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits[:, 1:])
    correct = tf.cast(tf.equal(tf.argmax(logits[:, 1:], axis=-1), classes), tf.float32)
    return tf.stack(
        [tf.reduce_sum(losses * mask), tf.reduce_sum(correct * mask), tf.reduce_sum(mask)]
    )
