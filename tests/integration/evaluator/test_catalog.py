"""`repot models` and `repot runs` on a folder and on a bucket."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from repot import layout, storage
from repot.errors import UsageError
from repot.evaluator.catalog import show_run, show_version
from repot.evaluator.gate import decide
from repot.evaluator.run_comparison import compare_runs
from repot.evaluator.versions import promote_by_hand
from repot.model_registry import read_champion
from repot.requested_run import describe_run
from repot.settings import DEFAULTS
from repot_pipelines.cli import repot
from repot_pipelines.commands.tables import MAX_COLUMNS
from tests.integration.evaluator.colours import MakeRun
from tests.integration.evaluator.test_gate import (
    HALF,
    LATER,
    evaluate_version,
    gate_settings,
    judge_and_promote,
)
from tests.unit.evaluator.samples import make_model_record


@pytest.fixture(params=["local", "gcs"])
def store(
    request: pytest.FixtureRequest, make_run: MakeRun, storage_uri: str, dataset: Path
) -> str:
    """Return a storage with a champion, an undecided version, and an unfinished run."""
    uri = storage_uri
    make_run("first", colours=("red", "green", "blue"))
    make_run("second", colours=("red", "green", "blue"))
    make_run("third", colours=HALF)
    if request.param != "local":
        uri = request.getfixturevalue(request.param)
        storage.copy_folder(str(dataset), layout.dataset_uri(uri, "colours"))
        for run in ("first", "second", "third"):
            storage.copy_folder(layout.run_uri(storage_uri, run), layout.run_uri(uri, run))
    for run in ("first", "second"):
        evaluate_version(uri, run)
        judge_and_promote(uri, run, run_id=f"run of {run}", settings=gate_settings())
    storage.write_text(f"{layout.run_uri(uri, 'fourth')}/state/latest.json", "{}")
    return uri


def run(*arguments: str) -> str:
    result = CliRunner().invoke(repot, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_models_and_runs_are_listed_shown_compared_and_promoted(store: str) -> None:
    at = ("--storage-uri", store)

    (model,) = run_json("models", "list", *at)
    assert (model["name"], model["champion"], model["num_versions"]) == ("m", "first", 2)
    assert (model["precision_at_1"], model["num_comparisons"]) == (11 / 12, 1)
    versions = run_json("models", "list", *at, "--model-name", "m")
    assert {(each["version"], each["state"]) for each in versions} == {
        ("first", "champion"),
        ("second", ""),
    }
    undecided = next(each for each in versions if each["version"] == "second")
    assert undecided["verdict"].startswith("Undecided: 12 pictures do not show")
    table = run("models", "list", *at, "--model-name", "m").splitlines()
    assert table[0].split()[:4] == ["version", "decided", "state", "precision@1"]
    assert max(map(len, table)) <= MAX_COLUMNS
    assert any(line.startswith("first") and "0.917 [0.646, 0.985]" in line for line in table)
    assert run("models", "list", *at).splitlines()[1].startswith("m      first")

    (verdict_uri,) = (
        each.uri
        for each in storage.list_objects(f"{layout.run_uri(store, 'first')}/gate")
        if each.uri.endswith("/verdict.json")
    )
    of_another = storage.read_text(verdict_uri).replace('"model_name": "m"', '"model_name": "n"')
    assert '"model_name": "n"' in of_another
    storage.write_text(f"{layout.run_uri(store, 'first')}/gate/other/verdict.json", of_another)
    champion = run_json("models", "show", *at, "--model-name", "m")
    assert champion["summary"]["version"] == "first"
    assert [each["decision"] for each in champion["verdicts"]] == ["promote"]
    assert [each["run_id"] for each in champion["history"]] == ["run of first"]
    shown = run("models", "show", "second", *at, "--model-name", "m")
    assert "Undecided: 12 pictures" in shown
    assert "red, green, blue" in shown

    runs = run_json("runs", "list", *at)
    # Those without a verdict first, then the latest verdict.
    assert [(each["run"], each["state"]) for each in runs] == [
        ("third", "trained"),
        ("fourth", "unfinished"),
        ("second", "evaluated"),
        ("first", "evaluated"),
    ]
    table = run("runs", "list", *at).splitlines()
    assert max(map(len, table)) <= MAX_COLUMNS
    assert [line.split("  ")[-1].strip() for line in table[1:]] == [
        "trained",
        "unfinished",
        undecided["brief_verdict"],
        "promoted: first version",
    ]
    assert table[4].split()[1:3] == list(runs[3]["decided_at"][:16].split("T"))
    assert undecided["brief_verdict"].startswith("undecided: needs ~")
    assert "Undecided: 12 pictures do not show" in run("runs", "show", "second", *at)
    assert run_json("runs", "show", "third", *at)["training"]["training_id"] == "third"
    assert "red: 4 of 5 right" in run("runs", "show", "first", *at)
    comparison = run_json("runs", "compare", "first", "second", *at)
    assert (comparison["num_pictures"], comparison["difference"]) == (12, 0.0)
    assert comparison["settings"] == {}
    assert "second minus first" in run("runs", "compare", "first", "second", *at)

    assert (
        run("models", "promote", "second", "--reason", "camera 4", *at, "--model-name", "m")
        == "m: champion is second now, in place of first.\n"
    )
    (model,) = run_json("models", "list", *at)
    assert model["champion"] == "second"
    history = run_json("models", "show", *at, "--model-name", "m")["history"]
    assert [(each["action"], each["reason"]) for each in history] == [("promote", "camera 4")]
    output = run("models", "rollback", *at, "--model-name", "m")
    assert output == (
        "m: champion is first again, in place of second.\nNo run promotes second by itself now; to "
        "undo this: repot rollback --to second --model-name m\n"
    )


def test_lists_are_limited_to_what_was_written_last(tmp_path: Path) -> None:
    uri = str(tmp_path)
    for number in range(4):
        run, model = (
            f"{layout.run_uri(uri, f'run {number}')}",
            layout.model_uri(uri, "m", str(number)),
        )
        storage.write_text(f"{run}/state/latest.json", "{}")
        storage.write_json(f"{model}/model.json", make_model_record("m", str(number)).to_json())
        for path in (f"{run}/state/latest.json", f"{model}/model.json"):
            os.utime(path, (1000.0 - number, 1000.0 - number))
    at = ("--storage-uri", uri)

    for command, shown, what in (
        (("runs", "list"), ["run 0", "run 1", "run 2"], "runs"),
        (("models", "list", "--model-name", "m"), ["0", "1", "2"], "versions"),
    ):
        # One fewer than there are, as many, and all.
        for limit, number in ((3, 3), (4, 4), (0, 4)):
            done = CliRunner().invoke(repot, [*command, *at, "--json", "--limit", str(limit)])
            listed = [each.get("run") or each["version"] for each in json.loads(done.stdout)]
            assert len(listed) == number
            assert set(shown) <= set(listed)
            note = f"The latest 3 of 4 {what}; --limit 0 lists all.\n" if limit == 3 else ""
            assert done.stderr == note
    assert CliRunner().invoke(repot, ["runs", "list", *at, "--limit", "-1"]).exit_code == 2


def test_run_shows_what_it_cost_and_how_to_repeat_it(make_run: MakeRun, storage_uri: str) -> None:
    make_run("first")
    evaluate_version(storage_uri, "first")
    values = {**DEFAULTS, "pictures_uri": "gs://b/p", "storage_uri": storage_uri}
    request = describe_run({**values, "model_name": "pets"}, in_pods=True)
    decide(
        storage_uri=storage_uri,
        dataset_id="colours",
        training_id="first",
        model_name="m",
        settings=gate_settings(),
        decided_at=LATER,
        request=request,
    )

    shown = run("runs", "show", "first", "--storage-uri", storage_uri)

    assert "repeat       repot submit gs://b/p --storage-uri" in shown
    assert "--model-name pets" in shown
    assert "USD for training and scoring" in shown
    assert run_json("runs", "show", "first", "--storage-uri", storage_uri)["request"]


def test_runs_are_compared_picture_by_picture_and_by_setting(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("good")
    run_uri = make_run("poor", colours=HALF)
    training = storage.read_json(f"{run_uri}/training.json")
    training["settings"]["seed"] = 7
    storage.write_json(f"{run_uri}/training.json", training)
    for name in ("good", "poor"):
        evaluate_version(storage_uri, name)

    result = compare_runs(storage_uri, "poor", "good")

    assert (result.only_first, result.only_second, result.num_pictures) == (0, 7, 12)
    assert result.difference == 7 / 12
    assert result.interval[0] > 0
    assert result.p_value == 2 / 2**7
    assert result.settings == {"seed": ("7", "0")}


def test_compared_runs_show_that_their_pictures_differ(make_run: MakeRun, storage_uri: str) -> None:
    for name, num_train in (("small", 30), ("large", 45)):
        run_uri = make_run(name)
        training = storage.read_json(f"{run_uri}/training.json")
        evaluate_version(storage_uri, name)
        training["num_examples"] = {"train": num_train, "validation": 12}
        training["dataset_id"] = f"id of {name}"
        storage.write_json(f"{run_uri}/training.json", training)

    output = run("runs", "compare", "small", "large", "--storage-uri", storage_uri)

    assert (
        "differs      dataset: id of small (30 train, 12 validation; 3 labels) -> id of large "
        "(45 train, 12 validation; 3 labels)\n"
    ) in output
    assert "45 pictures, 2 epochs, " in run("runs", "show", "large", "--storage-uri", storage_uri)


def test_run_shows_the_settings_that_mean_something_for_its_recipe(
    make_run: MakeRun, storage_uri: str
) -> None:
    run_uri = make_run("auto")
    training = storage.read_json(f"{run_uri}/training.json")
    training["settings"] |= {"recipe": "auto", "class_weights": "off"}
    storage.write_json(f"{run_uri}/training.json", training)

    shown = run("runs", "show", "auto", "--storage-uri", storage_uri)

    (settings,) = re.findall(r"^settings +(.*)", shown, re.MULTILINE)
    assert settings == (
        "backbone=mobilenet_v2, recipe=auto, seed=0, class_weights=off; defaults for the rest"
    )
    assert "epoch" not in shown


def test_verdict_of_a_list_is_the_one_that_decided(make_run: MakeRun, storage_uri: str) -> None:
    make_run("first")
    evaluate_version(storage_uri, "first")
    for run_id in ("run 1", "run 2"):
        judge_and_promote(storage_uri, "first", run_id=run_id, settings=gate_settings())

    at = ("--storage-uri", storage_uri)

    (version,) = run_json("models", "list", "--model-name", "m", *at)
    assert version["brief_verdict"] == "promoted: first version"
    (listed,) = run_json("runs", "list", *at)
    assert listed["brief_verdict"] == "promoted: first version"
    decisions = [each["decision"] for each in run_json("runs", "show", "first", *at)["verdicts"]]
    assert sorted(decisions) == ["promote", "unchanged"]


def test_names_that_do_not_exist_are_answered_with_those_that_do(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("good")
    make_run("trained")
    evaluate_version(storage_uri, "good")

    with pytest.raises(UsageError, match=r"none of 'x'\. Name one of these .* m\.$"):
        show_version(storage_uri, "x", "")
    with pytest.raises(UsageError, match=r"got 'x'\. Name one of these: good\.$"):
        show_version(storage_uri, "m", "x")
    with pytest.raises(UsageError, match=r"got 'x'\. Name one of these: good, trained\.$"):
        show_run(storage_uri, "x")
    with pytest.raises(UsageError, match=r"trained is trained\. Run the pipeline again"):
        compare_runs(storage_uri, "good", "trained")
    with pytest.raises(UsageError, match="check --storage-uri"):
        show_run(f"{storage_uri}/elsewhere", "x")
    with pytest.raises(UsageError, match="check --storage-uri"):
        show_version(f"{storage_uri}/elsewhere", "m", "")


def test_promotion_by_hand_needs_a_published_version_and_a_reason(
    make_run: MakeRun, storage_uri: str
) -> None:
    make_run("good")
    evaluate_version(storage_uri, "good")

    with pytest.raises(UsageError, match="must have a reason"):
        promote_by_hand(storage_uri, "m", "good", reason=" ", time=LATER)
    with pytest.raises(UsageError, match=r"m has no 'x'\. Published versions: good\.$"):
        promote_by_hand(storage_uri, "m", "x", reason="r", time=LATER)
    assert promote_by_hand(storage_uri, "m", "good", reason="r", time=LATER).version == "good"
    with pytest.raises(UsageError, match="already the champion of m"):
        promote_by_hand(storage_uri, "m", "good", reason="r", time=LATER)
    champion = read_champion(layout.champion_uri(storage_uri, "m")).champion
    assert champion is not None
    assert (champion.previous, champion.history[0].reason) == ("", "r")
