import dataclasses
import subprocess
import sys

import pytest

import repot
from repot.settings import TrainingSettings
from repot.trainer.request import training_id

SETTINGS = TrainingSettings()
ID = training_id("data", "weights", SETTINGS, "")


def test_same_training_has_the_same_id() -> None:
    assert training_id("data", "weights", TrainingSettings(), "") == ID


@pytest.mark.parametrize(
    "other",
    [
        training_id("other", "weights", SETTINGS, ""),
        training_id("data", "other", SETTINGS, ""),
        training_id("data", "weights", SETTINGS, "again"),
        *(
            training_id("data", "weights", dataclasses.replace(SETTINGS, **{name: value}), "")  # type: ignore[arg-type]
            for name, value in [
                ("backbone", "xception"),
                ("recipe", "head"),
                ("epochs", 3),
                ("batch_size", 16),
                ("learning_rate", 0.5),
                ("image_size", 128),
                ("seed", 1),
                ("input_queue_memory_factor", 2),
            ]
        ),
    ],
)
def test_other_training_has_another_id(other: str) -> None:
    assert other != ID


def test_new_version_of_the_code_has_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repot, "__version__", "9.9.9")

    assert training_id("data", "weights", SETTINGS, "") != ID


def test_id_is_computed_without_tensorflow() -> None:
    program = (
        "import sys, repot.trainer.request, repot.trainer.train; print('tensorflow' in sys.modules)"
    )

    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
