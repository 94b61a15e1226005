"""Recipe `auto`, second part: try to fine-tune the whole network, and keep it if it is better.

A trial starts from the chosen head, fitted to four fifths of the training pictures, or to all but
MAX_SELECTED: head first, then the whole network (Kumar et al. 2022). The rest, the selection part,
chooses the epoch, and decides by a paired comparison whether fine-tuning is kept; classes have the
weights that the head was chosen with. Then the network is trained again, from the checkpoint and on
all training pictures, for as many epochs. The states after the best epochs are averaged one by one,
and with the weights before, as long as that is not worse on the selection part.

    <run>/state/auto-trial.npz          the head, the selection part, and how the head scores it
    <run>/state/auto-trial-...          states of the trial, see `repot.trainer.auto.averages`
    <run>/state/auto-fine-tuning.json   FineTuningDecision
    <run>/state/auto-final-...          states of the final training

Several workers train together. What is decided, the one that writes decides, and the others read.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from repot import progress
from repot.backbone_weights import load_weights
from repot.classifier import UnlikeScore
from repot.json_record import JsonRecord
from repot.model_spec import ModelCalibration
from repot.selection_record import CandidateRecord, ForecastRecord
from repot.settings import TrainingSettings
from repot.trainer.auto.averages import (
    NUM_STATES,
    KeptStates,
    Values,
    assign,
    average_greedily,
    average_with,
)
from repot.trainer.auto.heads import (
    FloatArray,
    IntArray,
    LinearHead,
    fit_head,
    forecast,
    log_losses,
    mean_recall,
    select_part,
)
from repot.trainer.auto.network import (
    FineTuning,
    Scorer,
    head_of,
    make_phase,
    start,
    training_pictures,
)
from repot.trainer.auto.plan import MIN_EPOCHS, FineTuningPlan, selection_share
from repot.trainer.auto.selection import FeatureLoader, TrainingFeatures
from repot.trainer.calibration import (
    MAX_FITTED,
    HeldOut,
    calibrate,
    fit_unlike,
    spread,
    with_threshold,
)
from repot.trainer.loop import fit
from repot.trainer.phases import Selection
from repot.trainer.strategy import value_of_chief, wait_for_all

SHARE_OF_BEFORE = 0.5
"""Share of the weights before fine-tuning in the average that is tried with them."""

_DECISION_NAME = "auto-fine-tuning.json"
_HEAD_NAME = "auto-trial.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningDecision(JsonRecord):
    """What the trial showed.

    Attributes:
        is_chosen: Whether fine-tuning is kept.
        epochs: Epochs after which the states are averaged, the best one first.
        share: Share of that average in the one with the weights before.
        temperature: Temperature of the fine-tuned network.
        num_correct_before, num_correct: Pictures of the selection part that the head alone, and the
            fine-tuned network, classify correctly.
        num_examples: Pictures of the selection part.
        candidates: The scores of both on the selection part.
        forecast: The score that is forecast for the fine-tuned network.
        calibration: What the fine-tuned network promises.
        unlike_threshold: The threshold of its score `unlike`, as a squared distance.
        is_weighted: Whether pictures of small classes counted more.
    """

    is_chosen: bool
    epochs: tuple[int, ...]
    share: float
    temperature: float
    num_correct_before: int
    num_correct: int
    num_examples: int
    candidates: tuple[CandidateRecord, ...]
    forecast: ForecastRecord
    calibration: ModelCalibration
    unlike_threshold: float
    is_weighted: bool = False

    @property
    def text(self) -> str:
        """The decision for people."""
        counts = (
            f"of {self.num_examples} pictures of the selection part, the head alone classified "
            f"{self.num_correct_before} correctly, the fine-tuned network {self.num_correct}"
        )
        if self.is_weighted:
            counts += "; those of small labels count more"
        if not self.is_chosen:
            return f"tried and not kept: {counts}"
        states = "the state" if len(self.epochs) == 1 else "the mean of the states"
        epochs = ", ".join(map(str, sorted(self.epochs)))
        before = "" if self.share == 1 else f", averaged with {1 - self.share:.0%} of those before"
        return f"kept, with {states} after epoch {epochs}{before}: {counts}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trial:
    """What the trial starts from.

    Attributes:
        head: Fitted to all training pictures but the selection part.
        part: bool [num_examples], the selection part.
        logits: float64 [n, N], of the selection part with the head alone.
        classes: int64 [n], its classes.
        weights: float64 [n], the weights of its pictures.
    """

    head: LinearHead
    part: npt.NDArray[np.bool_]
    logits: FloatArray
    classes: IntArray
    weights: FloatArray

    def mean_loss(self, logits: FloatArray) -> float:
        """Return the weighted mean loss of logits of the selection part, float64 [n, N]."""
        return float(np.average(log_losses(logits, self.classes), weights=self.weights))


def try_fine_tuning(
    work: FineTuning,
    plan: FineTuningPlan,
    features: FeatureLoader,
    penalty: float,
    settings: TrainingSettings,
) -> FineTuningDecision:
    """Run the trial and decide; the decision is stored.

    Args:
        work: What to fine-tune.
        plan: How long.
        features: Loads the features of the training pictures; needed at the first start only.
        penalty: Penalty of the trial's head.
        settings: What the model promises.
    """
    run = work.run
    stored = run.read(_DECISION_NAME)
    if stored is not None:
        return FineTuningDecision.from_text(stored.decode())
    trial = _start_trial(work, features, penalty)
    selected, fitted = np.flatnonzero(trial.part), np.flatnonzero(~trial.part)
    model, initial = start(work, trial.head)
    states = KeptStates(run.store, "auto-trial", model, most=NUM_STATES)
    fit(
        make_phase(
            work,
            "auto_trial",
            model,
            training_pictures(work, fitted),
            epochs=plan.epochs,
            schedule_epochs=plan.epochs,
            selection=Selection(
                batches=training_pictures(work, selected).scoring_batches,
                score=lambda logits, labels: _selection_score(work, logits, labels),
                patience=MIN_EPOCHS,
            ),
            after_epoch=states.keep,
        ),
        run,
    )
    wait_for_all(run.strategy)  # The states are stored.
    scorer = Scorer(work)

    def loss_of(values: Values) -> float:
        assign(model, values)
        logits = scorer.score(selected, head_of(model).logits)
        return value_of_chief(run.strategy, trial.mean_loss(logits))

    epochs, tuned, loss = average_greedily(states.best_first(), states.read, loss_of)
    share = 1 - SHARE_OF_BEFORE
    if loss_of(average_with(initial, tuned, share)) >= loss:
        share = 1.0
    assign(model, average_with(initial, tuned, share))
    head, unlike = head_of(model), fit_unlike(scorer.score(spread(fitted, MAX_FITTED)))
    # float64 [n, N + 1]
    scores = scorer.score(
        selected, lambda rows: np.column_stack([head.logits(rows), unlike.scores(rows)])
    )
    unlike = with_threshold(unlike, scores[:, -1], settings.unlike_rate)
    load_weights(work.backbone, work.weights_path)
    text = run.decide(
        _DECISION_NAME,
        lambda: (
            _decide(
                work,
                trial,
                scores[:, :-1],
                epochs=tuple(epochs),
                share=share,
                unlike_threshold=unlike.threshold,
                settings=settings,
            )
            .to_text()
            .encode()
        ),
    )
    decision = FineTuningDecision.from_text(text.decode())
    if run.store.is_writer:
        progress.notice("train", f"fine-tuning {decision.text}")
    return decision


def _decide(
    work: FineTuning,
    trial: _Trial,
    logits: FloatArray,
    *,
    epochs: tuple[int, ...],
    share: float,
    unlike_threshold: float,
    settings: TrainingSettings,
) -> FineTuningDecision:
    """Compare the logits of the head alone and of the fine-tuned network on the selection part."""
    before, classes = trial.logits, trial.classes
    was_right, is_right = (each.argmax(axis=1) == classes for each in (before, logits))
    is_chosen = is_better(trial.weights * (is_right.astype(np.float64) - was_right))
    num_validation = work.pictures["validation"].num_examples
    expected, low, high = forecast(
        is_right, fitted_share=1 - len(classes) / len(trial.part), num_scored=num_validation
    )
    place = f"on {len(classes)} pictures of the selection part"
    held_out = HeldOut(
        logits=logits, classes=classes, method="the selection part of the training pictures"
    )
    temperature, calibration = calibrate(held_out, settings=settings)
    return FineTuningDecision(
        is_chosen=is_chosen,
        epochs=epochs,
        share=share,
        temperature=temperature,
        num_correct_before=int(was_right.sum()),
        num_correct=int(is_right.sum()),
        num_examples=len(classes),
        candidates=tuple(
            CandidateRecord(
                name=f"{work.candidate.name}, {kind}; {place}",
                precision_at_1=float(np.mean(each.argmax(axis=1) == classes)),
                mean_recall=mean_recall(each, classes),
                loss=float(np.mean(log_losses(each, classes))),
                is_chosen=is_chosen and kind == "fine-tuned",
            )
            for kind, each in (("head alone", before), ("fine-tuned", logits))
        ),
        forecast=ForecastRecord(
            precision_at_1=expected, low=low, high=high, num_examples=num_validation
        ),
        calibration=calibration,
        unlike_threshold=unlike_threshold,
        is_weighted=bool(np.ptp(work.class_weights) > 0),
    )


def is_better(gains: FloatArray) -> bool:
    """Return whether fine-tuning is better by more than one standard error.

    Args:
        gains: float64 [n], of each picture of the selection part: its weight if only the fine-tuned
            network classifies it correctly, minus its weight if only the head alone does, else 0.
    """
    gain = float(gains.sum())
    return gain > 0 and gain**2 > float(np.sum(gains**2))


def fine_tune(
    work: FineTuning, selected: LinearHead, plan: FineTuningPlan, decision: FineTuningDecision
) -> tuple[LinearHead, UnlikeScore]:
    """Fine-tune on all training pictures; return what goes with the network.

    The threshold of the score is that of the trial: these pictures have trained the network, so
    they look more like each other than new ones do.
    """
    model, initial = start(work, selected)
    states = KeptStates(work.run.store, "auto-final", model, most=len(decision.epochs))

    def keep(epoch: int, _: float | None) -> None:
        if epoch in decision.epochs:
            states.keep(epoch, None)

    phase = make_phase(
        work,
        "fine_tune",
        model,
        training_pictures(work, None),
        epochs=max(decision.epochs),
        schedule_epochs=plan.epochs,
        after_epoch=keep,
    )
    fit(phase, work.run)
    wait_for_all(work.run.strategy)  # The states are stored.
    kept = [states.read(epoch) for epoch in decision.epochs]
    tuned = [sum(values) / len(kept) for values in zip(*kept, strict=True)]
    assign(model, average_with(initial, tuned, decision.share))
    unlike = fit_unlike(Scorer(work).score(spread(work.pictures["train"].numbers, MAX_FITTED)))
    return head_of(model), replace(unlike, threshold=decision.unlike_threshold)


def _start_trial(work: FineTuning, features: FeatureLoader, penalty: float) -> _Trial:
    """Return what the trial starts from, which is stored."""
    while (data := work.run.read(_HEAD_NAME)) is None:
        table = features.load()
        if table is not None:
            work.run.store.write_file(_HEAD_NAME, _fit_trial_head(work, table, penalty))
    with np.load(io.BytesIO(data)) as stored:
        return _Trial(
            head=LinearHead(kernel=stored["kernel"], bias=stored["bias"]),
            part=stored["part"],
            logits=stored["logits"],
            classes=stored["classes"],
            weights=work.class_weights[stored["classes"]],
        )


def _selection_score(work: FineTuning, logits: FloatArray, labels: IntArray) -> float:
    """Return minus the weighted mean loss of pictures, see `Selection`."""
    losses = log_losses(np.asarray(logits, np.float64)[:, 1:], labels - 1)
    return -float(np.average(losses, weights=work.class_weights[labels - 1]))


def _fit_trial_head(work: FineTuning, table: TrainingFeatures, penalty: float) -> bytes:
    """Return a file with the head of the trial and what it scores."""
    part = select_part(table.keys(slice(None)), table.classes, selection_share(len(table.classes)))
    fitted = np.flatnonzero(~part)
    head = fit_head(
        lambda which: table.rows(work.candidate, fitted[which]),
        sum(table.part_sizes(work.candidate)),
        table.classes[fitted],
        table.num_classes,
        penalty=penalty,
        weights=work.class_weights[table.classes[fitted]],
    )
    buffer = io.BytesIO()
    np.savez(
        buffer,
        kernel=head.kernel,
        bias=head.bias,
        part=part,
        logits=head.logits(table.rows(work.candidate, np.flatnonzero(part))),
        classes=table.classes[part],
    )
    return buffer.getvalue()
