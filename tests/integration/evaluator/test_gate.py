"""Gate, promotion and rollback of real models: better, worse, equal, other labels, conflicts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repot import layout, storage
from repot.errors import ConflictError, DataError, ModelError, NotFoundError, UsageError
from repot.evaluator.comparison_log import read_comparisons
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.floors import LabelComparison
from repot.evaluator.gate import GateReport, decide, decide_and_promote
from repot.evaluator.verdict import Verdict
from repot.evaluator.versions import promote, promote_by_hand, rollback
from repot.json_record import read_record
from repot.model_registry import Champion, ChampionChange, ModelRecord, read_champion
from repot.settings import GateSettings
from tests.integration.evaluator.colours import MakeRun

TURNED = ("green", "blue", "red")
# Correct on the four red pictures only.
HALF = ("red", "blue", "green")
FIRST, LATER = "2026-11-27T14:05:00Z", "2026-11-28T09:30:00Z"


def evaluate_version(storage_uri: str, training_id: str, dataset_id: str = "colours") -> None:
    evaluate_run(
        storage_uri=storage_uri, dataset_id=dataset_id, training_id=training_id, model_name="m"
    )


def gate_settings(**values: Any) -> GateSettings:
    """Return settings with which twelve pictures can decide: the whole yearly error for each."""
    return GateSettings(**{"comparisons_per_year": 1, **values})


def decide_version(
    storage_uri: str,
    training_id: str,
    min_precision: float = 0.0,
    *,
    settings: GateSettings | None = None,
    decided_at: str = FIRST,
) -> GateReport:
    return decide(
        storage_uri=storage_uri,
        dataset_id="colours",
        training_id=training_id,
        model_name="m",
        settings=settings or gate_settings(min_precision=min_precision),
        decided_at=decided_at,
    )


def promote_version(
    storage_uri: str, version: str, expected_champion: str, *, verdict: str = "", time: str = FIRST
) -> None:
    change = ChampionChange(
        version=version, action="promote", time=time, run_id="run 1", verdict=verdict
    )
    promote(storage_uri, "m", change, expected_champion=expected_champion)


def champion_version(storage_uri: str) -> str:
    return read_model_champion(storage_uri).version


def read_model_champion(storage_uri: str) -> Champion:
    champion = read_champion(layout.champion_uri(storage_uri, "m")).champion
    assert champion is not None
    return champion


def stored_decisions(storage_uri: str, training_id: str) -> list[str]:
    """Return the decision of every stored verdict on a version, sorted."""
    folder = Path(layout.run_uri(storage_uri, training_id), "gate")
    return sorted(
        Verdict.from_text(path.read_text()).decision for path in folder.rglob("verdict.json")
    )


@pytest.fixture
def champion(make_run: MakeRun, storage_uri: str) -> str:
    """Make a version with 4 of 12 correct predictions the champion, and return it."""
    make_run("old", colours=HALF)
    evaluate_version(storage_uri, "old")
    promote_version(storage_uri, "old", "none")
    return "old"


def test_first_version_only_has_to_reach_the_threshold(make_run: MakeRun, storage_uri: str) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")

    good, bad = (
        decide_version(storage_uri, "new", 0.9).verdict,
        decide_version(storage_uri, "new", 0.92).verdict,
    )

    assert (good.decision, bad.decision) == ("promote", "reject")
    assert good.champion_version == "none"
    assert good.challenger.precision_at_1 == 11 / 12
    assert good.champion is None


def test_better_version_is_promoted_and_the_verdict_is_stored(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    run_uri = make_run("new")
    evaluate_version(storage_uri, "new")

    report = decide_version(storage_uri, "new", 0.5)

    verdict = report.verdict
    assert (verdict.decision, verdict.champion_version) == ("promote", champion)
    assert verdict.champion is not None
    assert (verdict.champion.precision_at_1, verdict.challenger.precision_at_1) == (4 / 12, 11 / 12)
    comparison = verdict.comparison
    assert comparison is not None
    # Both predict red correctly, and both are wrong on the blue picture labelled red.
    assert (comparison.both_right, comparison.both_wrong) == (4, 1)
    assert (comparison.only_champion, comparison.only_challenger) == (0, 7)
    assert comparison.p_value == 2 / 2**7
    folder = f"{run_uri}/gate/old/{verdict.verdict_id}"
    assert Verdict.from_json(storage.read_json(f"{folder}/verdict.json")) == verdict
    assert f"{storage_uri}/{report.verdict_name}" == f"{folder}/verdict.json"
    assert report.report_uri == f"{folder}/report.html"
    assert storage.read_text(report.report_uri) == report.report_html
    assert "Comparison with the champion" in report.report_html
    assert storage.read_text(f"{folder}/report.md").count("## Comparison with the champion") == 1
    compared = read_record(f"{folder}/labels.json", LabelComparison).labels
    assert sum(each.num_examples for each in compared) == report.verdict.challenger.num_examples


def test_worse_version_is_rejected(make_run: MakeRun, storage_uri: str) -> None:
    make_run("good")
    make_run("worse", colours=HALF)
    for version in ("good", "worse"):
        evaluate_version(storage_uri, version)
    promote_version(storage_uri, "good", "none")

    verdict = decide_version(storage_uri, "worse").verdict

    assert verdict.decision == "reject"
    assert (
        "On the same pictures, this version gets 7 fewer right than the champion good: 0 that only "
        "this version gets right, 7 that only the champion gets right." in verdict.reasons
    )


def test_equal_version_is_undecided_and_the_champion_stays_unless_new_is_preferred(
    make_run: MakeRun, storage_uri: str
) -> None:
    for version in ("good", "equal"):
        make_run(version)
        evaluate_version(storage_uri, version)
    promote_version(storage_uri, "good", "none")

    report = judge_and_promote(storage_uri, "equal", run_id="run 2")

    assert report.verdict.decision == "undecided"
    assert champion_version(storage_uri) == "good"
    sentence = report.verdict.headline
    assert sentence.startswith("Undecided: 12 pictures do not show which version is better")
    assert sentence.endswith(" would, so the champion good stays.")
    assert "Undecided:" in report.report_html
    assert stored_decisions(storage_uri, "equal") == ["undecided"]

    newer = judge_and_promote(
        storage_uri, "equal", run_id="run 3", settings=gate_settings(when_undecided="prefer_new")
    )

    assert newer.verdict.decision == "promote"
    assert champion_version(storage_uri) == "equal"
    assert stored_decisions(storage_uri, "equal") == ["promote", "undecided"]
    # The same comparison, so nothing more was spent.
    assert read_comparisons(storage_uri, "m").num_comparisons == 1


def test_forced_promotion_is_in_the_history_with_its_reason(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("good")
    make_run("worse", colours=HALF)
    for version in ("good", "worse"):
        evaluate_version(storage_uri, version)
    promote_version(storage_uri, "good", "none")

    report = judge_and_promote(
        storage_uri, "worse", run_id="run 2", settings=gate_settings(force_promote="camera 4")
    )

    assert report.verdict.headline == "Promoted: forced, because 'camera 4'."
    record = read_model_champion(storage_uri)
    assert record.version == "worse"
    assert record.history[-1].reason == "camera 4"
    assert record.history[-1].verdict == report.verdict_name


def test_champion_itself_is_unchanged_without_tensorflow(storage_uri: str, champion: str) -> None:
    program = (
        "import sys; from repot.settings import GateSettings;"
        "from repot.evaluator.gate import decide;"
        "report = decide(storage_uri=sys.argv[1], dataset_id='colours', training_id='old',"
        " model_name='m', settings=GateSettings(min_precision=0.99), decided_at='now');"
        "print(report.verdict.decision, {'tensorflow', 'keras'} & set(sys.modules))"
    )

    process = subprocess.run(
        [sys.executable, "-c", program, storage_uri], check=True, capture_output=True, text=True
    )

    assert process.stdout == "unchanged set()\n"
    assert stored_decisions(storage_uri, "old") == ["unchanged"]


def test_champion_is_scored_only_once(make_run: MakeRun, storage_uri: str, champion: str) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    first = decide_version(storage_uri, "new").verdict
    storage.delete(f"{layout.model_uri(storage_uri, 'm', champion)}/model.keras")

    again = decide_version(storage_uri, "new", 0.95).verdict

    assert again.champion == first.champion
    assert (first.decision, again.decision) == ("promote", "reject")
    assert stored_decisions(storage_uri, "new") == ["promote", "reject"]


def test_champion_with_other_labels_is_compared_by_label_name(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("old", labels=("blue", "crimson", "green"), colours=("blue", "red", "green"))
    make_run("new", colours=TURNED)
    for version in ("old", "new"):
        evaluate_version(storage_uri, version)
    promote_version(storage_uri, "old", "none")

    verdict = decide_version(storage_uri, "new").verdict

    assert verdict.champion is not None
    assert verdict.champion.precision_at_1 == 7 / 12
    assert verdict.decision == "reject"
    assert (
        "The champion old does not have the label 'red', so it gets all of those pictures wrong."
        in verdict.reasons
    )


def test_missing_champion_version_raises_an_error(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    storage.delete_folder(layout.model_uri(storage_uri, "m", champion))

    with pytest.raises(
        ModelError,
        match=r"champion\.json names old, but .*old/model\.json does not exist\. Restore",
    ):
        decide_version(storage_uri, "new")


def test_champion_outcomes_of_other_pictures_raise_an_error(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    run_uri = make_run("new")
    evaluate_version(storage_uri, "new")
    decide_version(storage_uri, "new")
    uri = f"{run_uri}/gate/{champion}/predictions.csv"
    storage.write_text(uri, "".join(storage.read_text(uri).splitlines(keepends=True)[:-1]))

    with pytest.raises(DataError, match="got 11 and 12 rows"):
        decide_version(storage_uri, "new")


def test_gate_for_a_version_that_was_not_evaluated_raises_an_error(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("new")

    with pytest.raises(NotFoundError, match=r"predictions\.csv"):
        decide_version(storage_uri, "new")


def promotion(version: str) -> dict[str, str]:
    return {
        "version": version,
        "action": "promote",
        "time": FIRST,
        "run_id": "run 1",
        "verdict": "",
        "reason": "",
    }


def test_promote_stores_the_version_and_the_previous_one(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")

    promote_version(storage_uri, "new", champion)
    promote_version(storage_uri, "new", champion)

    stored = storage.read_json(layout.champion_uri(storage_uri, "m"))
    del stored["sha256_of_the_rest"]
    assert stored == {
        "model_name": "m",
        "version": "new",
        "dataset_id": "colours",
        "precision_at_1": 11 / 12,
        "previous": "old",
        "rolled_back": [],
        "promotion": promotion("new"),
        "history": [promotion("old"), promotion("new")],
    }


@pytest.mark.parametrize("expected", ["none", "another"])
def test_promote_after_another_promotion_raises_a_conflict(
    make_run: MakeRun, storage_uri: str, champion: str, expected: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")

    with pytest.raises(
        ConflictError, match=rf"must still name {expected}, .* got old\. Another run .* Run again"
    ):
        promote_version(storage_uri, "new", expected)
    assert champion_version(storage_uri) == champion


def test_promote_without_the_expected_champion_raises_a_conflict(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")

    with pytest.raises(ConflictError, match=r"must still name old, .* got none\."):
        promote_version(storage_uri, "new", "old")


def test_promote_that_loses_a_race_raises_a_conflict(
    make_run: MakeRun, storage_uri: str, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("new", "other"):
        make_run(version)
        evaluate_version(storage_uri, version)
    swap = storage.swap_bytes

    def swap_after_another_promotion(
        uri: str, data: bytes, *, expected_version: str | None
    ) -> storage.ObjectInfo:
        monkeypatch.setattr(storage, "swap_bytes", swap)
        promote_version(storage_uri, "other", champion)
        return swap(uri, data, expected_version=expected_version)

    monkeypatch.setattr(storage, "swap_bytes", swap_after_another_promotion)
    with pytest.raises(ConflictError, match="got other"):
        promote_version(storage_uri, "new", champion)
    assert champion_version(storage_uri) == "other"


def test_promote_of_an_unpublished_version_raises_an_error(storage_uri: str) -> None:
    with pytest.raises(
        ModelError, match=r"models/m/new/model\.json does not exist\. Evaluate first"
    ):
        promote_version(storage_uri, "new", "none")


def test_gate_and_promotion_on_object_storage(make_run: MakeRun, dataset: Path, gcs: str) -> None:
    storage.copy_folder(str(dataset), layout.dataset_uri(gcs, "colours"))
    for version, colours in (("old", HALF), ("new", ("red", "green", "blue"))):
        storage.copy_folder(make_run(version, colours=colours), layout.run_uri(gcs, version))
        evaluate_version(gcs, version)
    promote_version(gcs, "old", decide_version(gcs, "old").verdict.champion_version)
    verdict = decide_version(gcs, "new").verdict

    promote_version(gcs, "new", verdict.champion_version)

    assert verdict.decision == "promote"
    assert champion_version(gcs) == "new"
    with pytest.raises(ConflictError):
        promote_version(gcs, "old", "none")


def test_version_is_complete_and_published_only_once(make_run: MakeRun, storage_uri: str) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    folder = Path(layout.model_uri(storage_uri, "m", "new"))
    record = ModelRecord.from_text((folder / "model.json").read_text())
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    evaluate_version(storage_uri, "new")

    assert set(written) == {
        "model.keras",
        "labels.txt",
        "metrics.json",
        "model_card.md",
        "trained_on.bin",
        "model.json",
    }
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert max(written, key=lambda name: written[name]) == "model.json"
    assert record.labels == ("red", "green", "blue")
    assert (record.name, record.version, record.backbone) == ("m", "new", "mobilenet_v2")
    assert record.metrics.precision_at_1 == 11 / 12
    card = (folder / "model_card.md").read_text()
    assert "| precision@1 | 0.9167 | 0.6461 to 0.9851 |" in card
    assert "| the file ends before the picture is complete | 1 | train/red/torn.jpg |" in card


def test_rolled_back_version_is_not_promoted_again(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    promote_version(storage_uri, "new", champion)

    restored = rollback(storage_uri, "m", time=LATER)
    verdict = decide_version(storage_uri, "new").verdict

    assert (restored.version, restored.previous, restored.rolled_back) == (
        champion,
        "new",
        ("new",),
    )
    assert verdict.decision == "reject"
    assert verdict.reasons[0].endswith("Restore it with `repot rollback --to new --model-name m`.")
    assert rollback(storage_uri, "m", "new", time=LATER).rolled_back == (champion,)
    assert champion_version(storage_uri) == "new"


def test_forced_promotion_lifts_a_rollback(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    promote_version(storage_uri, "new", champion)
    rollback(storage_uri, "m", time=LATER)
    settings = gate_settings(force_promote="it was the camera")

    decision = decide_version(storage_uri, "new", settings=settings).verdict.decision
    promote_version(storage_uri, "new", champion)

    assert decision == "promote"
    assert read_model_champion(storage_uri).rolled_back == ()


def test_rollback_without_a_target_raises_an_error(storage_uri: str, champion: str) -> None:
    with pytest.raises(UsageError, match="is the first champion of m"):
        rollback(storage_uri, "m", time=LATER)
    with pytest.raises(UsageError, match="is already the champion of m"):
        rollback(storage_uri, "m", champion, time=LATER)
    with pytest.raises(UsageError, match=r"must have a champion.*with --model-name: m\.$"):
        rollback(storage_uri, "other", time=LATER)
    with pytest.raises(UsageError, match=r"check --storage-uri"):
        rollback(f"{storage_uri}/elsewhere", "m", time=LATER)


@pytest.mark.parametrize("name", ["nonsense", "../m", "old/model.json", "OLD"])
def test_rollback_to_an_unpublished_version_lists_the_published_ones(
    make_run: MakeRun, storage_uri: str, champion: str, name: str
) -> None:
    for version in ("new", "third"):
        make_run(version)
        evaluate_version(storage_uri, version)
    make_run("unpublished")
    promote_version(storage_uri, "new", champion)
    rollback(storage_uri, "m", time=LATER)
    before = read_model_champion(storage_uri)

    with pytest.raises(UsageError) as raised:
        rollback(storage_uri, "m", name, time=LATER)

    assert str(raised.value) == (
        f"A rollback must lead to a published version of m; got {name!r}. Name another version "
        "with --to. Published versions: new (rolled back), old (champion), third."
    )
    assert read_model_champion(storage_uri) == before


def test_every_verdict_is_kept_through_promotions_and_rollbacks(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    first = decide_version(storage_uri, "new")
    promote_version(storage_uri, "new", champion, verdict=first.verdict_name)
    rollback(storage_uri, "m", time=LATER)
    second = decide_version(storage_uri, "new", decided_at=LATER)
    rollback(storage_uri, "m", time=LATER)
    third = decide_version(storage_uri, "new", decided_at=LATER)

    assert [each.verdict.decision for each in (first, second, third)] == [
        "promote",
        "reject",
        "unchanged",
    ]
    assert stored_decisions(storage_uri, "new") == ["promote", "reject", "unchanged"]
    for each in (first, second, third):
        stored = storage.read_text(f"{storage_uri}/{each.verdict_name}")
        assert Verdict.from_text(stored) == each.verdict
        assert each.verdict.title in storage.read_text(each.report_uri)
    record = read_model_champion(storage_uri)
    assert record.promotion == ChampionChange(
        version="new", action="promote", time=FIRST, run_id="run 1", verdict=first.verdict_name
    )
    assert [(change.version, change.action, change.time) for change in record.history] == [
        ("old", "promote", FIRST),
        ("new", "promote", FIRST),
        ("old", "rollback", LATER),
        ("new", "rollback", LATER),
    ]


def test_repeated_verdict_keeps_the_time_of_the_first(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    first = decide_version(storage_uri, "new")

    again = decide_version(storage_uri, "new", decided_at=LATER)

    assert again == first
    assert stored_decisions(storage_uri, "new") == ["promote"]


def test_version_without_a_label_of_the_champion_is_rejected_unless_allowed(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("old", labels=("blue", "crimson", "green", "red"), colours=("blue", *HALF))
    make_run("new")
    for version in ("old", "new"):
        evaluate_version(storage_uri, version)
    promote_version(storage_uri, "old", "none")

    rejected = decide_version(storage_uri, "new")
    allowed = decide_version(storage_uri, "new", settings=gate_settings(allow_label_removal=True))

    assert (rejected.verdict.decision, allowed.verdict.decision) == ("reject", "promote")
    for report in (rejected, allowed):
        assert report.verdict.removed_labels == ("crimson",)
        assert (
            "no longer has the label &#39;crimson&#39;, which the champion old"
            in report.report_html
        )
    assert "--allow-label-removal" in rejected.verdict.reasons[0]
    assert any(
        reason.endswith("that was allowed (allow_label_removal).")
        for reason in allowed.verdict.reasons
    )


def test_champion_of_another_task_leads_to_rejection_with_advice(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("old", labels=("cat", "dog", "hen"))
    evaluate_version(storage_uri, "old")
    promote_version(storage_uri, "old", "none")
    make_run("new")
    evaluate_version(storage_uri, "new")

    verdict = decide_version(storage_uri, "new").verdict

    assert verdict.decision == "reject"
    assert "--model-name" in verdict.reasons[0]


def judge_and_promote(
    storage_uri: str, training_id: str, *, run_id: str, settings: GateSettings | None = None
) -> GateReport:
    return decide_and_promote(
        storage_uri=storage_uri,
        dataset_id="colours",
        training_id=training_id,
        model_name="m",
        settings=settings or gate_settings(min_precision=0.5),
        run_id=run_id,
        decided_at=FIRST,
    )


def test_better_version_is_promoted_on_its_verdict(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")

    report = judge_and_promote(storage_uri, "new", run_id="run 2")

    assert (report.verdict.decision, report.verdict.champion_version) == ("promote", champion)
    promotion = read_model_champion(storage_uri).promotion
    assert promotion == ChampionChange(
        version="new",
        action="promote",
        time=FIRST,
        run_id="run 2",
        verdict=report.verdict_name,
    )


def test_worse_version_is_not_promoted(make_run: MakeRun, storage_uri: str, champion: str) -> None:
    make_run("turned", colours=TURNED)
    evaluate_version(storage_uri, "turned")

    assert judge_and_promote(storage_uri, "turned", run_id="run 2").verdict.decision == "reject"
    assert champion_version(storage_uri) == champion


def test_task_killed_after_the_promotion_returns_the_same_verdict_when_it_is_retried(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    del champion
    make_run("new")
    evaluate_version(storage_uri, "new")
    first = judge_and_promote(storage_uri, "new", run_id="run 2")
    before = read_model_champion(storage_uri)

    retried = judge_and_promote(storage_uri, "new", run_id="run 2")
    next_run = judge_and_promote(storage_uri, "new", run_id="run 3")

    assert retried == first
    assert next_run.verdict.decision == "unchanged"
    assert read_model_champion(storage_uri) == before


def test_rolled_back_version_is_not_promoted_by_a_retry(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    judge_and_promote(storage_uri, "new", run_id="run 2")
    rollback(storage_uri, "m", time=LATER)

    assert judge_and_promote(storage_uri, "new", run_id="run 2").verdict.decision == "reject"
    assert champion_version(storage_uri) == champion


def test_version_that_was_promoted_by_hand_is_unchanged(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("new")
    evaluate_version(storage_uri, "new")
    promote_by_hand(storage_uri, "m", "new", reason="camera 4", time=FIRST)

    # A run without an id, as a promotion by hand.
    assert judge_and_promote(storage_uri, "new", run_id="").verdict.decision == "unchanged"
    assert read_model_champion(storage_uri).history[-1].reason == "camera 4"
