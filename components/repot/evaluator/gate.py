"""The gate: decide whether a version replaces the champion, write verdict and report, and promote.

The results against one champion are in runs/<version>/gate/<champion version>/: predictions.csv
(the champion's predictions for the version's validation pictures; in test/ for those of test), and
a folder for each verdict with verdict.json, report.html, report.md and, after a comparison,
labels.json. A verdict is never replaced: another threshold or a rollback gives another verdict, and
the same verdict again keeps the time of the first.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from repot import layout, quiet_tensorflow, storage
from repot.data_checks import data_warnings, read_checks
from repot.errors import AlreadyExistsError, DataError, ModelError
from repot.evaluation_record import ScoringTime
from repot.evaluator.comparison import check_same_pictures, compare_outcomes, judge
from repot.evaluator.comparison_log import pictures_id, record_comparison
from repot.evaluator.decision_rule import PairedCounts
from repot.evaluator.export_record import read_exports
from repot.evaluator.floors import LabelComparison, LabelCount, compare_labels
from repot.evaluator.outcomes import Outcome, read_outcomes, write_outcomes
from repot.evaluator.report.data import ReportContext, ReportData
from repot.evaluator.report.page import render_markdown, render_report
from repot.evaluator.unseen import Unseen, find_unseen
from repot.evaluator.verdict import NO_CHAMPION, Verdict
from repot.evaluator.versions import promote
from repot.folder_checksums import write_checksums
from repot.json_record import checked_text, read_record, record_text
from repot.layout import (
    EVALUATION_FOLDER,
    LABEL_COMPARISON_NAME,
    MODEL_FOLDER,
    MODEL_RECORD_NAME,
    PREDICTIONS_NAME,
    REPORT_DATA_NAME,
    REPORT_MARKDOWN_NAME,
    REPORT_NAME,
    RUN_REQUEST_NAME,
    SCORING_TIME_NAME,
    VERDICT_NAME,
)
from repot.manifest import read_manifest
from repot.model_registry import Champion, ChampionChange, read_champion
from repot.predictor import read_labels
from repot.requested_run import RequestedRun
from repot.settings import GateSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """A verdict and the report that shows it.

    Attributes:
        verdict: The verdict.
        verdict_name: Name of its verdict.json under the storage URI.
        report_html, report_uri: The report and its file.
    """

    verdict: Verdict
    verdict_name: str
    report_html: str
    report_uri: str


def decide_and_promote(
    *,
    storage_uri: str,
    dataset_id: str,
    training_id: str,
    model_name: str,
    settings: GateSettings,
    run_id: str,
    decided_at: str,
    request: RequestedRun | None = None,
) -> GateReport:
    """Decide on a version, and make it the champion if the verdict says so.

    A pod that was killed after the promotion is started again: its second attempt finds that this
    run has promoted the version, and returns the verdict of the first.

    Args:
        storage_uri, dataset_id, training_id, model_name: See `decide`.
        settings, decided_at: See `decide`.
        run_id: The pipeline run, see `repot.model_registry.ChampionChange`.
        request: What the run was asked for, for the report; None if unknown.

    Raises:
        ConflictError: Another version was promoted after the comparison.
        RepotError: As `decide`.
    """
    champion = _find_champion(storage_uri, model_name)
    promotion = champion.promotion if champion and champion.version == training_id else None
    # A promotion by hand has no verdict.
    if promotion is not None and promotion.verdict and promotion.run_id == run_id:
        return _read_gate_report(storage_uri, promotion.verdict)
    report = decide(
        storage_uri=storage_uri,
        dataset_id=dataset_id,
        training_id=training_id,
        model_name=model_name,
        settings=settings,
        decided_at=decided_at,
        request=request,
    )
    if report.verdict.decision == "promote":
        change = ChampionChange(
            version=training_id,
            action="promote",
            time=decided_at,
            run_id=run_id,
            verdict=report.verdict_name,
            reason=report.verdict.forced,
        )
        promote(storage_uri, model_name, change, expected_champion=report.verdict.champion_version)
    return report


def decide(
    *,
    storage_uri: str,
    dataset_id: str,
    training_id: str,
    model_name: str,
    settings: GateSettings,
    decided_at: str,
    request: RequestedRun | None = None,
) -> GateReport:
    """Decide whether an evaluated, published version replaces the champion.

    The version is promoted if it is better than the champion by `repot.evaluator.decision_rule`, on
    the pictures that neither was trained on, and passes the checks of `repot.evaluator.floors`. The
    champion is scored on the same pictures, with labels matched by name; its predictions are
    stored, so repeating the comparison is free, and TensorFlow is imported only to compute them.
    The comparison is recorded before it is decided, see `repot.evaluator.comparison_log`. A version
    that was rolled back is rejected, and so is one without a label that the champion has.

    Args:
        storage_uri: Root of all stored files.
        dataset_id: The version's dataset.
        training_id: The version.
        model_name: The model whose champion the version is compared with.
        settings: See `repot.evaluator.comparison.judge`.
        decided_at: The time, see `Verdict`.
        request: What the run was asked for, for the report; None if unknown.

    Raises:
        ModelError: champion.json names a version that does not exist.
        NotFoundError: The version was not evaluated.
    """
    run_uri = layout.run_uri(storage_uri, training_id)
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    champion = _find_champion(storage_uri, model_name)
    champion_version = champion.version if champion else NO_CHAMPION
    gate_uri = layout.gate_uri(storage_uri, training_id, champion_version)
    gate_split = settings.gate_split
    split_uri = layout.split_folder(evaluation_uri, gate_split)
    challenger_outcomes = read_outcomes(storage.join(split_uri, PREDICTIONS_NAME))
    champion_outcomes: list[Outcome] | None = None
    unseen: Unseen | None = None
    unknown_labels: list[str] = []
    removed_labels: list[str] = []
    dataset_uri = layout.dataset_uri(storage_uri, dataset_id)
    if champion is not None and champion_version != training_id:
        champion_uri = layout.model_uri(storage_uri, model_name, champion_version)
        unseen = find_unseen(
            challenger_outcomes,
            dataset_uri=dataset_uri,
            champion_uri=champion_uri,
            champion_dataset_uri=layout.dataset_uri(storage_uri, champion.dataset_id),
        )
        if unseen.pictures.is_enough:
            champion_outcomes = _champion_outcomes(
                champion_uri,
                dataset_uri,
                gate_uri,
                gate_split,
                predictions_uri=layout.predictions_uri(storage_uri),
            )
        champion_labels = read_labels(champion_uri)
        unknown_labels = _unknown_labels(challenger_outcomes, champion_labels)
        labels = read_labels(storage.join(run_uri, MODEL_FOLDER))
        removed_labels = [label for label in champion_labels if label not in labels]
    entry, pairings = None, []
    labels_compared: list[LabelCount] = []
    if champion_outcomes is not None and unseen is not None:
        check_same_pictures(champion_outcomes, challenger_outcomes)
        compared = unseen.select(challenger_outcomes)
        champion_compared = unseen.select(champion_outcomes)
        comparison = compare_outcomes(champion_compared, compared)
        labels_compared = compare_labels(champion_compared, compared)
        entry, log = record_comparison(
            storage_uri,
            model_name,
            champion=champion_version,
            challenger=training_id,
            pictures_id=pictures_id(compared),
            counts=PairedCounts(
                only_champion=comparison.only_champion,
                only_challenger=comparison.only_challenger,
                num_compared=len(compared),
            ),
            comparisons_per_year=settings.comparisons_per_year,
        )
        pairings = log.pairings(up_to=entry.number)
    manifest, exports = read_manifest(dataset_uri), read_exports(run_uri)
    verdict = judge(
        challenger_outcomes,
        champion_outcomes,
        model_name=model_name,
        version=training_id,
        champion_version=champion_version,
        settings=settings,
        decided_at=decided_at,
        entry=entry,
        pairings=pairings,
        unseen=unseen,
        unknown_labels=unknown_labels,
        removed_labels=removed_labels,
        empty_label_folders=manifest.empty_label_folders,
        data_warnings=data_warnings(manifest, read_checks(dataset_uri)),
        rejected_exports=[record.rejection for record in exports if record.rejection],
        was_rolled_back=champion is not None and training_id in champion.rolled_back,
    )
    _log.info("%s %s", verdict.headline, " ".join(verdict.reasons))
    name = layout.verdict_name(training_id, champion_version, verdict.verdict_id)
    verdict = _keep_verdict(storage.join(storage_uri, name), verdict)
    data = read_record(storage.join(evaluation_uri, REPORT_DATA_NAME), ReportData)
    version_uri = layout.model_uri(storage_uri, model_name, training_id)
    if request is not None:
        content = checked_text(request.to_json())
        storage.write_text(storage.join(run_uri, RUN_REQUEST_NAME), content)
    verdict_uri = storage.join(gate_uri, verdict.verdict_id)
    context = ReportContext(
        version_uri=version_uri,
        dataset_uri=dataset_uri,
        compared_labels=tuple(labels_compared),
        exports=tuple(exports),
        request=request,
        scoring_time=_read_scoring_time(evaluation_uri),
    )
    report_html = _write_report(data, verdict, context, verdict_uri)
    report_uri = storage.join(verdict_uri, REPORT_NAME)
    write_checksums(
        verdict_uri,
        parts=[VERDICT_NAME, REPORT_NAME, REPORT_MARKDOWN_NAME, LABEL_COMPARISON_NAME],
    )
    return GateReport(
        verdict=verdict, verdict_name=name, report_html=report_html, report_uri=report_uri
    )


def _write_report(
    data: ReportData, verdict: Verdict, context: ReportContext, verdict_uri: str
) -> str:
    """Write everything about a verdict except itself, and return the report as HTML."""
    report_html = render_report(data, verdict, context)
    storage.write_text(storage.join(verdict_uri, REPORT_NAME), report_html)
    markdown = render_markdown(data, verdict, context)
    storage.write_text(storage.join(verdict_uri, REPORT_MARKDOWN_NAME), markdown)
    if context.compared_labels:
        record = LabelComparison(labels=context.compared_labels)
        storage.write_text(storage.join(verdict_uri, LABEL_COMPARISON_NAME), record_text(record))
    return report_html


def _read_gate_report(storage_uri: str, verdict_name: str) -> GateReport:
    verdict_uri = storage.join(storage_uri, verdict_name)
    report_uri = storage.join(verdict_uri.rpartition("/")[0], REPORT_NAME)
    return GateReport(
        verdict=read_record(verdict_uri, Verdict),
        verdict_name=verdict_name,
        report_html=storage.read_text(report_uri),
        report_uri=report_uri,
    )


def _find_champion(storage_uri: str, model_name: str) -> Champion | None:
    """Return the champion after checking that its version is published."""
    uri = layout.champion_uri(storage_uri, model_name)
    champion = read_champion(uri).champion
    if champion is None:
        return None
    version_uri = layout.model_uri(storage_uri, model_name, champion.version)
    record_uri = storage.join(version_uri, MODEL_RECORD_NAME)
    if not storage.exists(record_uri):
        raise ModelError(
            f"The champion must be a published version; {uri} names {champion.version}, but "
            f"{record_uri} does not exist. Restore that version, or delete {uri}: then the next "
            "version only has to reach the threshold."
        )
    return champion


def _read_scoring_time(evaluation_uri: str) -> ScoringTime | None:
    uri = storage.join(evaluation_uri, SCORING_TIME_NAME)
    return read_record(uri, ScoringTime) if storage.exists(uri) else None


def _keep_verdict(uri: str, verdict: Verdict) -> Verdict:
    """Write a verdict, or return the earlier one that is equal except for its time."""
    try:
        storage.write_json(uri, verdict.to_json(), if_absent=True)
    except AlreadyExistsError:
        return read_record(uri, Verdict)
    return verdict


def _champion_outcomes(
    champion_uri: str, dataset_uri: str, gate_uri: str, split: str, *, predictions_uri: str
) -> list[Outcome]:
    """Return the champion's outcomes on a split; it answers once for each picture."""
    uri = storage.join(layout.split_folder(gate_uri, split), PREDICTIONS_NAME)
    if not _are_current(uri):
        quiet_tensorflow.import_tensorflow()
        from repot.evaluator.scoring import score_split

        scored = score_split(
            champion_uri,
            dataset_uri,
            subset=split,
            task="gate",
            predictions_uri=predictions_uri,
        )
        write_outcomes(uri, scored.outcomes)
        write_checksums(layout.split_folder(gate_uri, split), parts=[PREDICTIONS_NAME])
    return read_outcomes(uri)


def _are_current(uri: str) -> bool:
    """Return whether there are stored outcomes, with the columns of this version of repot."""
    if not storage.exists(uri):
        return False
    try:
        read_outcomes(uri)
    except DataError:
        return False
    return True


def _unknown_labels(challenger: Sequence[Outcome], champion_labels: Sequence[str]) -> list[str]:
    """Return the true labels that the champion does not have, in order of first appearance."""
    labels = dict.fromkeys(outcome.label for outcome in challenger)
    return [label for label in labels if label not in champion_labels]
