"""The command that repeats a run, and what its pods request."""

import shlex
from typing import Any

import pytest

from repot.requested_run import RequestedRun, describe_run, repeat_command
from repot.settings import DEFAULTS
from repot_pipelines.cli import repot
from repot_pipelines.commands import run as run_module

VALUES: dict[str, Any] = {
    **DEFAULTS,
    "pictures_uri": "/my pictures/é",
    "storage_uri": "/storage",
    "backbone": "efficientnet_lite0",
}


def command(**changes: Any) -> list[str]:
    return shlex.split(repeat_command({**VALUES, **changes}, in_pods=False))


def test_command_has_only_what_differs_from_the_defaults() -> None:
    # Plan has read the text "none" as none.
    assert (
        command(group_pattern="", rebuild="")
        == command()
        == [
            *("repot", "run", "/my pictures/é", "--storage-uri", "/storage"),
            *("--backbone", "efficientnet_lite0"),
        ]
    )
    assert set(command(epochs=3, nested=True, labels_file_uri="/l.txt")) - set(command()) == {
        *("--epochs", "3", "--nested", "--labels-file", "/l.txt"),
    }


def test_run_on_a_cluster_is_submitted_with_its_pods_settings() -> None:
    changes = {"accelerator_count": 2, "trainer_node_selector": {"gpu": "t 4"}}

    words = shlex.split(repeat_command({**VALUES, **changes}, in_pods=True))

    assert words[:2] == ["repot", "submit"]
    assert 'trainer_node_selector={"gpu": "t 4"}' in words


def test_command_is_read_back_as_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "backbone": "resnet50",
        "recipe": "head",
        "epochs": 2,
        "learning_rate": 0.01,
        "model_name": "pets",
        "seed": 7,
        "nested": True,
        "group_pattern": "a b*",
        "force_promote": "it's better",
        "min_precision": 0.5,
    }
    values = {**VALUES, **changes}
    given: dict[str, Any] = {}

    def stop(arguments: dict[str, Any]) -> None:
        given.update(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(run_module, "_check_arguments", stop)
    words = shlex.split(repeat_command(values, in_pods=False))[1:]
    with pytest.raises(SystemExit):
        repot(words, standalone_mode=False)

    # Only the number of builder pods is the preset's: one, on one machine.
    assert {name for name in values if given[name] != values[name]} <= {"builder_pods"}


def test_credentials_in_a_uri_are_masked() -> None:
    text = repeat_command(
        {**VALUES, "checkpoint": "https://user:hunter2secret@host/w.h5?token=abcdefgh"},
        in_pods=False,
    )

    assert "hunter2secret" not in text


def test_pods_are_described_only_where_there_are_pods() -> None:
    assert describe_run(VALUES, in_pods=False).trainer is None
    run = describe_run(
        {**VALUES, "num_workers": 3, "accelerator_count": 1, "trainer_cpu": "7"}, in_pods=True
    )
    assert run.trainer is not None
    assert run.evaluator is not None
    assert (run.trainer.num_pods, run.trainer.cpu, run.trainer.num_accelerators) == (3, "7", 1)
    assert (run.evaluator.num_pods, run.evaluator.accelerator) == (1, "")
    assert RequestedRun.from_text(run.to_text()) == run
