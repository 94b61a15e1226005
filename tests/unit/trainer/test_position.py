import pytest

from repot.trainer.position import PhaseResult, Sums, TrainingPosition
from tests.training_records import make_epoch_record


def test_new_position_has_no_results() -> None:
    position = TrainingPosition()

    assert position.result_of("head") is None
    assert position.num_finished_steps == 0


def test_finished_phase_leaves_its_result_and_the_position_between_phases() -> None:
    position = TrainingPosition(phase="head", epoch=20)

    result = position.finish_phase(num_steps=40)

    assert result == PhaseResult(
        name="head", epochs=20, num_steps=40, best_epoch=20, best_score=None
    )
    assert position == TrainingPosition(results=[result])
    assert position.result_of("head") == result
    assert position.result_of("fine_tune") is None
    position.start_phase("fine_tune")
    position.finish_phase(num_steps=2)
    assert position.num_finished_steps == 42


def test_earliest_of_the_highest_scores_is_the_best() -> None:
    position = TrainingPosition(phase="fine_tune")
    are_best = []
    for epoch, score in enumerate([0.5, 0.7, 0.7, 0.6, float("nan")]):
        position.epoch = epoch
        are_best.append(position.note_score(score))

    result = position.finish_phase(num_steps=8)

    assert are_best == [True, True, False, False, False]
    assert (result.epochs, result.best_epoch, result.best_score) == (4, 1, 0.7)


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
