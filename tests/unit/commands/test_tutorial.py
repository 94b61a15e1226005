"""The tutorial's own spelling of options must work beside the hyphenated one."""

from collections.abc import Sequence
from typing import Any

import pytest

from repot.errors import UsageError
from repot.settings import TrainingSettings
from repot_pipelines.cli import repot
from repot_pipelines.commands import tutorial

# The command lines of the 2016 tutorial, with the program's name replaced.
TUTORIAL = {
    "shards": """--train_directory=train --validation_directory=validation --output_directory=out
        --labels_file=labels.txt --train_shards=128 --validation_shards=24 --num_threads=8""",
    "train": """--train_dir=train --data_dir=data
        --pretrained_model_checkpoint_path=model.ckpt-157585 --fine_tune=True
        --initial_learning_rate=0.001 --input_queue_memory_factor=1""",
    "evaluate": """--eval_dir=eval --data_dir=data --subset=validation --num_examples=500
        --checkpoint_dir=train --input_queue_memory_factor=1 --run_once""",
}
EXPECTED: dict[str, dict[str, Any]] = {
    "shards": {"train_directory": "train", "train_shards": 128, "num_threads": 8},
    "train": {"checkpoint": "model.ckpt-157585", "fine_tune": True, "learning_rate": 0.001},
    "evaluate": {"subset": "validation", "num_examples": 500, "run_once": True},
}


def parse(name: str, args: Sequence[str]) -> dict[str, Any]:
    return repot.commands[name].make_context(name, list(args)).params


@pytest.mark.parametrize("name", TUTORIAL)
def test_command_lines_of_the_tutorial_are_accepted(name: str) -> None:
    params = parse(name, TUTORIAL[name].split())

    assert {key: params[key] for key in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", TUTORIAL)
def test_both_spellings_mean_the_same(name: str) -> None:
    tutorial = TUTORIAL[name].split()
    modern = [
        arg.replace("=True", "").split("=")[0].replace("_", "-")
        + ("=" + arg.split("=")[1] if "=" in arg and "=True" not in arg else "")
        for arg in tutorial
    ]

    assert parse(name, modern) == parse(name, tutorial)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--fine_tune", True),
        ("--fine_tune=True", True),
        ("--fine-tune=true", True),
        ("--fine_tune=1", True),
        ("--fine_tune=False", False),
        ("--fine-tune=0", False),
    ],
)
def test_flags_take_a_truth_value(flag: str, value: bool) -> None:
    args = ["--train_dir=t", "--data_dir=d", "--pretrained_model_checkpoint_path=c", flag]

    assert parse("train", args)["fine_tune"] is value


def test_flag_with_another_value_is_a_usage_error() -> None:
    with pytest.raises(
        UsageError, match="--fine-tune must be True or False; got --fine_tune=maybe"
    ):
        parse("train", ["--fine_tune=maybe"])


def test_values_keep_their_underscores() -> None:
    args = [
        "--train_dir",
        "my_train_dir",
        "--data_dir=my_data",
        "--pretrained-model-checkpoint-path",
        "a_b",
    ]

    params = parse("train", args)

    assert (params["train_dir"], params["data_dir"], params["checkpoint"]) == (
        "my_train_dir",
        "my_data",
        "a_b",
    )


def test_values_that_begin_with_hyphens_stay_as_they_are() -> None:
    options = "--temp_location=gs://a_b/c --no_use_public_ips"
    for args in (["--beam_options", options], [f"--beam-options={options}"]):
        params = parse("shards", ["p", *args, "--output_directory=out"])

        assert (params["beam_options"], params["output_directory"]) == (options, "out")


def settings_of(monkeypatch: pytest.MonkeyPatch, *args: str) -> TrainingSettings:
    """Return the settings that `repot train` with these options trains with."""
    trained: list[TrainingSettings] = []
    monkeypatch.setattr(tutorial, "_train", lambda settings, **_: trained.append(settings))
    repot.main(["train", *args], standalone_mode=False)
    (settings,) = trained
    return settings


def test_options_of_the_tutorial_train_as_in_2016_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(monkeypatch, *TUTORIAL["train"].split())

    assert (settings.recipe, settings.backbone) == ("inception_2016", "inception_v3")
    assert settings.learning_rate == 0.001
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ([], "head"),
        (["--backbone", "mobilenet_v2"], "head"),
        (["--fine-tune"], "inception_2016"),
        (["--fine-tune", "--backbone", "mobilenet_v2"], "fine_tune"),
        (["--fine-tune", "--recipe", "fine_tune"], "fine_tune"),
        (["--recipe", "inception_2016"], "inception_2016"),
    ],
)
def test_recipe_follows_from_fine_tune_and_the_backbone_unless_it_is_chosen(
    options: list[str], recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ["--data-dir=d", "--train-dir=t", "--pretrained-model-checkpoint-path=c"]

    assert settings_of(monkeypatch, *folders, *options).recipe == recipe


def test_learning_rate_of_the_tutorial_gives_a_warning_with_adamw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TUTORIAL["train"].split(), "--recipe=fine_tune"]

    assert settings_of(monkeypatch, *options).learning_rate == 0.001
    shown = " ".join(capsys.readouterr().err.split())
    assert "train: warning: learning_rate should be at most 0.0003 with recipe=fine_tune" in shown
    assert "Choose 3e-05 to 0.0003, or 0 for the recipe's own" in shown


def test_decay_in_steps_has_the_flags_of_2016(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--num_epochs_per_decay=2.5", "--learning_rate_decay_factor=0.94"]

    settings = settings_of(monkeypatch, *TUTORIAL["train"].split(), *flags)

    assert (settings.num_epochs_per_decay, settings.learning_rate_decay_factor) == (2.5, 0.94)
