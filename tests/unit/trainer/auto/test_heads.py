import hashlib

import numpy as np
import pytest

from repot.trainer.auto import heads
from repot.trainer.auto.heads import (
    FloatArray,
    IntArray,
    assign_folds,
    class_weights,
    cross_validate,
    fit_head,
    fit_temperature,
    forecast,
    log_losses,
    select_part,
    softmax,
)

N = 3


def make_rows(num_rows: int, num_features: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Return rows of length one whose classes are hard to tell apart."""
    rng = np.random.default_rng(seed)
    classes = np.arange(num_rows) % N
    rows = rng.normal(size=(num_rows, num_features)) + 0.3 * rng.normal(size=(N, 1))[classes]
    rows[:, :N] += np.eye(N)[classes]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), classes


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


@pytest.mark.parametrize("weighted", [False, True])
def test_few_rows_and_many_rows_are_fitted_to_the_same_optimum(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, classes = make_rows(30, 50)
    merged = np.maximum(classes - 1, 0)
    weights = class_weights(merged, 2, 1.0)[merged] if weighted else None

    few = fit_head(rows.__getitem__, 50, classes, N, penalty=1e-2, weights=weights)
    monkeypatch.setattr(heads, "MAX_ROWS", 7)  # now in five chunks, without inner products
    many = fit_head(rows.__getitem__, 50, classes, N, penalty=1e-2, weights=weights)

    np.testing.assert_allclose(few.kernel, many.kernel, atol=2e-3)
    np.testing.assert_allclose(few.logits(rows), many.logits(rows), atol=1e-3)


def test_fitted_head_has_the_gradient_zero() -> None:
    rows, classes = make_rows(40, 6)
    head = fit_head(rows.__getitem__, 6, classes, N, penalty=1e-2)

    centred = rows - rows.mean(axis=0)
    scale = np.sqrt(np.mean(np.sum(centred**2, axis=1)))
    errors = (softmax(head.logits(rows)) - np.eye(N)[classes]) / len(rows)
    gradient = (centred / scale).T @ errors + 1e-2 * head.kernel * scale

    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("num_features", [8, 60])
def test_held_out_logits_are_those_of_heads_fitted_to_the_other_folds(num_features: int) -> None:
    rows, classes = make_rows(36, num_features)
    folds = np.arange(36) // 3 % 4

    logits = cross_validate(rows, classes, N, folds=folds, penalties=[1e-3, 1e-1])

    for penalty in (1e-3, 1e-1):
        for fold in range(4):
            fitted = rows[folds != fold]
            head = fit_head(
                fitted.__getitem__, num_features, classes[folds != fold], N, penalty=penalty
            )
            np.testing.assert_allclose(
                logits[penalty][folds == fold], head.logits(rows[folds == fold]), atol=2e-2
            )


def test_folds_are_stratified_and_follow_the_content() -> None:
    classes = np.array([0] * 23 + [1] * 5 + [2] * 2)
    digests = [digest(i) for i in range(30)]
    folds = assign_folds(digests, classes, 5)

    assert np.ptp(np.bincount(folds[classes == 0], minlength=5)) <= 1
    assert np.bincount(folds[classes == 1], minlength=5).tolist() == [1] * 5
    order = np.random.default_rng(0).permutation(30)
    shuffled = assign_folds([digests[i] for i in order], classes[order], 5)
    np.testing.assert_array_equal(shuffled, folds[order])


def test_copies_are_in_one_fold_even_with_different_labels() -> None:
    classes = np.array([0, 0, 0, 1, 1, 1])
    digests = [digest(i) for i in (1, 1, 2, 1, 3, 4)]

    folds = assign_folds(digests, classes, 2)

    assert folds[0] == folds[1] == folds[3]


def test_groups_are_in_one_fold_and_even_the_folds_out() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 20, 200)  # about ten examples each
    classes = groups % 2
    keys = [digest(group) for group in groups.tolist()]

    folds = assign_folds(keys, classes, 5)
    part = select_part(keys, classes, 0.2)

    for group in range(20):
        assert len(set(folds[groups == group])) == len(set(part[groups == group])) == 1
    for class_ in range(2):
        sizes = np.bincount(folds[classes == class_], minlength=5)
        largest = max(np.bincount(groups[classes == class_]))
        assert np.ptp(sizes) <= largest
        share = part[classes == class_].mean()
        assert abs(share - 0.2) <= largest / np.sum(classes == class_)


def test_selection_part_takes_a_large_group_rather_than_none() -> None:
    # Three groups of 30; 18 examples are wanted.
    keys = [digest(i // 30) for i in range(90)]

    assert select_part(keys, np.zeros(90, np.int64), 0.2).sum() == 30


def test_selection_part_has_its_share_of_every_label_and_leaves_one() -> None:
    classes = np.array([0] * 50 + [1] * 3 + [2])
    digests = [digest(i) for i in range(54)]

    chosen = select_part(digests, classes, 0.2)

    assert [int(chosen[classes == each].sum()) for each in range(3)] == [10, 1, 0]
    assert not select_part(digests, classes, 1.0)[classes == 2].any()


def test_class_weights_make_the_total_weight_of_labels_equal() -> None:
    classes = np.array([0] * 90 + [1] * 10)

    full, none = (class_weights(classes, 2, exponent)[classes] for exponent in (1.0, 0.0))

    assert full[classes == 0].sum() == pytest.approx(full[classes == 1].sum())
    assert full.mean() == pytest.approx(1)
    np.testing.assert_array_equal(none, 1)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_that_was_applied_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, N))
    classes = np.array([rng.choice(N, p=p) for p in softmax(logits)])

    assert fit_temperature(logits * temperature, classes) == pytest.approx(temperature, rel=0.1)
    assert np.mean(log_losses(logits, classes)) > 0.5


@pytest.mark.parametrize(("num_examples", "precision"), [(25, 0.7), (100, 0.9), (400, 0.5)])
def test_forecast_covers_the_measured_score_in_nine_of_ten_cases(
    num_examples: int, precision: float
) -> None:
    rng = np.random.default_rng(0)
    error = 1 - precision
    final = error * 0.8**heads.ERROR_EXPONENT
    covered = 0
    for _ in range(1000):
        is_correct = rng.random(num_examples) >= error
        _, low, high = forecast(is_correct, fitted_share=0.8, num_scored=50)
        covered += low <= 1 - rng.binomial(50, final) / 50 <= high

    # More than nine of ten, because here labels have equal shares among new pictures.
    assert 0.9 <= covered / 1000 <= 0.99


def test_forecast_without_an_error_is_not_certain() -> None:
    score, low, high = forecast(np.ones(20, np.bool_), fitted_share=0.8, num_scored=0)

    assert score == high == 1
    assert low < 0.95


def test_temperature_of_a_head_without_a_mistake_is_moderate() -> None:
    classes = np.arange(30) % N

    assert 0.1 < fit_temperature(6.0 * np.eye(N)[classes], classes) < 1.5
