import pytest

from repot.trainer.position import Sums, TrainingPosition
from tests.training_records import make_epoch_record


def test_new_position_is_before_every_phase() -> None:
    position = TrainingPosition()

    assert not position.is_past("head")
    assert not position.is_past("fine_tune")


def test_position_in_a_phase_is_past_the_phases_before_it() -> None:
    position = TrainingPosition(phase="head", epoch=20)
    assert not position.is_past("head")

    position.start_phase("fine_tune")

    assert position.is_past("head")
    assert not position.is_past("fine_tune")
    assert (position.epoch, position.num_steps) == (0, 0)


def test_finished_epoch_divides_sums_by_the_number_of_examples() -> None:
    position = TrainingPosition(phase="head", epoch=2)
    position.finish_step(Sums(loss=3.0, correct=2.0, num_examples=4.0), epoch_seconds=1.0)
    position.finish_step(Sums(loss=1.0, correct=1.0, num_examples=1.0), epoch_seconds=2.5)
    assert position.num_steps == 2

    record = position.finish_epoch(Sums(loss=1.0, correct=1.0, num_examples=4.0), learning_rate=0.5)

    assert record == make_epoch_record(
        epoch=3,
        learning_rate=0.5,
        train_loss=0.8,
        train_precision_at_1=0.6,
        validation_loss=0.25,
        validation_precision_at_1=0.25,
        seconds=2.5,
    )
    assert position == TrainingPosition(phase="head", epoch=3, history=[record])


def test_epoch_without_validation_examples_has_no_validation_scores() -> None:
    position = TrainingPosition(phase="head")
    position.finish_step(Sums(loss=1.0, correct=1.0, num_examples=1.0), epoch_seconds=1.0)

    record = position.finish_epoch(Sums(0.0, 0.0, 0.0), learning_rate=0.5)

    assert (record.validation_loss, record.validation_precision_at_1) == (None, None)


def test_speed_is_the_median_over_the_epochs_of_the_last_phase() -> None:
    history = [
        make_epoch_record(seconds=8.0),
        *(make_epoch_record(phase="fine_tune", seconds=seconds) for seconds in (2.0, 0.5, 1.0)),
    ]

    position = TrainingPosition(phase="fine_tune", history=history)

    assert position.examples_per_second(10) == pytest.approx(10.0)
