"""Recipe `auto`: features, cross-validation on them, a head, and the model that is published.

    <run>/state/auto-plan.json  FineTuningPlan: whether fine-tuning is tried
    <run>/state/auto.json       AutoState: what cross-validation chose
    <run>/state/auto.npz        the head, what it promises, and the weights of classes
    <run>/state/auto-...        see `repot.trainer.auto.fine_tuning`

Each is written once it is decided. A resumed training reads them, so that no decision is taken
twice, in particular none that depends on the speed of the machine.

Each of several workers computes its share of the features and of the fine-tuning. The one that
writes chooses the head and all the rest, and the others read its choice.
"""

import io
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repot import progress
from repot.classifier import (
    FeatureNetwork,
    UnlikeScore,
    feature_network,
    network_spec,
    published_linear_model,
)
from repot.example_digests import Digests
from repot.json_record import JsonRecord
from repot.model_spec import ModelCalibration, ModelSpec
from repot.recipes import AUGMENTATIONS
from repot.selection_record import ForecastRecord, SelectionRecord
from repot.settings import TrainingSettings
from repot.trainer.auto.fine_tuning import FineTuningDecision, fine_tune, try_fine_tuning
from repot.trainer.auto.heads import FloatArray, LinearHead, log_losses
from repot.trainer.auto.network import FineTuning
from repot.trainer.auto.plan import FineTuningPlan, plan_fine_tuning
from repot.trainer.auto.selection import (
    CALIBRATION_FOLDS,
    CANDIDATES,
    NUM_FOLDS,
    VIEWS,
    FeatureLoader,
    SelectedHead,
    TrainingFeatures,
    select_head,
)
from repot.trainer.batches import Pictures
from repot.trainer.calibration import (
    HeldOut,
    calibrate,
    cross_validate_unlike,
    pack_unlike,
    sample_rows,
    unpack_unlike,
)
from repot.trainer.features import FeatureReader
from repot.trainer.loop import TrainingRun
from repot.trainer.position import Sums
from repot.trainer.strategy import has_gpu, measure_exchange
from repot.trainer.suspects import keep_suspects

PHASE = "head"
LARGE_DATASET = 20_000
"""Training pictures from which on RandAugment and mixup are the default of fine-tuning."""

_PLAN_NAME = "auto-plan.json"
_RECORD_NAME = "auto.json"
_HEAD_NAME = "auto.npz"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoState(JsonRecord):
    """What auto.json holds.

    Attributes:
        candidate: Name of the chosen candidate.
        record: How it was chosen.
        calibration: What the model promises.
        train_loss, train_precision_at_1: Scores of the head on the training pictures.
        seconds: Duration of the choice.
    """

    candidate: str
    record: SelectionRecord
    calibration: ModelCalibration
    train_loss: float
    train_precision_at_1: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AutoModel:
    """The result of recipe `auto`.

    Attributes:
        model: The published keras.Model.
        spec: Its views and temperature.
        record: How it was chosen.
    """

    model: Any
    spec: ModelSpec
    record: SelectionRecord


def train_auto(
    classifier: Any,
    *,
    pictures: Mapping[str, Pictures],
    reader: FeatureReader,
    weights_path: Path,
    settings: TrainingSettings,
    run: TrainingRun,
    groups: Digests | None = None,
) -> AutoModel:
    """Choose a configuration on the training pictures and train it on all of them.

    Validation pictures take no part; their number alone is used, for the width of the forecast's
    interval.

    Args:
        classifier: keras.Model from `repot.classifier.build_classifier`.
        pictures: The pictures of each split.
        reader: Reads the features of the classifier's backbone.
        weights_path: The checkpoint's weights, see `repot.backbone_weights`.
        settings: Training settings.
        run: The training.
        groups: The group of each training picture, see `repot.example_digests`.

    Raises:
        StoppedError: The training was asked to stop; the features that were computed are kept.
    """
    network, train = feature_network(classifier, use_depths=True), pictures["train"]
    num_labels = classifier.output.shape[-1] - 1
    plan = _plan(network, train, num_labels=num_labels, settings=settings, run=run)
    loader = FeatureLoader(
        reader,
        network,
        backbone=settings.backbone,
        num_labels=num_labels,
        groups=groups,
        is_reader=run.store.is_writer,
    )
    while (stored := _load(run)) is None:
        features = loader.load()
        if features is not None:
            # Before the choice is kept: a resumed training does not come here again.
            keep_suspects(run.store, features)
            _select(
                features,
                num_validation=pictures["validation"].num_examples,
                plan=plan,
                settings=settings,
                run=run,
            )
    state, head, unlike, class_weights = stored
    candidate = next(each for each in CANDIDATES if each.name == state.candidate)
    _add_to_history(state, train.num_examples, run)
    used = network if candidate.use_depths else feature_network(classifier, use_depths=False)
    record, calibration = state.record, state.calibration
    if plan.epochs:
        work = FineTuning(
            classifier=classifier,
            network=used,
            candidate=candidate,
            weights_path=weights_path,
            pictures=pictures,
            augmentation=_augmentation(settings, train.num_examples),
            flip=not settings.no_flip,
            mixes=_mixes(settings, train.num_examples),
            class_weights=class_weights,
            run=run,
        )
        decision = try_fine_tuning(work, plan, loader, record.penalty, settings)
        record = _record_with(record, decision)
        if decision.is_chosen and run.store.is_writer:
            _print_forecast(decision.forecast)
        if decision.is_chosen:
            head, unlike = fine_tune(work, head, plan, decision)
            calibration = decision.calibration
    spec = ModelSpec(
        backbone=settings.backbone,
        image_size=train.image_size,
        views=candidate.views,
        temperature=record.temperature,
        calibration=calibration,
        network=network_spec(
            settings.backbone,
            head="normalised",
            use_depths=candidate.use_depths,
            unlike=unlike,
            weights_path=weights_path,
        ),
    )
    model = published_linear_model(used, head.kernel, head.bias, spec=spec, unlike=unlike)
    return AutoModel(model=model, spec=spec, record=record)


def _plan(
    network: FeatureNetwork,
    train: Pictures,
    *,
    num_labels: int,
    settings: TrainingSettings,
    run: TrainingRun,
) -> FineTuningPlan:
    """Return the stored plan, or make, print and store it."""

    def make(exchange_seconds: float) -> FineTuningPlan:
        plan = plan_fine_tuning(
            network,
            train,
            num_labels=num_labels,
            budget_seconds=settings.budget_seconds(has_gpu=has_gpu()),
            num_replicas=run.strategy.num_replicas_in_sync,
            exchange_seconds=exchange_seconds,
        )
        _print_plan(train.num_examples, len(network.sizes) - 1, plan)
        return plan

    stored = run.read(_PLAN_NAME)
    if stored is None:
        exchange_seconds = measure_exchange(run.strategy, network.model.count_params())
        stored = run.decide(_PLAN_NAME, lambda: make(exchange_seconds).to_text().encode())
    return FineTuningPlan.from_text(stored.decode())


def _augmentation(settings: TrainingSettings, num_examples: int) -> str:
    """Return the augmentation of fine-tuning: the setting, or one that suits the size."""
    if settings.augmentation in AUGMENTATIONS:
        return settings.augmentation
    return "randaugment" if num_examples >= LARGE_DATASET else "light"


def _mixes(settings: TrainingSettings, num_examples: int) -> bool:
    """Return whether training pictures are blended; not if the setting chooses an augmentation."""
    return settings.augmentation not in AUGMENTATIONS and num_examples >= LARGE_DATASET


def _record_with(record: SelectionRecord, decision: FineTuningDecision) -> SelectionRecord:
    """Return the record with what the trial of fine-tuning showed."""
    candidates = record.candidates
    if not decision.is_chosen:
        return replace(
            record, fine_tuning=decision.text, candidates=(*candidates, *decision.candidates)
        )
    return replace(
        record,
        fine_tuning=decision.text,
        candidates=(
            *(replace(each, is_chosen=False) for each in candidates),
            *decision.candidates,
        ),
        temperature=decision.temperature,
        forecast=decision.forecast,
    )


def _select(
    features: TrainingFeatures,
    *,
    num_validation: int,
    plan: FineTuningPlan,
    settings: TrainingSettings,
    run: TrainingRun,
) -> None:
    """Choose by cross-validation, and keep the decisions."""
    started = time.monotonic()
    selected = select_head(
        features,
        balance=settings.class_weights,
        num_validation=num_validation,
        fine_tuning=plan.reason,
    )
    calibration, unlike = calibrate_selected(features, selected, settings)
    loss, precision = _train_scores(features, selected)
    state = AutoState(
        candidate=selected.candidate.name,
        record=selected.record,
        calibration=calibration,
        train_loss=loss,
        train_precision_at_1=precision,
        seconds=time.monotonic() - started,
    )
    _print_choice(state.record)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        kernel=selected.head.kernel,
        bias=selected.head.bias,
        class_weights=selected.class_weights,
        **pack_unlike(unlike),
    )
    run.store.write_file(_HEAD_NAME, buffer.getvalue())
    run.store.write_file(_RECORD_NAME, state.to_text().encode())


def calibrate_selected(
    features: TrainingFeatures, selected: SelectedHead, settings: TrainingSettings
) -> tuple[ModelCalibration, UnlikeScore]:
    """Return what a model with this head promises, from the predictions out of fold."""
    held_out = HeldOut(
        logits=selected.logits,
        classes=features.classes[selected.scored],
        method=f"{CALIBRATION_FOLDS}-fold cross-validation on training pictures"
        + ("" if features.groups is None else ", groups kept together"),
    )
    _, calibration = calibrate(held_out, temperature=selected.record.temperature, settings=settings)
    sample = sample_rows(features.digests[selected.scored])
    unlike = cross_validate_unlike(
        features.rows(selected.candidate, selected.scored[sample]),
        selected.folds[sample],
        settings.unlike_rate,
    )
    return calibration, unlike


def _load(run: TrainingRun) -> tuple[AutoState, LinearHead, UnlikeScore, FloatArray] | None:
    """Return what `_select` kept, the weights of classes last; None before it did."""
    text, data = run.read(_RECORD_NAME), run.read(_HEAD_NAME)
    if text is None or data is None:
        return None
    with np.load(io.BytesIO(data)) as arrays:
        head = LinearHead(kernel=arrays["kernel"], bias=arrays["bias"])
        unlike, class_weights = unpack_unlike(arrays), arrays["class_weights"]
    return AutoState.from_text(text.decode()), head, unlike, class_weights


def _train_scores(features: TrainingFeatures, selected: SelectedHead) -> tuple[float, float]:
    """Return loss and precision@1 of the head on the training pictures."""
    loss, num_correct, num_rows = 0.0, 0, len(features.classes)
    for first in range(0, num_rows, 8192):
        part = slice(first, min(first + 8192, num_rows))
        logits = selected.head.logits(features.rows(selected.candidate, part))
        loss += float(np.sum(log_losses(logits, features.classes[part])))
        num_correct += int(np.sum(logits.argmax(axis=1) == features.classes[part]))
    return loss / num_rows, num_correct / num_rows


def _add_to_history(state: AutoState, num_examples: int, run: TrainingRun) -> None:
    """Record the head as one epoch; its validation scores follow in the evaluation."""
    if run.position.result_of(PHASE) is not None:
        return
    run.position.start_phase(PHASE)
    sums = Sums(
        loss=state.train_loss * num_examples,
        correct=state.train_precision_at_1 * num_examples,
        num_examples=float(num_examples),
    )
    run.position.finish_step(sums, epoch_seconds=state.seconds)
    run.position.finish_epoch(Sums(0.0, 0.0, 0.0), learning_rate=0.0)
    run.position.finish_phase(num_steps=1)


def _print_plan(num_examples: int, num_depths: int, plan: FineTuningPlan) -> None:
    depths = f", with {num_depths} depths each" if num_depths else ""
    progress.notice(
        "train",
        f"plan of recipe auto: features of {num_examples} training pictures from {len(VIEWS)} "
        f"views{depths}; {NUM_FOLDS}-fold cross-validation of views, depths, penalty and class "
        "weights; then the best head on all training pictures. The time is that of computing "
        f"features {len(VIEWS)} times, unless they are stored. Fine-tuning: {plan.reason}",
    )


def _print_choice(record: SelectionRecord) -> None:
    for candidate in record.candidates:
        _log.info(
            "%s: precision@1 %.3f, loss %.3f%s",
            candidate.name,
            candidate.precision_at_1,
            candidate.loss,
            ", chosen" if candidate.is_chosen else "",
        )
    progress.notice(
        "train",
        f"chosen: {next(each.name for each in record.candidates if each.is_chosen)}",
    )
    _print_forecast(record.forecast)


def _print_forecast(forecast: ForecastRecord) -> None:
    progress.notice(
        "train",
        f"forecast of precision@1 {forecast.precision_at_1:.3f}, 90 % interval "
        f"{forecast.low:.3f} to {forecast.high:.3f}",
    )
