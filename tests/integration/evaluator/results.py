"""What evaluation and gate leave of a version, without its model."""

import click.testing

from repot import layout, storage
from repot.evaluator.summary import RunResult
from repot.evaluator.verdict import NO_CHAMPION, Decision, Score, Verdict
from repot.evaluator.versions import promote
from repot.model_registry import ChampionChange
from repot_pipelines.cli import repot
from tests.unit.evaluator.samples import make_model_record, make_outcome, make_report_data

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


def write_model_record(storage_uri: str, version: str) -> None:
    """Write the model.json of a version, so that it is published."""
    record = make_model_record("flowers", version)
    uri = storage.join(layout.model_uri(storage_uri, "flowers", version), layout.MODEL_RECORD_NAME)
    storage.write_json(uri, record.to_json())


def put_into_production(storage_uri: str, *versions: str) -> None:
    """Publish versions, and promote one after the other."""
    champion = NO_CHAMPION
    for version in versions:
        write_model_record(storage_uri, version)
        change = ChampionChange(version=version, action="promote", time="2026-11-27T14:05:00Z")
        promote(storage_uri, "flowers", change, expected_champion=champion)
        champion = version


def change_champion(command: str, storage_uri: str, *arguments: str) -> click.testing.Result:
    """Run a command that changes the champion."""
    options = ["--storage-uri", storage_uri, "--model-name", "flowers"]
    return click.testing.CliRunner().invoke(
        repot, [command, *arguments, *options], catch_exceptions=False
    )
