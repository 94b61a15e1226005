import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from repot.model_spec import View
from repot.selection_record import SelectionRecord
from repot.trainer.auto import selection
from repot.trainer.auto.selection import CANDIDATES, VIEWS, TrainingFeatures, select_head

SIZES = (6, 4)
"""Length of the backbone's own features, and of those from inside it."""


def make_features(
    counts: tuple[int, ...],
    *,
    signal: dict[View, tuple[float, float]],
    sizes: tuple[int, ...] = SIZES,
    seed: int = 0,
) -> TrainingFeatures:
    """Return features in which a view tells labels apart as strongly as its signal says.

    Args:
        counts: Pictures per label.
        signal: By view: strength in the own features, and in those from inside the backbone.
        sizes: Lengths of the parts.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    tables: dict[Any, Any] = {}
    for view in VIEWS:
        table = np.abs(rng.normal(size=(len(classes), sum(sizes))))
        for first, strength in zip((0, sizes[0]), signal.get(view, (0.0, 0.0)), strict=True):
            if first < sum(sizes):
                table[np.arange(len(classes)), first + classes] += strength
        tables[view] = table.astype(np.float32)
    digests = np.array(
        [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(len(classes))], "S32"
    )
    return TrainingFeatures(
        tables=tables, sizes=sizes, classes=classes, digests=digests, num_classes=len(counts)
    )


def test_a_picture_belongs_to_its_group_or_to_its_content() -> None:
    features = make_features((3, 2), signal={})
    groups = np.array([b"", b"g", b"g", b"", b"h"], "S16")
    grouped = dataclasses.replace(features, groups=groups)

    digests = [bytes(digest) for digest in features.digests]
    assert features.keys(slice(None)) == digests
    assert grouped.keys(slice(None)) == [digests[0], b"g", b"g", digests[3], b"h"]
    assert grouped.keys([4, 0]) == [b"h", digests[0]]


def test_pictures_of_a_group_do_not_vouch_for_each_other() -> None:
    # Five groups of nearly equal pictures per label, whose features say nothing about the label.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 8)
    centres = rng.normal(size=(20, 24))
    table = np.abs(centres[groups] + 0.01 * rng.normal(size=(160, 24))).astype(np.float32)
    features = dataclasses.replace(
        make_features((40, 40, 40, 40), signal={}), tables=dict.fromkeys(VIEWS, table)
    )
    names = np.array([hashlib.sha256(bytes([group])).digest()[:16] for group in groups], "S16")

    alone, grouped = (
        choose(each).record for each in (features, dataclasses.replace(features, groups=names))
    )

    assert alone.forecast.precision_at_1 > 0.9  # a neighbour from the same group is in another fold
    assert grouped.forecast.precision_at_1 < 0.5
    assert grouped.method.endswith("groups kept together")
    assert "groups" not in alone.method


def choose(features: TrainingFeatures, balance: str = "auto") -> Any:
    return select_head(features, balance=balance, num_validation=50, fine_tuning="not tried")


def test_best_candidate_is_chosen_if_it_is_clearly_better() -> None:
    features = make_features((120, 120), signal={"central": (4.0, 0.0)})

    assert choose(features).candidate == CANDIDATES[3]


def test_first_candidate_is_chosen_if_none_is_clearly_better() -> None:
    everywhere = dict.fromkeys(VIEWS, (2.0, 2.0))
    features = make_features((40, 40, 40), signal=everywhere)

    chosen = choose(features)

    assert chosen.candidate == CANDIDATES[0]
    assert [each.is_chosen for each in chosen.record.candidates] == [True, False, False, False]
    rows = features.rows(chosen.candidate, slice(0, 120))
    assert np.mean(chosen.head.logits(rows).argmax(axis=1) == features.classes) > 0.95
    assert chosen.record.forecast.low < chosen.record.forecast.high
    assert SelectionRecord.from_text(chosen.record.to_text()) == chosen.record


def test_backbone_without_inner_features_has_no_candidate_with_them() -> None:
    features = make_features((20, 20), signal=dict.fromkeys(VIEWS, (2.0, 0.0)), sizes=SIZES[:1])

    record = choose(features).record

    assert [each.name for each in record.candidates] == [
        each.name for each in CANDIDATES if not each.use_depths
    ]


@pytest.mark.parametrize(
    ("counts", "balance", "is_tried"),
    [
        ((100, 10), "auto", False),
        ((101, 10), "auto", True),
        ((40, 40), "on", True),
        ((200, 10), "off", False),
    ],
)
def test_class_weights_are_tried_if_labels_are_very_unequal_or_by_setting(
    counts: tuple[int, int], balance: str, is_tried: bool
) -> None:
    record = choose(make_features(counts, signal=dict.fromkeys(VIEWS, (1.0, 1.0))), balance).record

    assert any("class weights" in each.name for each in record.candidates) == is_tried
    assert (record.balance.startswith("class weights")) == (is_tried or balance == "off")
    assert str(max(counts)) in record.balance


def test_chosen_class_weights_raise_the_mean_recall() -> None:
    record = choose(make_features((300, 12), signal=dict.fromkeys(VIEWS, (0.3, 0.3)))).record

    unweighted = next(each for each in record.candidates if "class weights" not in each.name)
    (chosen,) = [each for each in record.candidates if each.is_chosen]
    assert record.class_weight > 0
    assert chosen.mean_recall > unweighted.mean_recall + 0.05


def test_choice_does_not_depend_on_the_order_of_the_pictures() -> None:
    features = make_features((30, 30), signal=dict.fromkeys(VIEWS, (1.0, 1.0)))
    order = np.random.default_rng(1).permutation(60)
    shuffled = TrainingFeatures(
        tables={view: table[order] for view, table in features.tables.items()},
        sizes=SIZES,
        classes=features.classes[order],
        digests=features.digests[order],
        num_classes=2,
    )

    first, second = choose(features), choose(shuffled)

    assert first.candidate == second.candidate
    assert first.record.penalty == second.record.penalty
    np.testing.assert_allclose(first.head.kernel, second.head.kernel, rtol=1e-3, atol=1e-3)


def test_of_many_pictures_a_fixed_sample_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_ROWS", 50)
    features = make_features((60, 60), signal=dict.fromkeys(VIEWS, (2.0, 2.0)))

    record = choose(features).record

    assert record.num_examples == 50


def test_one_label_is_always_right() -> None:
    record = choose(make_features((8,), signal={})).record

    assert record.candidates[0].precision_at_1 == 1
    assert record.forecast.high == 1
