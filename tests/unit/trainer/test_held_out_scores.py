import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from repot.settings import TrainingSettings
from repot.trainer import held_out_scores
from repot.trainer.auto.selection import TrainingFeatures
from repot.trainer.batches import FeatureTable
from repot.trainer.held_out_scores import calibrate_head
from repot.trainer.loop import TrainingRun
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore


def make_run(folder: Path) -> TrainingRun:
    return TrainingRun(
        strategy=tf.distribute.get_strategy(),
        position=TrainingPosition(),
        store=StateStore(str(folder), "t"),
        started=time.monotonic(),
        should_stop=lambda: False,
    )


def test_of_many_pictures_a_bounded_number_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out_scores, "MAX_ROWS", 12)
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 50)
    table = (rng.normal(size=(100, 4)) + 3 * classes[:, None]).astype(np.float32)
    digests = np.array([hashlib.sha256(bytes([i])).digest() for i in range(100)], "S32")

    calibrated = calibrate_head(
        TrainingFeatures(
            tables={"central": table}, sizes=(4,), classes=classes, digests=digests, num_classes=2
        ),
        FeatureTable(features=table, labels=classes + 1, digests=digests),
        make_run(tmp_path),
        TrainingSettings(recipe="head", batch_size=20),
        epochs=10,
        learning_rate=0.1,
    )

    assert calibrated.calibration.num_examples == 12
    assert calibrated.calibration.error_after < 0.3
