"""The choices of recipe `auto`, made by cross-validation on the training pictures alone.

Candidates are features of several views and depths, see `CANDIDATES`; penalties of the head's
weights; and, where labels are very unequal in size, class weights. Every choice is a pure function
of features, labels and contents of the pictures, so it is the same after a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repot.classifier import FeatureNetwork, normalise_features
from repot.model_spec import View
from repot.selection_record import CandidateRecord, ForecastRecord, SelectionRecord
from repot.trainer.auto.heads import (
    MAX_ROWS,
    FloatArray,
    IntArray,
    LinearHead,
    assign_folds,
    class_weights,
    cross_validate,
    fit_head,
    fit_temperature,
    forecast,
    log_losses,
    mean_recall,
)
from repot.trainer.features import FeatureReader, PictureView

NUM_FOLDS = 5
CALIBRATION_FOLDS = 10
"""Folds of the chosen head alone, for its temperature and promises. Its heads are fitted to nine
tenths of the pictures: with four fifths, sets covered 91 % where 90 % were promised."""
PENALTIES = (1e-5, 1e-4, 1e-3)
"""Wider and finer grids are no better: over seven small sets with 5 to 50 pictures per label and
two splits each, precision@1 on new pictures was .7235 with these, .7237 from 1e-6 to 1e-2, and
.7223 with twice as many in between; the best penalty in hindsight would give .7305."""

CLASS_WEIGHTS = (0.0, 0.5, 1.0)
"""Exponents of the class weights that are tried where labels are very unequal in size."""

IMBALANCE_RATIO = 10
"""Labels are very unequal if the largest has more than this many times the smallest's pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Features that a head may use.

    Attributes:
        name: What they are, for people.
        views: The views that features are averaged over.
        use_depths: Whether they include features from inside the backbone.
    """

    name: str
    views: tuple[View, ...]
    use_depths: bool


CANDIDATES: tuple[Candidate, ...] = (
    Candidate(
        name="three views, several depths",
        views=("central", "whole", "padded"),
        use_depths=True,
    ),
    Candidate(
        name="three views, last layer", views=("central", "whole", "padded"), use_depths=False
    ),
    Candidate(name="whole picture, several depths", views=("whole",), use_depths=True),
    Candidate(name="central crop, last layer", views=("central",), use_depths=False),
)
"""The first one is chosen unless another is better by more than two standard errors.

Over seven small sets with 5 to 50 pictures per label, it is 1.6 points better than the last one on
average; one standard error would lose .1 point of that to chance, choosing the lowest loss half a
point.
"""

VIEWS: tuple[View, ...] = ("central", "whole", "padded")
"""Every view of a candidate."""

_DEPTHS_SUFFIX = "+depths"
"""Added to the backbone's name in the feature store, because these features are longer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingFeatures:
    """The features of the training pictures.

    Attributes:
        tables: float32 [n, features] by view.
        sizes: Lengths of the parts of a row, the backbone's own features first.
        classes: int64 [n], in 0..num_classes-1.
        digests: S32 [n], SHA-256 of the contents.
        num_classes: Number of labels.
        groups: S16 [n], the group of each picture, b"" for none; None without groups.
    """

    tables: dict[View, Any]
    sizes: tuple[int, ...]
    classes: IntArray
    digests: Any
    num_classes: int
    groups: Any = None

    def keys(self, rows: Any) -> list[bytes]:
        """Return what some rows belong to: the group, or the content of the picture."""
        digests = map(bytes, self.digests[rows])
        if self.groups is None:
            return list(digests)
        groups = map(bytes, self.groups[rows])
        return [group or digest for group, digest in zip(groups, digests, strict=True)]

    def candidates(self) -> list[Candidate]:
        """Return the candidates that this backbone has features for."""
        has_depths = len(self.sizes) > 1
        return [each for each in CANDIDATES if has_depths or not each.use_depths]

    def part_sizes(self, candidate: Candidate) -> tuple[int, ...]:
        """Return the lengths of the parts that a candidate uses."""
        return self.sizes if candidate.use_depths else self.sizes[:1]

    def rows(self, candidate: Candidate, which: Any) -> FloatArray:
        """Return the normalised features of some rows, averaged over the candidate's views."""
        sizes = self.part_sizes(candidate)
        values = [
            np.asarray(self.tables[view][which], np.float64)[:, : sum(sizes)]
            for view in candidate.views
        ]
        rows: FloatArray = normalise_features(sum(values) / len(values), sizes)
        return rows


class FeatureLoader:
    """Computes the features of the training pictures once, for the worker that decides.

    Args:
        reader: Reads features of the same pictures.
        network: The feature network, with the checkpoint's weights when `load` is called.
        backbone: Name of the backbone.
        num_labels: Number of labels.
        groups: The group of each picture; None without groups.
        is_reader: Whether this worker needs the features of all pictures.
    """

    def __init__(
        self,
        reader: FeatureReader,
        network: FeatureNetwork,
        *,
        backbone: str,
        num_labels: int,
        groups: Any,
        is_reader: bool,
    ) -> None:
        self._reader = reader.with_extractor(
            network.extractor, backbone=f"{backbone}{_DEPTHS_SUFFIX}"
        )
        self._sizes = network.sizes
        self._num_labels = num_labels
        self._groups = groups
        self._is_reader = is_reader
        self._is_loaded = False
        self._features: TrainingFeatures | None = None

    def load(self) -> TrainingFeatures | None:
        """Return the features; every worker computes its share of those that are not stored.

        Every worker must call this. None for workers that do not need them.

        Raises:
            StoppedError: The training was asked to stop; the features that were computed are kept.
        """
        views = [PictureView(view) for view in VIEWS]
        if not self._is_loaded and self._is_reader:
            tables = self._reader.read("train", views)
            self._features = TrainingFeatures(
                tables={view: table.features for view, table in zip(VIEWS, tables, strict=True)},
                sizes=self._sizes,
                classes=np.asarray(tables[0].labels, np.int64) - 1,
                digests=tables[0].digests,
                num_classes=self._num_labels,
                groups=self._groups,
            )
        elif not self._is_loaded:
            self._reader.compute("train", views)
        self._is_loaded = True
        return self._features


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectedHead:
    """The chosen configuration, fitted to all training pictures.

    Attributes:
        candidate: Its features.
        head: Its head.
        class_weights: float64 [N], see `repot.trainer.auto.heads.class_weights`.
        record: How it was chosen.
        scored: int64 [n], the rows of the training pictures that took part in cross-validation.
        folds: int64 [n], the fold of each, one of CALIBRATION_FOLDS.
        logits: float64 [n, N], of heads like the chosen one that were not fitted to the fold.
    """

    candidate: Candidate
    head: LinearHead
    class_weights: FloatArray
    record: SelectionRecord
    scored: IntArray
    folds: IntArray
    logits: FloatArray


def select_head(
    features: TrainingFeatures, *, balance: str, num_validation: int, fine_tuning: str
) -> SelectedHead:
    """Choose features, penalty and class weights; fit the head, temperature and forecast.

    Args:
        features: Features of the training pictures.
        balance: "auto", "on" or "off": whether class weights are tried.
        num_validation: Validation pictures that the forecast is for.
        fine_tuning: Why the network is not fine-tuned, for the record.
    """
    scored = _scored_rows(features)
    classes = features.classes[scored]
    folds = assign_folds(features.keys(scored), classes, NUM_FOLDS)
    trials = [
        _try_candidate(features, candidate, scored, folds) for candidate in features.candidates()
    ]
    chosen = _choose(trials, classes)
    is_tried, reason = _weighs_classes(features.classes, balance)
    if is_tried:
        weighted = [
            _try_weights(features, chosen, scored, folds, exponent)
            for exponent in CLASS_WEIGHTS
            if exponent
        ]
        trials += weighted
        best = max([chosen, *weighted], key=lambda trial: mean_recall(trial.logits, classes))
        reason += f"; {best.weight_text} has the best recall, averaged over labels"
        chosen = best
    weights = class_weights(features.classes, features.num_classes, chosen.exponent)
    head = fit_head(
        lambda which: features.rows(chosen.candidate, which),
        sum(features.part_sizes(chosen.candidate)),
        features.classes,
        features.num_classes,
        penalty=chosen.penalty,
        weights=weights[features.classes],
    )
    calibration_folds = assign_folds(features.keys(scored), classes, CALIBRATION_FOLDS)
    logits = cross_validate(
        features.rows(chosen.candidate, scored),
        classes,
        features.num_classes,
        folds=calibration_folds,
        penalties=[chosen.penalty],
        weights=class_weights(classes, features.num_classes, chosen.exponent)[classes],
    )[chosen.penalty]
    is_correct = chosen.logits.argmax(axis=1) == classes
    score, low, high = forecast(
        is_correct,
        fitted_share=(1 - 1 / NUM_FOLDS) * len(classes) / len(features.classes),
        num_scored=num_validation,
    )
    record = SelectionRecord(
        method=f"{NUM_FOLDS}-fold cross-validation on training pictures"
        + ("" if features.groups is None else ", groups kept together"),
        num_examples=len(classes),
        candidates=tuple(
            CandidateRecord(
                name=trial.name,
                precision_at_1=float(np.mean(trial.logits.argmax(axis=1) == classes)),
                mean_recall=mean_recall(trial.logits, classes),
                loss=float(np.mean(log_losses(trial.logits, classes))),
                is_chosen=trial is chosen,
            )
            for trial in trials
        ),
        penalty=chosen.penalty,
        class_weight=chosen.exponent,
        balance=reason,
        fine_tuning=fine_tuning,
        temperature=fit_temperature(logits, classes),
        forecast=ForecastRecord(
            precision_at_1=score, low=low, high=high, num_examples=num_validation
        ),
    )
    return SelectedHead(
        candidate=chosen.candidate,
        head=head,
        class_weights=weights,
        record=record,
        scored=scored,
        folds=calibration_folds,
        logits=logits,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trial:
    candidate: Candidate
    penalty: float
    exponent: float
    logits: FloatArray

    @property
    def weight_text(self) -> str:
        names = {0.0: "no class weights", 0.5: "half class weights", 1.0: "full class weights"}
        return names[self.exponent]

    @property
    def name(self) -> str:
        return (
            f"{self.candidate.name}, {self.weight_text}" if self.exponent else (self.candidate.name)
        )


def _scored_rows(features: TrainingFeatures) -> IntArray:
    """Return the rows that take part in cross-validation: all, or a fixed sample by content."""
    num_rows = len(features.classes)
    if num_rows <= MAX_ROWS:
        return np.arange(num_rows)
    return np.sort(np.argsort(features.digests, kind="stable")[:MAX_ROWS])


def _try_candidate(
    features: TrainingFeatures, candidate: Candidate, scored: IntArray, folds: IntArray
) -> _Trial:
    classes = features.classes[scored]
    logits = cross_validate(
        features.rows(candidate, scored),
        classes,
        features.num_classes,
        folds=folds,
        penalties=PENALTIES,
    )
    penalty = min(PENALTIES, key=lambda each: float(np.mean(log_losses(logits[each], classes))))
    return _Trial(candidate=candidate, penalty=penalty, exponent=0.0, logits=logits[penalty])


def _try_weights(
    features: TrainingFeatures,
    trial: _Trial,
    scored: IntArray,
    folds: IntArray,
    exponent: float,
) -> _Trial:
    classes = features.classes[scored]
    logits = cross_validate(
        features.rows(trial.candidate, scored),
        classes,
        features.num_classes,
        folds=folds,
        penalties=[trial.penalty],
        weights=class_weights(classes, features.num_classes, exponent)[classes],
    )[trial.penalty]
    return _Trial(
        candidate=trial.candidate, penalty=trial.penalty, exponent=exponent, logits=logits
    )


def _choose(trials: Sequence[_Trial], classes: IntArray) -> _Trial:
    """Return the first trial, or the one with the lowest loss if it is significantly better."""
    losses = [log_losses(trial.logits, classes) for trial in trials]
    chosen = 0
    for i in range(1, len(trials)):
        gains = losses[0] - losses[i]
        error = float(np.std(gains)) / len(gains) ** 0.5
        if np.mean(gains) > 2 * error and np.mean(losses[i]) < np.mean(losses[chosen]):
            chosen = i
    return trials[chosen]


def _weighs_classes(classes: IntArray, balance: str) -> tuple[bool, str]:
    """Return whether class weights are tried, and why."""
    counts = np.bincount(classes)
    counts = counts[counts > 0]
    largest, smallest = int(counts.max()), int(counts.min())
    sizes = f"the largest label has {largest} training pictures, the smallest {smallest}"
    if balance != "auto":
        return balance == "on", f"class weights are {balance} by setting; {sizes}"
    if largest > IMBALANCE_RATIO * smallest:
        return True, f"class weights were tried, because {sizes}"
    return False, f"no class weights, because {sizes}"
