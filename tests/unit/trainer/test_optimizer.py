import keras
import numpy as np
import pytest

from repot.trainer.optimizer import WEIGHT_DECAY, learning_rate_schedule, make_optimizer


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (2, 0.25), (4, 0.5), (12, 0.25), (20, 0.0), (21, 0.0)],
)
def test_learning_rate_rises_linearly_and_falls_along_a_cosine(step: int, expected: float) -> None:
    schedule = learning_rate_schedule(0.5, num_steps=20, warmup_steps=4)

    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_phase_of_one_epoch_is_all_warm_up() -> None:
    schedule = learning_rate_schedule(0.5, num_steps=4, warmup_steps=4)

    assert float(schedule(4)) == pytest.approx(0.5)


def test_optimizer_warms_up_for_one_epoch() -> None:
    optimizer = make_optimizer(0.5, num_steps=20, steps_per_epoch=4)

    optimizer.build([])
    optimizer.iterations.assign(4)

    assert float(optimizer.learning_rate) == pytest.approx(0.5)


def test_weight_decay_leaves_out_biases_and_batch_norm() -> None:
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    model.set_weights([np.ones(weight.shape) for weight in model.weights])
    optimizer = make_optimizer(0.5, num_steps=20, steps_per_epoch=4)
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(4)

    optimizer.apply([np.zeros(variable.shape) for variable in model.trainable_variables])

    changed = [v.name for v in model.trainable_variables if not np.all(v.numpy() == 1)]
    assert changed == ["kernel"]
    np.testing.assert_allclose(model.weights[0].numpy(), 1 - 0.5 * WEIGHT_DECAY, rtol=1e-6)
