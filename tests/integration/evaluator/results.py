"""What evaluation and gate leave of a version, without its model."""

from repot import layout, storage
from repot.evaluator.summary import RunResult
from repot.evaluator.verdict import Decision, Score, Verdict
from tests.unit.evaluator.samples import make_outcome, make_report_data

LABELS = ("cat", "dog")
OUTCOMES = [make_outcome(0, "cat", "cat"), make_outcome(1, "dog", "cat")]
DATA = make_report_data(OUTCOMES, LABELS)


def make_result(
    storage_uri: str,
    decision: Decision = "promote",
    version: str = "0123456789abcdef",
    champion_version: str = "none",
) -> RunResult:
    """Store the files, and return what other services hear of them."""
    version_uri = layout.model_uri(storage_uri, "flowers", version)
    for name in ("model.json", "metrics.json", "model_card.md"):
        storage.write_text(f"{version_uri}/{name}", f"{name} of {version}")
    run_uri = layout.run_uri(storage_uri, version)
    storage.write_json(f"{run_uri}/evaluation/report_data.json", DATA.to_json())
    verdict = Verdict(
        decision=decision,
        reasons=("It is the first version.",),
        model_name="flowers",
        version=version,
        champion_version=champion_version,
        min_precision=0.0,
        challenger=Score(precision_at_1=0.5, interval=(0.25, 0.75), num_examples=2),
        decided_at="2026-11-27T14:05:00Z",
    )
    storage.write_json(f"{run_uri}/gate/verdict.json", verdict.to_json())
    storage.write_text(f"{run_uri}/gate/report.html", f"<html>{decision}</html>")
    return RunResult(
        data=DATA,
        verdict=verdict,
        version_uri=version_uri,
        report_uri=f"{run_uri}/gate/report.html",
        run_id="run 1",
    )
