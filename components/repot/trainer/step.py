"""One optimisation step and one scoring step under any tf.distribute strategy.

`Model.fit` does not work under MultiWorkerMirroredStrategy (keras issue 20585), so the step is our own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

LABEL_SMOOTHING = 0.1
"""Source: research/inception, inception_model.py, loss; the background class is counted among the classes."""


class Sums(NamedTuple):
    """Sums over examples; divided once, at the end of an epoch.

    Attributes:
        loss: Of the cross-entropy over classes 1..N, in nats, without label smoothing.
        correct: Of the examples whose most probable class is their own.
        num_examples: Of the examples.
    """

    loss: float
    correct: float
    num_examples: float


class StepRunner:
    """The steps of one phase, each compiled once.

    Args:
        logits: (inputs, training) -> float32 [batch, N + 1] logits.
        variables: What is trained.
        optimizer: keras.Optimizer, made under the strategy; its step sums gradients over replicas.
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
            lambda batch, stop: self._reduced(self._train_replica, (*batch, stop))
        )
        self._score = tf.function(lambda batch: self._reduced(self._score_replica, batch))

    def train(self, batches: Any, should_stop: Callable[[], bool]) -> Iterator[tuple[Sums, bool]]:
        """Yield the Sums of each batch after the step on it, and whether any worker was asked to stop before the step.

        All workers yield the same, so that all of them stop after the same step.
        """
        for batch in self._strategy.experimental_distribute_dataset(batches):
            *sums, num_stopping = (
                self._train(batch, tf.constant(float(should_stop()))).numpy().tolist()
            )
            yield Sums(*sums), num_stopping > 0

    def score(self, batches: Any) -> Sums:
        """Return the Sums over all batches."""
        totals = [
            self._score(batch) for batch in self._strategy.experimental_distribute_dataset(batches)
        ]
        return Sums(*(tf.add_n(totals).numpy().tolist() if totals else [0.0] * 3))

    def _reduced(self, step: Any, arguments: Any) -> Any:
        # sums: float32 [3] or [4] on each replica
        sums = self._strategy.run(step, args=arguments)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _train_replica(self, inputs: Any, labels: Any, mask: Any, stop: Any) -> Any:
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
        return tf.concat([_sums(logits, labels, mask), [stop]], axis=0)

    def _score_replica(self, inputs: Any, labels: Any, mask: Any) -> Any:
        return _sums(self._logits(inputs, False), labels, mask)


def _sums(logits: Any, labels: Any, mask: Any) -> Any:
    """Return float32 [3]: loss, correct, count over the real examples, the background class left out."""
    # Padding has label 0; class 1 stands in for it and the mask takes it out.
    classes = tf.maximum(labels - 1, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits[:, 1:])
    correct = tf.cast(tf.equal(tf.argmax(logits[:, 1:], axis=-1), classes), tf.float32)
    return tf.stack(
        [tf.reduce_sum(losses * mask), tf.reduce_sum(correct * mask), tf.reduce_sum(mask)]
    )
