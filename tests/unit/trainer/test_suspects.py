"""Suspects among the training pictures: planted wrong labels, on features of real pictures."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from repot.label_suspects import LabelSuspects
from repot.trainer import suspects
from repot.trainer.auto.selection import TrainingFeatures
from repot.trainer.state import StateStore
from repot.trainer.suspects import find_suspects, keep_suspects, write_suspects


def make_features(counts: tuple[int, ...], *, flipped: int = 0, seed: int = 0) -> TrainingFeatures:
    """Return features of labels that are easy to tell apart; the first labels are wrong.

    Args:
        counts: Pictures per label.
        flipped: Number of pictures whose label is the next one.
        seed: Seed of the features and of their order.
    """
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    table = np.abs(rng.normal(size=(len(true), 24)))
    table[np.arange(len(true)), true] += 4.0
    classes = true.copy()
    classes[:flipped] = (classes[:flipped] + 1) % len(counts)
    digests = [hashlib.sha256(row.tobytes()).digest() for row in table]
    return TrainingFeatures(
        tables={"central": table.astype(np.float32)},
        sizes=(24,),
        classes=classes,
        digests=np.array(digests, "S32"),
        num_classes=len(counts),
    )


def _numbers(found: LabelSuspects) -> set[int]:
    return {suspect.number for suspect in found.suspects}


def _scores(found: LabelSuspects, planted: set[int]) -> tuple[float, float]:
    """Return recall and precision."""
    hits = len(_numbers(found) & planted)
    return hits / len(planted), hits / max(1, len(found.suspects))


def test_planted_wrong_labels_are_found_with_their_right_label() -> None:
    features = make_features((50, 50, 50, 50), flipped=10)

    found = find_suspects(features)

    recall, precision = _scores(found, set(range(10)))
    assert recall >= 0.9
    assert precision >= 0.7
    right = [(features.classes[suspect.number] - 1) % 4 for suspect in found.suspects[:9]]
    assert [suspect.likely for suspect in found.suspects[:9]] == right
    assert found.num_judged == found.num_examples == 200
    assert 0.02 < found.noise_rate < 0.1


def test_larger_datasets_are_judged_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_features((100, 100, 100), flipped=15)
    monkeypatch.setattr(suspects, "MAX_FITTED", 120)
    monkeypatch.setattr(suspects, "MAX_DIVIDED", 100)
    monkeypatch.setattr(suspects, "MAX_ROWS", 64)  # several parts outside of the sample

    found = find_suspects(features)

    recall, precision = _scores(found, set(range(15)))
    assert recall >= 0.8
    assert precision >= 0.6
    assert found.num_examples == 300


def test_copies_do_not_vouch_for_each_other() -> None:
    features = make_features((40, 40, 40), flipped=4)
    # Each wrong picture is there three times, with the same wrong label.
    rows = np.concatenate([np.arange(120), np.arange(4), np.arange(4)])
    copied = dataclasses.replace(
        features,
        tables={"central": features.tables["central"][rows]},
        classes=features.classes[rows],
        digests=features.digests[rows],
    )

    assert set(range(4)) | set(range(120, 128)) <= _numbers(find_suspects(copied))


def test_pictures_of_a_group_do_not_vouch_for_each_other() -> None:
    features = make_features((40, 40, 40), flipped=4)
    # Each wrong picture is there three times, changed so little that only its group tells.
    rows = np.concatenate([np.arange(120), np.arange(4), np.arange(4)])
    table = features.tables["central"][rows]
    table += np.random.default_rng(1).normal(scale=0.001, size=table.shape).astype(np.float32)
    groups = np.array([b"%d" % row if row < 4 else b"" for row in rows], "S16")
    copied = dataclasses.replace(
        features,
        tables={"central": table},
        classes=features.classes[rows],
        digests=np.array([hashlib.sha256(row.tobytes()).digest() for row in table], "S32"),
        groups=groups,
    )
    wrong = set(range(4)) | set(range(120, 128))

    assert wrong <= _numbers(find_suspects(copied))
    assert not wrong <= _numbers(find_suspects(dataclasses.replace(copied, groups=None)))


def test_labels_with_few_pictures_are_not_judged() -> None:
    found = find_suspects(make_features((60, 60, 4, 1)))

    assert (found.num_examples, found.num_judged) == (125, 120)
    assert len(found.suspects) <= 2


def test_result_does_not_depend_on_the_order_of_the_pictures() -> None:
    features = make_features((40, 40, 40), flipped=6)
    order = np.random.default_rng(1).permutation(120)
    shuffled = dataclasses.replace(
        features,
        tables={"central": features.tables["central"][order]},
        classes=features.classes[order],
        digests=features.digests[order],
    )

    first, second = find_suspects(features), find_suspects(shuffled)

    assert _numbers(first) == {int(order[number]) for number in _numbers(second)}


def test_suspects_are_kept_and_published_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make_features((30, 30), flipped=3)
    store = StateStore(str(tmp_path), "t")
    keep_suspects(store, features)
    stored = (tmp_path / "state" / "suspects.json").read_bytes()
    monkeypatch.setattr(suspects, "find_suspects", None)

    keep_suspects(StateStore(str(tmp_path), "t"), features)
    keep_suspects(StateStore(str(tmp_path / "other"), "t", is_writer=False), features)
    write_suspects(store, str(tmp_path))

    assert (tmp_path / "suspects.json").read_bytes() == stored
    assert LabelSuspects.from_text(stored.decode()) == find_suspects(features)
    assert not (tmp_path / "other").exists()


def test_neighbours_vote_except_those_of_the_same_group() -> None:
    features = make_features((40, 40))
    groups = [b"same" if number < 30 else b"" for number in range(80)]
    features = dataclasses.replace(features, groups=np.array(groups, "S32"))
    everything = np.arange(80)
    candidate = suspects._widest(features)
    # All of the group have one label, whatever they show.
    classes = np.where(everything < 30, 0, features.classes)
    voters = suspects._Neighbours(
        dataclasses.replace(features, classes=classes), candidate, everything
    )

    rows, keys = features.rows(candidate, everything), features.keys(everything)
    votes, with_own_group = voters.votes(rows, keys), voters.votes(rows, [b""] * 80)

    np.testing.assert_allclose(np.exp(votes).sum(axis=1), 1)
    agree, would_agree = (
        np.mean(each[:30].argmax(axis=1) == features.classes[:30])
        for each in (votes, with_own_group)
    )
    assert agree >= 0.8
    assert would_agree < 0.8
