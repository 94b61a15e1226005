"""Temperature, prediction sets and the score `unlike`, on drawn numbers with a known truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot.example_digests import Contents, example_digest, join_digests
from repot.model_spec import MAX_UNLIKE_AXES
from repot.settings import TrainingSettings
from repot.trainer.auto.heads import softmax
from repot.trainer.calibration import (
    Calibrated,
    HeldOut,
    calibrate,
    choose_held_out,
    cross_validate_unlike,
    find_set_threshold,
    fit_unlike,
    with_threshold,
)
from repot.trainer.state import StateStore

SETTINGS = TrainingSettings()


def draw(num_rows: int, *, seed: int, scale: float = 1.0) -> HeldOut:
    """Return logits whose softmax is the distribution of the classes once divided by `scale`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, 5))
    probabilities = softmax(logits)
    classes = (probabilities.cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)
    return HeldOut(logits=scale * logits, classes=classes, method="drawn")


def unit_rows(rng: np.random.Generator, num_rows: int, center: float) -> Any:
    rows = rng.normal(size=(num_rows, 40)) * np.linspace(1, 0.05, 40)
    rows[:, -1] += center
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_calibration_removes_the_error_of_the_probabilities(scale: float) -> None:
    temperature, promised = calibrate(draw(4000, seed=1, scale=scale), settings=SETTINGS)

    assert temperature == pytest.approx(scale, rel=0.1)
    assert promised.error_after < 0.02
    assert promised.error_by_chance == pytest.approx(0.013, abs=0.004)
    assert scale == 1.0 or promised.error_before > 0.08
    assert promised.num_examples == 4000


@pytest.mark.parametrize("num_rows", [30, 300])
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_share_of_new_pictures_in_their_set_is_the_promised_one(
    num_rows: int, coverage: float
) -> None:
    settings = TrainingSettings(set_coverage=coverage)
    covered = []
    for seed in range(100):
        drawn = draw(num_rows + 200, seed=seed)
        first = HeldOut(logits=drawn.logits[:num_rows], classes=drawn.classes[:num_rows], method="")
        _, promised = calibrate(first, temperature=1.0, settings=settings)
        new = softmax(drawn.logits[num_rows:])[np.arange(200), drawn.classes[num_rows:]]
        covered.append(np.mean(new >= promised.set_threshold))

    # At least the coverage, and at most 1 / (n + 1) more; .01 is three standard errors.
    assert coverage - 0.01 < np.mean(covered) < coverage + 1 / (num_rows + 1) + 0.01


@pytest.mark.parametrize(("num_rows", "threshold"), [(8, 0.0), (9, 0.1), (18, 0.1), (19, 0.2)])
def test_too_few_pictures_promise_every_label(num_rows: int, threshold: float) -> None:
    own = np.arange(1, num_rows + 1) / 10

    assert find_set_threshold(own[::-1], 0.9) == pytest.approx(threshold)


def test_without_held_out_pictures_nothing_is_promised_away() -> None:
    nothing = HeldOut(logits=np.empty((0, 5)), classes=np.empty(0, np.int64), method="")

    temperature, promised = calibrate(nothing, settings=SETTINGS)

    assert temperature == pytest.approx(1)
    assert (promised.num_examples, promised.set_threshold, promised.mean_set_size) == (0, 0, 5)
    unlike = with_threshold(fit_unlike(np.eye(2)), np.empty(0), 0.05)
    assert (unlike.scores(np.eye(2)) < 1).all()


@pytest.mark.parametrize(
    ("num_rows", "lowest", "share"),
    [(30, 0.0, 0.7), (200, 0.05, 0.99)],  # of 40 features
)
def test_unlike_pictures_are_told_from_new_ordinary_ones(
    num_rows: int, lowest: float, share: float
) -> None:
    rng = np.random.default_rng(3)
    folds = np.arange(num_rows) % 5
    flagged, found = [], []
    for _ in range(20):
        unlike = cross_validate_unlike(unit_rows(rng, num_rows, 0.0), folds, 0.1)
        flagged.append(np.mean(unlike.scores(unit_rows(rng, 500, 0.0)) > 1))
        found.append(np.mean(unlike.scores(unit_rows(rng, 500, 3.0)) > 1))

    # Scores out of fold are those of a fit to fewer pictures: with few, the rate is lower.
    assert lowest < np.mean(flagged) < 0.12
    assert np.mean(found) > share


def test_axes_of_both_products_and_their_number_agree() -> None:
    rows = unit_rows(np.random.default_rng(4), 41, 0.0)
    few = fit_unlike(rows[:40])
    # Every picture twice: the same distribution, now with more rows than features.
    many = fit_unlike(np.repeat(rows[:40], 2, axis=0))

    np.testing.assert_allclose(many.scores(rows), few.scores(rows), rtol=1e-6)
    large = fit_unlike(np.random.default_rng(5).normal(size=(600, 400)))
    assert large.axes.shape == (400, MAX_UNLIKE_AXES)


def test_copies_of_one_picture_are_like_themselves_alone() -> None:
    rows = np.repeat(unit_rows(np.random.default_rng(6), 1, 0.0), 30, axis=0)

    unlike = cross_validate_unlike(rows, np.arange(30) % 5, 0.05)

    assert (unlike.scores(rows) < 1).all()
    assert (unlike.scores(unit_rows(np.random.default_rng(7), 50, 0.0)) > 1).all()


def test_calibrated_survives_a_restart() -> None:
    temperature, promised = calibrate(draw(50, seed=1), settings=SETTINGS)
    unlike = cross_validate_unlike(
        unit_rows(np.random.default_rng(8), 50, 0.0), np.arange(50) % 5, 0.05
    )
    before = Calibrated(temperature=temperature, calibration=promised, unlike=unlike)

    after = Calibrated.from_bytes(before.to_bytes())

    assert (after.temperature, after.calibration) == (temperature, promised)
    rows = unit_rows(np.random.default_rng(9), 5, 1.0)
    np.testing.assert_array_equal(after.unlike.scores(rows), unlike.scores(rows))


def test_pictures_that_are_held_out_are_chosen_by_content_once(tmp_path: Path) -> None:
    def contents(order: Any) -> Callable[[], Contents]:
        digests = join_digests(example_digest(b"%d" % i) for i in order)
        return lambda: Contents(
            digests=digests, class_ids=np.array([1 + i % 2 for i in order], np.int64)
        )

    def fail() -> Contents:
        pytest.fail("later starts must read the choice")

    order = np.random.default_rng(1).permutation(40)
    first = choose_held_out(contents(range(40)), None, 0.1, StateStore(f"{tmp_path}/1", "t"))
    second = choose_held_out(contents(order), None, 0.1, StateStore(f"{tmp_path}/2", "t"))
    again = choose_held_out(fail, None, 0.1, StateStore(f"{tmp_path}/1", "t"))

    assert sorted(order[second]) == np.flatnonzero(first).tolist() == np.flatnonzero(again).tolist()
    assert np.bincount(np.flatnonzero(first) % 2).tolist() == [2, 2]
    groups = np.array([b"%08d" % (i // 8) for i in range(40)], "S16")
    grouped = choose_held_out(contents(range(40)), groups, 0.3, StateStore(f"{tmp_path}/3", "t"))
    assert {len(set(part)) for part in grouped.reshape(5, 8)} == {1}
