"""The gate and the promotion on real models: first champion, better, worse, equal, other labels, broken pointers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repot import layout, storage
from repot.champion import read_champion
from repot.errors import ConflictError, DataError, ModelError, NotFoundError, UsageError
from repot.evaluator.evaluate import evaluate_run, judge_run
from repot.evaluator.gate import Judged
from repot.evaluator.promote import promote, rollback
from repot.evaluator.verdict import Verdict
from tests.integration.evaluator.colours import MakeRun

TURNED = ("green", "blue", "red")
# Right on the four red pictures only.
HALF = ("red", "blue", "green")


def evaluated(storage_uri: str, training_id: str) -> None:
    evaluate_run(
        storage_uri=storage_uri, dataset_id="colours", training_id=training_id, model_name="m"
    )


def judged(storage_uri: str, training_id: str, min_precision: float = 0.0) -> Judged:
    return judge_run(
        storage_uri=storage_uri,
        dataset_id="colours",
        training_id=training_id,
        model_name="m",
        min_precision=min_precision,
    )


def champion_version(storage_uri: str) -> str:
    champion = read_champion(layout.champion_uri(storage_uri, "m")).champion
    assert champion is not None
    return champion.version


@pytest.fixture
def champion(make_run: MakeRun, storage_uri: str) -> str:
    """Make a version the champion that is right on 4 of 12 pictures, and return it."""
    make_run("old", colours=HALF)
    evaluated(storage_uri, "old")
    promote(storage_uri, "m", "old", "none")
    return "old"


def test_first_version_needs_the_threshold_only(make_run: MakeRun, storage_uri: str) -> None:
    make_run("new")
    evaluated(storage_uri, "new")

    good, bad = judged(storage_uri, "new", 0.9).verdict, judged(storage_uri, "new", 0.92).verdict

    assert (good.verdict, bad.verdict) == ("promote", "reject")
    assert good.champion_version == "none"
    assert good.challenger.precision_at_1 == 11 / 12
    assert good.champion is None


def test_better_version_is_promoted_and_the_verdict_says_all(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    run_uri = make_run("new")
    evaluated(storage_uri, "new")

    judgement = judged(storage_uri, "new", 0.5)

    verdict = judgement.verdict
    assert (verdict.verdict, verdict.champion_version) == ("promote", champion)
    assert verdict.champion is not None
    assert (verdict.champion.precision_at_1, verdict.challenger.precision_at_1) == (4 / 12, 11 / 12)
    pairing = verdict.pairing
    assert pairing is not None
    # Only red is named alike by both; the blue picture among red is wrong for both.
    assert (
        pairing.both_right,
        pairing.only_champion,
        pairing.only_challenger,
        pairing.both_wrong,
    ) == (4, 0, 7, 1)
    assert pairing.p_value == 2 / 2**7
    stored = storage.read_json(f"{run_uri}/gate/old/verdict.json")
    assert Verdict.from_json(stored) == verdict
    assert judgement.report_uri == f"{run_uri}/gate/old/report.html"
    assert storage.read_text(judgement.report_uri) == judgement.report_html
    assert "Against the champion" in judgement.report_html


def test_worse_version_is_rejected(make_run: MakeRun, storage_uri: str, champion: str) -> None:
    make_run("worse", colours=TURNED)
    evaluated(storage_uri, "worse")

    verdict = judged(storage_uri, "worse").verdict

    assert verdict.verdict == "reject"
    assert verdict.reasons[0].startswith(
        f"On the same pictures it is right 4 pictures fewer than the champion {champion}"
    )


def test_champion_itself_is_unchanged_without_tensorflow(storage_uri: str, champion: str) -> None:
    program = (
        "import sys; from repot.evaluator.evaluate import judge_run;"
        "j = judge_run(storage_uri=sys.argv[1], dataset_id='colours', training_id='old', model_name='m',"
        " min_precision=0.99); print(j.verdict.verdict, {'tensorflow', 'keras'} & set(sys.modules))"
    )

    said = subprocess.run(
        [sys.executable, "-c", program, storage_uri], check=True, capture_output=True, text=True
    )

    assert said.stdout == "unchanged set()\n"
    assert storage.exists(f"{storage_uri}/runs/old/gate/old/report.html")


def test_champion_is_asked_once(make_run: MakeRun, storage_uri: str, champion: str) -> None:
    run_uri = make_run("new")
    evaluated(storage_uri, "new")
    first = judged(storage_uri, "new").verdict
    storage.delete(f"{layout.model_uri(storage_uri, 'm', champion)}/model.keras")

    again = judged(storage_uri, "new", 0.95).verdict

    assert again.champion == first.champion
    assert (first.verdict, again.verdict) == ("promote", "reject")
    assert storage.read_json(f"{run_uri}/gate/old/verdict.json")["verdict"] == "reject"


def test_champion_with_other_labels_is_compared_by_name(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("old", labels=("blue", "crimson", "green"), colours=("blue", "red", "green"))
    make_run("new", colours=TURNED)
    for version in ("old", "new"):
        evaluated(storage_uri, version)
    promote(storage_uri, "m", "old", "none")

    verdict = judged(storage_uri, "new").verdict

    assert verdict.champion is not None
    assert verdict.champion.precision_at_1 == 7 / 12
    assert verdict.verdict == "reject"
    assert (
        "The champion old does not have the label red: on those pictures it can never be right."
        in verdict.reasons
    )


def test_champion_that_is_missing_stops_the_gate(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluated(storage_uri, "new")
    storage.delete_folder(layout.model_uri(storage_uri, "m", champion))

    with pytest.raises(
        ModelError, match=r"champion\.json names old, but there is no .*old/model\.json\. Restore"
    ):
        judged(storage_uri, "new")


def test_outcomes_of_other_pictures_stop_the_gate(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    run_uri = make_run("new")
    evaluated(storage_uri, "new")
    judged(storage_uri, "new")
    uri = f"{run_uri}/gate/{champion}/predictions.csv"
    storage.write_text(uri, "".join(storage.read_text(uri).splitlines(keepends=True)[:-1]))

    with pytest.raises(DataError, match="got 11 and 12 rows"):
        judged(storage_uri, "new")


def test_version_that_was_not_evaluated_cannot_be_judged(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("new")

    with pytest.raises(NotFoundError, match=r"predictions\.csv"):
        judged(storage_uri, "new")


def test_promote_points_at_the_version_and_remembers_the_one_before(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluated(storage_uri, "new")

    promote(storage_uri, "m", "new", champion)
    promote(storage_uri, "m", "new", champion)

    assert storage.read_json(layout.champion_uri(storage_uri, "m")) == {
        "model_name": "m",
        "version": "new",
        "dataset_id": "colours",
        "precision_at_1": 11 / 12,
        "previous": "old",
        "rolled_back": [],
    }


@pytest.mark.parametrize("expected", ["none", "another"])
def test_promote_stops_when_another_run_was_faster(
    make_run: MakeRun, storage_uri: str, champion: str, expected: str
) -> None:
    make_run("new")
    evaluated(storage_uri, "new")

    with pytest.raises(
        ConflictError, match=rf"must still name {expected}, .* got old\. Another run .* run again"
    ):
        promote(storage_uri, "m", "new", expected)
    assert champion_version(storage_uri) == champion


def test_promote_stops_when_the_champion_is_gone(make_run: MakeRun, storage_uri: str) -> None:
    make_run("new")
    evaluated(storage_uri, "new")

    with pytest.raises(ConflictError, match=r"must still name old, .* got none\."):
        promote(storage_uri, "m", "new", "old")


def test_swap_that_is_lost_to_another_run_is_a_conflict(
    make_run: MakeRun, storage_uri: str, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("new", "other"):
        make_run(version)
        evaluated(storage_uri, version)
    swap = storage.swap_bytes

    def overtaken(uri: str, data: bytes, *, expected_version: str | None) -> storage.ObjectInfo:
        monkeypatch.setattr(storage, "swap_bytes", swap)
        promote(storage_uri, "m", "other", champion)
        return swap(uri, data, expected_version=expected_version)

    monkeypatch.setattr(storage, "swap_bytes", overtaken)
    with pytest.raises(ConflictError, match="got other"):
        promote(storage_uri, "m", "new", champion)
    assert champion_version(storage_uri) == "other"


def test_version_that_was_never_published_is_not_promoted(storage_uri: str) -> None:
    with pytest.raises(
        ModelError, match=r"there is no .*models/m/new/model\.json\. Evaluate first"
    ):
        promote(storage_uri, "m", "new", "none")


def test_gate_and_promotion_on_object_storage(make_run: MakeRun, dataset: Path, gcs: str) -> None:
    storage.copy_folder(str(dataset), layout.dataset_uri(gcs, "colours"))
    for version, colours in (("old", HALF), ("new", ("red", "green", "blue"))):
        storage.copy_folder(make_run(version, colours=colours), layout.run_uri(gcs, version))
        evaluated(gcs, version)
    promote(gcs, "m", "old", judged(gcs, "old").verdict.champion_version)
    verdict = judged(gcs, "new").verdict

    promote(gcs, "m", "new", verdict.champion_version)

    assert verdict.verdict == "promote"
    assert champion_version(gcs) == "new"
    with pytest.raises(ConflictError):
        promote(gcs, "m", "old", "none")


def test_published_version_is_complete_and_published_once(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("new")
    evaluated(storage_uri, "new")
    folder = Path(layout.model_uri(storage_uri, "m", "new"))
    facts = json.loads((folder / "model.json").read_text())
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    evaluated(storage_uri, "new")

    assert set(written) == {
        "model.keras",
        "labels.txt",
        "metrics.json",
        "model_card.md",
        "model.json",
    }
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert max(written, key=lambda name: written[name]) == "model.json"
    assert facts["labels"] == ["red", "green", "blue"]
    assert (facts["name"], facts["version"], facts["backbone"]) == ("m", "new", "mobilenet_v2")
    assert facts["metrics"]["precision_at_1"] == 11 / 12
    card = (folder / "model_card.md").read_text()
    assert "| precision@1 | 0.9167 | 0.6461 to 0.9851 |" in card
    assert "| the picture ends too early | 1 | train/red/torn.jpg |" in card


def test_rolled_back_version_is_not_promoted_again(
    make_run: MakeRun, storage_uri: str, champion: str
) -> None:
    make_run("new")
    evaluated(storage_uri, "new")
    promote(storage_uri, "m", "new", champion)

    restored = rollback(storage_uri, "m")
    verdict = judged(storage_uri, "new").verdict

    assert (restored.version, restored.previous, restored.rolled_back) == (
        champion,
        "new",
        ("new",),
    )
    assert verdict.verdict == "reject"
    assert verdict.reasons[0].endswith("`repot rollback --to new` puts it back.")
    assert rollback(storage_uri, "m", "new").rolled_back == (champion,)
    assert champion_version(storage_uri) == "new"


def test_rollback_without_anything_to_go_back_to_says_so(storage_uri: str, champion: str) -> None:
    with pytest.raises(UsageError, match="is the first champion of m"):
        rollback(storage_uri, "m")
    with pytest.raises(UsageError, match="is the champion of m already"):
        rollback(storage_uri, "m", champion)
    with pytest.raises(UsageError, match="must have a champion"):
        rollback(storage_uri, "other")
    with pytest.raises(ModelError, match="must be published"):
        rollback(storage_uri, "m", "never")


def test_champion_that_knows_none_of_the_labels_asks_for_another_name(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("old", labels=("cat", "dog", "hen"))
    evaluated(storage_uri, "old")
    promote(storage_uri, "m", "old", "none")
    make_run("new")
    evaluated(storage_uri, "new")

    verdict = judged(storage_uri, "new").verdict

    assert verdict.verdict == "reject"
    assert "--model-name" in verdict.reasons[0]
