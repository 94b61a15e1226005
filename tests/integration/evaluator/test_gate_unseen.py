"""The gate compares on pictures that neither model was trained on, matched by content."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from repot import layout, storage
from repot.errors import StorageError
from repot.evaluation_record import EvaluationRecord
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.gate import GateReport, decide
from repot.evaluator.outcomes import Outcome
from repot.evaluator.unseen import find_unseen
from repot.evaluator.verdict import Verdict
from repot.evaluator.versions import promote
from repot.model_registry import ChampionChange, ModelRecord
from repot.settings import GateSettings
from tests.integration.evaluator.colours import MakeRun, save_picture
from tests.integration.evaluator.conftest import build_dataset

# Correct on the four red pictures only.
HALF = ("red", "blue", "green")
TIME = "2026-11-27T14:05:00Z"


def build_previous(pictures: Path, folder: Path, moved: Sequence[tuple[str, str]]) -> None:
    """Build the dataset from before some pictures were moved from train to validation.

    Args:
        pictures: The present pictures.
        folder: Folder of the dataset.
        moved: Path in validation/, and the path in train/ before.
    """
    previous = folder.with_name("previous pictures")
    shutil.copytree(pictures, previous)
    for path, path_before in moved:
        (previous / "validation" / path).rename(previous / "train" / path_before)
    build_dataset(previous, folder)


def _about_scores(verdict: Verdict) -> list[str]:
    """Return the reasons that are not about the pictures: every label here has few."""
    return [reason for reason in verdict.reasons if not reason.startswith("Data: ")]


@pytest.fixture(scope="session")
def one_renamed_one_relabelled(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with two present validation pictures in train, one under another label."""
    folder = tmp_path_factory.mktemp("moved") / "dataset"
    moved = [("red/red_0.jpg", "red/renamed.jpg"), ("green/green_1.jpg", "blue/wrong.jpg")]
    build_previous(pictures, folder, moved)
    return folder


@pytest.fixture(scope="session")
def seven_in_train(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with seven of the twelve present validation pictures in train."""
    folder = tmp_path_factory.mktemp("seven") / "dataset"
    moved = [
        (path, path)
        for path in (
            *(f"red/red_{i}.jpg" for i in range(4)),
            *(f"green/green_{i}.jpg" for i in range(3)),
        )
    ]
    build_previous(pictures, folder, moved)
    return folder


@pytest.fixture(scope="session")
def with_test(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with five test pictures, one of them a copy of a training picture."""
    folder = tmp_path_factory.mktemp("test") / "dataset"
    tested = folder.with_name("pictures")
    shutil.copytree(pictures, tested)
    for i, (label, colour) in enumerate([("red", "red"), ("green", "green"), ("blue", "green")]):
        save_picture(tested / "test" / label / f"{i}.jpg", colour, size=(30 + i, 31))
    save_picture(tested / "test" / "green" / "other.jpg", "green", size=(30, 50))
    shutil.copy(tested / "train" / "blue" / "0.jpg", tested / "test" / "blue" / "copy.jpg")
    build_dataset(tested, folder)
    return folder


def decide_after_growth(
    make_run: MakeRun, storage_uri: str, previous: Path, *, min_precision: float = 0.0
) -> GateReport:
    """Decide on a version of the present dataset; the champion was trained on the previous one."""
    storage.copy_folder(str(previous), layout.dataset_uri(storage_uri, "previous"))
    make_run("old", colours=HALF, dataset_id="previous")
    evaluate_run(storage_uri=storage_uri, dataset_id="previous", training_id="old", model_name="m")
    change = ChampionChange(version="old", action="promote", time=TIME, run_id="run 1")
    promote(storage_uri, "m", change, expected_champion="none")
    make_run("new")
    evaluate_run(storage_uri=storage_uri, dataset_id="colours", training_id="new", model_name="m")
    return decide_again(storage_uri, min_precision=min_precision)


def decide_again(
    storage_uri: str, *, min_precision: float = 0.0, gate_split: str = "validation"
) -> GateReport:
    return decide(
        storage_uri=storage_uri,
        dataset_id="colours",
        training_id="new",
        model_name="m",
        # Twelve pictures can decide only with the whole yearly error.
        settings=GateSettings(
            min_precision=min_precision, gate_split=gate_split, comparisons_per_year=1
        ),
        decided_at=TIME,
    )


def test_renamed_and_relabelled_training_pictures_of_the_champion_are_not_compared(
    make_run: MakeRun, storage_uri: str, one_renamed_one_relabelled: Path
) -> None:
    report = decide_after_growth(
        make_run, storage_uri, one_renamed_one_relabelled, min_precision=0.91
    )

    verdict = report.verdict
    assert verdict.decision == "promote"
    assert verdict.compared is not None
    assert (verdict.compared.num_scored, verdict.compared.num_compared) == (12, 10)
    assert verdict.compared.num_trained_on_by_champion == 2
    assert verdict.compared.num_trained_on_by_version == 0
    assert verdict.champion is not None
    # The champion would have 4 of all 12 right, this version has 11: one red picture less.
    assert (verdict.champion.precision_at_1, verdict.champion.num_examples) == (0.3, 10)
    assert (verdict.challenger.precision_at_1, verdict.challenger.num_examples) == (0.9, 10)
    assert verdict.comparison is not None
    assert verdict.comparison.both_right == 3
    # The threshold is for the score on all pictures.
    assert (
        "precision@1 of 0.9167 [0.6461, 0.9851] on all 12 pictures reaches the threshold of 0.9100."
        in verdict.reasons
    )
    expected = (
        "10 of 12 validation pictures are compared, because the champion was trained on 2. "
        "Pictures are matched by content, not by name."
    )
    assert _about_scores(verdict)[-1] == expected
    assert expected in report.report_html
    assert "scored on the same 10 pictures" in report.report_html
    assert "this model" in report.report_html


def forget_trained_on(storage_uri: str) -> None:
    """Make the champion one that an earlier version of repot published."""
    storage.delete(f"{layout.model_uri(storage_uri, 'm', 'old')}/trained_on.bin")


def test_deleted_dataset_of_the_champion_is_not_needed(
    make_run: MakeRun, storage_uri: str, one_renamed_one_relabelled: Path
) -> None:
    first = decide_after_growth(make_run, storage_uri, one_renamed_one_relabelled)
    storage.delete_folder(layout.dataset_uri(storage_uri, "previous"))

    assert decide_again(storage_uri).verdict == first.verdict


def test_dataset_of_an_earlier_version_is_matched_by_its_shards(
    make_run: MakeRun, storage_uri: str, one_renamed_one_relabelled: Path
) -> None:
    first = decide_after_growth(make_run, storage_uri, one_renamed_one_relabelled)
    forget_trained_on(storage_uri)
    for dataset_id in ("colours", "previous"):
        storage.delete_folder(f"{layout.dataset_uri(storage_uri, dataset_id)}/digests")

    assert decide_again(storage_uri).verdict == first.verdict


@pytest.mark.parametrize("is_gone", [False, True])
def test_champion_whose_training_pictures_are_unknown_is_compared_on_all(
    make_run: MakeRun, storage_uri: str, one_renamed_one_relabelled: Path, is_gone: bool
) -> None:
    decide_after_growth(make_run, storage_uri, one_renamed_one_relabelled)
    previous_uri = layout.dataset_uri(storage_uri, "previous")
    forget_trained_on(storage_uri)
    storage.delete_folder(previous_uri if is_gone else f"{previous_uri}/digests")
    if not is_gone:
        storage.delete(f"{previous_uri}/train-00000-of-00001")

    verdict = decide_again(storage_uri).verdict

    assert verdict.champion is not None
    assert verdict.champion.precision_at_1 == 4 / 12
    assert _about_scores(verdict)[-1].startswith(
        "It is unknown which pictures the champion was trained on, and they count in its favour: "
    )
    assert previous_uri in _about_scores(verdict)[-1]


def test_storage_error_is_not_taken_for_a_deleted_dataset(
    make_run: MakeRun, storage_uri: str, one_renamed_one_relabelled: Path
) -> None:
    decide_after_growth(make_run, storage_uri, one_renamed_one_relabelled)
    forget_trained_on(storage_uri)
    manifest = Path(layout.dataset_uri(storage_uri, "previous"), "manifest.json")
    manifest.unlink()
    manifest.mkdir()

    with pytest.raises(StorageError, match=r"previous/manifest\.json"):
        decide_again(storage_uri)


def test_too_few_unseen_pictures_are_undecided_with_advice(
    make_run: MakeRun, storage_uri: str, seven_in_train: Path
) -> None:
    report = decide_after_growth(make_run, storage_uri, seven_in_train, min_precision=0.5)

    verdict = report.verdict
    assert verdict.decision == "undecided"
    assert (verdict.champion, verdict.comparison) == (None, None)
    assert verdict.challenger.num_examples == 12
    assert verdict.reasons[0] == (
        "Only 5 of 12 validation pictures are new to both versions, and a comparison needs 6: the "
        "champion was trained on 7. Add pictures that the champion has not seen; in a folder "
        "validation/ of their own, they are never trained on. To put this version into production "
        "without a comparison: `repot models promote new --model-name m --reason ...`."
    )
    assert verdict.reasons[1].startswith(
        "precision@1 of 0.9167 [0.6461, 0.9851] on all 12 pictures reaches"
    )
    # The champion was not scored for nothing.
    assert not storage.exists(f"{layout.gate_uri(storage_uri, 'new', 'old')}/predictions.csv")


def make_outcome(digest: str, label: str) -> Outcome:
    return Outcome(
        filename=f"{digest}.jpg",
        digest=digest * 32,
        label=label,
        predicted=label,
        probability=0.9,
        label_probability=0.9,
        label_rank=1,
    )


def test_files_with_the_same_content_are_one_picture_of_the_comparison(dataset: Path) -> None:
    outcomes = [
        make_outcome(digest, label)
        for digest, label in [("a", "red"), ("b", "red"), ("a", "red"), ("a", "blue"), ("a", "red")]
    ]

    unseen = find_unseen(
        outcomes,
        dataset_uri=str(dataset),
        champion_uri="",
        champion_dataset_uri=str(dataset),
    )

    # Another label is another observation: a version can be right about one of the two only.
    assert unseen.is_unseen == (True, True, False, True, False)
    assert (unseen.pictures.num_compared, unseen.pictures.num_required) == (3, 2)
    assert unseen.pictures.left_out_text == "2 are copies of another one"


def test_test_split_is_scored_beside_validation_and_can_decide(
    make_run: MakeRun, storage_uri: str, with_test: Path
) -> None:
    storage.delete_folder(layout.dataset_uri(storage_uri, "colours"))
    storage.copy_folder(str(with_test), layout.dataset_uri(storage_uri, "colours"))
    make_run("old", colours=HALF)
    run_uri = make_run("new")
    for version in ("old", "new"):
        run = evaluate_run(
            storage_uri=storage_uri, dataset_id="colours", training_id=version, model_name="m"
        )
    change = ChampionChange(version="old", action="promote", time=TIME, run_id="run 1")
    promote(storage_uri, "m", change, expected_champion="none")

    on_validation = decide_again(storage_uri)
    on_test = decide_again(storage_uri, gate_split="test", min_precision=0.8)

    test = run.evaluation.test
    assert test is not None
    # Three of four right; the copy of a training picture is not scored.
    assert (test.num_examples, test.num_correct, test.precision_at_1) == (4, 3, 0.75)
    assert test.excluded == {"copy_of_training": 1}
    assert (run.evaluation.num_examples, run.evaluation.num_correct) == (12, 11)
    stored = EvaluationRecord.from_text(storage.read_text(f"{run_uri}/evaluation/metrics.json"))
    assert stored == run.evaluation
    record = ModelRecord.from_text(
        storage.read_text(f"{layout.model_uri(storage_uri, 'm', 'new')}/model.json")
    )
    assert record.test_metrics is not None
    assert (record.test_metrics.precision_at_1, record.test_metrics.subset) == (0.75, "test")
    card = storage.read_text(f"{layout.model_uri(storage_uri, 'm', 'new')}/model_card.md")
    assert "On 4 pictures of the test split, on which nothing was selected:" in card
    assert "<h2>Test</h2>" in run.report_html
    assert "3 of 4" in run.report_html

    assert (on_validation.verdict.decision, on_validation.verdict.subset) == (
        "promote",
        "validation",
    )
    assert on_validation.verdict.challenger.num_examples == 12
    verdict = on_test.verdict
    assert (verdict.decision, verdict.subset) == ("reject", "test")
    assert verdict.challenger.num_examples == 4
    assert verdict.champion is not None
    assert verdict.champion.precision_at_1 == 0.5
    assert verdict.reasons[0] == (
        "precision@1 of 0.7500 [0.3006, 0.9544] is below the threshold of 0.8000."
    )
    assert "scored on the same 4 pictures of test" in on_test.report_html
    gate_uri = layout.gate_uri(storage_uri, "new", "old")
    assert storage.exists(f"{gate_uri}/test/predictions.csv")
    assert storage.exists(f"{gate_uri}/predictions.csv")
