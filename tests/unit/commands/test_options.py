"""Groups of options: what a command gets, and that every setting has its option."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from repot.settings import PARAMETERS, option_name
from repot_pipelines.cli import repot
from repot_pipelines.cluster_rules import (
    MAX_RUN_NAME,
    MAX_SCHEDULE_NAME,
    server_name_problem,
)
from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import (
    RequestOptions,
    connection_options,
    pipeline_options,
    request_options,
    setting_option,
    start_limit_options,
    start_options,
)
from repot_pipelines.kfp_server.access import ConnectionOptions
from repot_pipelines.kfp_server.submission import StartOptions, timestamped_name
from repot_pipelines.watch.start_watch import StartLimit

_TYPE_NAMES = {int: "integer", float: "float", str: "text", bool: "boolean"}


def values_of(decorate: Any, *args: str) -> dict[str, Any]:
    """Return what a command with these options gets."""
    received: dict[str, Any] = {}

    @click.command()
    @decorate  # type: ignore[untyped-decorator]
    def command(**values: Any) -> None:
        received.update(values)

    CliRunner().invoke(command, args, catch_exceptions=False, standalone_mode=False)
    return received


def invoke(*args: str) -> Result:
    return CliRunner().invoke(repot, args)


def test_only_given_parameters_reach_the_command() -> None:
    assert values_of(pipeline_options) == {"parameters": {}}
    assert values_of(pipeline_options, "--allow-label-removal") == {
        "parameters": {"allow_label_removal": True}
    }
    assert values_of(pipeline_options, "--batch-size", "8", "--labels-file", "l.txt") == {
        "parameters": {"batch_size": 8, "labels_file_uri": "l.txt"}
    }


@pytest.mark.parametrize("name", [name for name, field in PARAMETERS.items() if option_name(field)])
def test_every_setting_has_its_option_with_the_help_of_the_field(name: str) -> None:
    option, field = option_name(PARAMETERS[name]), PARAMETERS[name]
    (found,) = [each for each in repot.commands["run"].params if option in each.opts]

    assert isinstance(found, click.Option)
    assert found.help == field.metadata["help"]
    assert found.type.name == _TYPE_NAMES[field.type]  # type: ignore[index]
    assert found.is_flag == (field.type is bool)


@pytest.mark.parametrize(
    "name", [name for name, field in PARAMETERS.items() if not option_name(field)]
)
def test_cluster_only_settings_have_no_option_of_their_own(name: str) -> None:
    assert f"--{name.replace('_', '-')}" not in [
        option for parameter in repot.commands["schedule"].params for option in parameter.opts
    ]


def test_request_options_collect_preset_file_assignments_and_parameters() -> None:
    values = values_of(
        request_options,
        *("gs://b/pictures", "--storage-uri", "gs://b/repot", "--seed", "3"),
        *("-p", "num_workers=2", "-p", "trainer_mode=job", "--params", "run.yaml"),
    )

    assert values == {
        "request_options": RequestOptions(
            preset="cluster",
            parameter_file=Path("run.yaml"),
            assignments=("num_workers=2", "trainer_mode=job"),
            parameters={
                "seed": 3,
                "pictures_uri": "gs://b/pictures",
                "storage_uri": "gs://b/repot",
            },
        )
    }


def test_start_and_connection_options_become_objects() -> None:
    assert values_of(start_options, "--experiment", "e") == {"start": StartOptions(experiment="e")}
    assert values_of(connection_options, "--host", "h", "--context", "c") == {
        "connection": ConnectionOptions(host="h", kube_context="c")
    }


def test_setting_option_can_have_another_name_and_the_default_of_the_setting() -> None:
    option = setting_option("learning_rate", "--initial-learning-rate", with_default=True)

    assert values_of(option) == {"learning_rate": 0.0}
    assert values_of(option, "--initial-learning-rate", "0.1") == {"learning_rate": 0.1}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_infinite_numbers_are_rejected(value: str) -> None:
    result = invoke("run", "--sample", "--learning-rate", value)

    assert result.exit_code == 2
    assert "must be a finite number" in result.output


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--experiment", ["flowers", "a+b 100% é", "e" * 128]),
        ("--pipeline-name", ["", "Flowers 1", "p" * 128]),
        ("--version-name", ["", "v1", "v" * 127]),
        ("--service-account", ["", "robot", "team.robot"]),
        ("--pipeline-root", ["", "gs://root", "gs://root/x", "s3://root/x?region=eu", "minio://r"]),
    ],
)
def test_names_that_a_server_accepts_are_accepted(option: str, values: list[str]) -> None:
    for value in values:
        field = option.removeprefix("--").replace("-", "_")
        assert getattr(values_of(start_options, option, value)["start"], field) == value


@pytest.mark.parametrize(
    ("option", "values"),
    [
        *(
            (option, [" ", " a", "a ", "a\nb", "a\x1b[31mb", "a\tb", "\udcff", "é" * 65])
            for option in ("--experiment", "--pipeline-name", "--version-name")
        ),
        ("--experiment", ["", "e" * 129]),
        ("--pipeline-name", ["p" * 129]),
        ("--version-name", ["v" * 128]),
        ("--service-account", [" ", "Robot", "my robot", "robot\n", "r" * 254, "a..b", "ns/robot"]),
        (
            "--pipeline-root",
            [" ", "root", "/root", "ftp://root", "gs://", "gs://a b", "gs://a\x1b"],
        ),
    ],
)
def test_names_that_a_server_rejects_are_usage_errors(option: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(click.BadParameter, match=r"^it must .*; got '.*'\.$"):
            values_of(start_options, option, value)


@pytest.mark.parametrize("option", ["--namespace", "--kfp-namespace"])
@pytest.mark.parametrize("value", [" ", "Team", "my team", "team.a", "t" * 64])
def test_namespace_must_be_a_dns_label(option: str, value: str) -> None:
    with pytest.raises(click.BadParameter, match=r"^it must .*; got '.*'\.$"):
        values_of(connection_options, option, value)


@pytest.mark.parametrize("name", [" ", "one\ntwo", "\x1b]0;title\x07", "n" * 256])
@pytest.mark.parametrize(
    ("command", "max_bytes"),
    [(("submit", "--run-name"), 255), (("ci", "--run-name"), 255), (("schedule", "apply"), 235)],
)
def test_name_of_a_run_or_schedule_must_be_printable(
    command: tuple[str, ...], max_bytes: int, name: str
) -> None:
    result = invoke(*command, name)

    assert result.exit_code == 2
    assert f"it must be 1 to {max_bytes} bytes of printable text" in result.output
    assert "\x1b" not in result.output


def test_longest_name_of_a_schedule_leaves_room_for_the_time_of_a_run() -> None:
    assert server_name_problem("n" * MAX_SCHEDULE_NAME, MAX_SCHEDULE_NAME) is None
    run_name = timestamped_name("n" * MAX_SCHEDULE_NAME)
    assert server_name_problem(run_name, MAX_RUN_NAME) is None
    assert server_name_problem(f"n{run_name}", MAX_RUN_NAME) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "gs://bucket/x", "--dry-run", "--num-pictures", "1000000001"),
        ("submit", "gs://bucket/x", "--dry-run", "--num-pictures", "1" + 400 * "0"),
        ("submit", "gs://bucket/x", "--poll-seconds", "1e300"),
        ("evaluate", "--num-examples", str(2**31)),
        ("evaluate", "--eval-interval-secs", str(2**63)),
    ],
)
def test_huge_numbers_are_rejected(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)

    assert result.exit_code == 2
    assert "is not in the range" in result.output


def test_largest_number_of_pictures_is_estimated() -> None:
    locations = ("gs://bucket/x", "--storage-uri", "gs://bucket/y")
    result = invoke("submit", *locations, "--dry-run", "--num-pictures", "1000000000")

    assert result.exit_code == 0
    assert "Nothing was uploaded or started." in result.output


def test_name_choice_suggests_the_nearest_name() -> None:
    option = click.option("--preset", type=NameChoice(["cluster", "laptop"]))

    with pytest.raises(click.BadParameter, match=r"Did you mean laptop\?"):
        values_of(option, "--preset", "laptpo")


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (("trian",), "Did you mean 'train'?"),
        (("schedule", "aply"), "Did you mean 'apply'?"),
        (("run", "--sample", "--preset", "clutser"), "Did you mean cluster?"),
        (("run", "--sampel"), "--sample"),
    ],
)
def test_typo_is_a_usage_error_with_a_suggestion(args: tuple[str, ...], suggestion: str) -> None:
    result = invoke(*args)

    assert result.exit_code == 2
    assert suggestion in result.output


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1h30m", 5400),
        ("720h", 2592000),
    ],
)
def test_start_timeout_has_units(value: str, seconds: float) -> None:
    given = values_of(start_limit_options, "--start-timeout", value, "--terminate-on-timeout")

    assert given == {"start_limit": StartLimit(timeout_seconds=seconds, terminate=True)}
    assert values_of(start_limit_options) == {"start_limit": StartLimit(timeout_seconds=900.0)}


@pytest.mark.parametrize("value", ["", "soon", "15 m", "-5", "1.5h", "m", "721h", "1m1h", "1e3"])
def test_wrong_start_timeout_is_rejected(value: str) -> None:
    result = invoke("submit", f"--start-timeout={value}")

    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert "it must be a number of seconds, or a time such as 90s, 15m, 2h or 1h30m" in message
    assert f"got {value!r}" in message
