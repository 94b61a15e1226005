"""The gate: may a version go into production, in place of the champion, and why.

What it said against one champion lies in runs/<version>/gate/<champion version>/: predictions.csv, what the champion
says of the version's own validation pictures; verdict.json; report.html.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from repot import layout, storage
from repot.champion import Champion, read_champion
from repot.errors import ModelError
from repot.evaluator.comparison import judge
from repot.evaluator.outcomes import PREDICTIONS_NAME, Outcome, read_outcomes, write_outcomes
from repot.evaluator.publish import EVALUATION_FOLDER
from repot.evaluator.report.data import REPORT_DATA_NAME
from repot.evaluator.report.page import render_report
from repot.evaluator.verdict import NO_CHAMPION, Verdict
from repot.layout import MODEL_RECORD_NAME, REPORT_NAME
from repot.predictor import read_labels

GATE_FOLDER = "gate"
VERDICT_NAME = "verdict.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A verdict, and the report that shows it."""

    verdict: Verdict
    report_html: str
    report_uri: str


def decide(
    *, storage_uri: str, dataset_id: str, training_id: str, model_name: str, min_precision: float
) -> Judged:
    """Judge a version that was evaluated and published, and write verdict and report.

    It is promoted when its precision@1 reaches the threshold and it is right at least as often as the champion, which
    is asked again about the same pictures, its labels matched by name. What the champion said is kept: the same
    comparison again is free. TensorFlow is loaded only to ask a champion. A version that was rolled back is rejected.

    Args:
        storage_uri: Where everything lies.
        dataset_id: The version's data set.
        training_id: The version.
        model_name: The model whose champion it is compared with.
        min_precision: Threshold on precision@1, inclusive.

    Raises:
        ModelError: champion.json names a version that is not there.
        NotFoundError: The version was not evaluated.
    """
    run_uri = layout.run_uri(storage_uri, training_id)
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    champion = _find_champion(storage_uri, model_name)
    champion_version = champion.version if champion else NO_CHAMPION
    gate_uri = storage.join(run_uri, GATE_FOLDER, champion_version)
    challenger = read_outcomes(storage.join(evaluation_uri, PREDICTIONS_NAME))
    said: list[Outcome] | None = None
    unknown_labels: list[str] = []
    is_another_task = False
    if champion is not None and champion_version != training_id:
        champion_uri = layout.model_uri(storage_uri, model_name, champion_version)
        said = _ask_champion(champion_uri, layout.dataset_uri(storage_uri, dataset_id), gate_uri)
        unknown_labels = _unknown(challenger, read_labels(champion_uri))
        is_another_task = set(unknown_labels) == {outcome.label for outcome in challenger}
    verdict = judge(
        challenger,
        said,
        version=training_id,
        champion_version=champion_version,
        min_precision=min_precision,
        unknown_labels=unknown_labels,
        is_another_task=is_another_task,
        was_rolled_back=champion is not None and training_id in champion.rolled_back,
    )
    _log.info("%s: %s", verdict.headline, " ".join(verdict.reasons))
    report_html = render_report(
        storage.read_json(storage.join(evaluation_uri, REPORT_DATA_NAME)), verdict
    )
    report_uri = storage.join(gate_uri, REPORT_NAME)
    storage.write_text(report_uri, report_html)
    storage.write_json(storage.join(gate_uri, VERDICT_NAME), verdict.to_json())
    return Judged(verdict=verdict, report_html=report_html, report_uri=report_uri)


def _find_champion(storage_uri: str, model_name: str) -> Champion | None:
    """Return the champion, which must be there whole."""
    uri = layout.champion_uri(storage_uri, model_name)
    champion = read_champion(uri).champion
    if champion is None:
        return None
    facts_uri = storage.join(
        layout.model_uri(storage_uri, model_name, champion.version), MODEL_RECORD_NAME
    )
    if not storage.exists(facts_uri):
        raise ModelError(
            f"The champion must be a published version; {uri} names {champion.version}, but there is no {facts_uri}. "
            f"Restore that version, or delete {uri}: the next version then needs to reach the threshold only."
        )
    return champion


def _ask_champion(champion_uri: str, dataset_uri: str, gate_uri: str) -> list[Outcome]:
    """Return what the champion says of the validation pictures, from the file of an earlier time if there is one."""
    uri = storage.join(gate_uri, PREDICTIONS_NAME)
    if not storage.exists(uri):
        from repot import quiet_tensorflow

        quiet_tensorflow.import_tensorflow()
        from repot.evaluator.scoring import score

        write_outcomes(
            uri, score(champion_uri, dataset_uri, subset="validation", task="gate").outcomes
        )
    return read_outcomes(uri)


def _unknown(challenger: Sequence[Outcome], champion_labels: Sequence[str]) -> list[str]:
    """Return the true labels that the champion does not have, in the order of their first pictures."""
    return [
        label
        for label in dict.fromkeys(outcome.label for outcome in challenger)
        if label not in champion_labels
    ]
