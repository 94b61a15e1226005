"""Options that several commands share; a command gets each group as one typed argument.

`@pipeline_options` adds an option for every setting that has one (see `repot.settings`);
`@request_options` adds what names a pipeline run on a server; `@start_options` and
`@connection_options` how it is started and where the server is.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from repot.settings import (
    ALL_SETTINGS,
    DEFAULTS,
    NONE,
    PARAMETERS,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    InputSettings,
    ParameterValues,
    RunSettings,
    TrainingSettings,
    option_name,
)
from repot_pipelines.cluster_rules import (
    MAX_EXPERIMENT_NAME,
    MAX_PIPELINE_NAME,
    MAX_VERSION_NAME,
    cluster_warnings,
    pipeline_root_problem,
)
from repot_pipelines.commands.help_sections import in_section
from repot_pipelines.commands.option_types import (
    NAMESPACE,
    SERVICE_ACCOUNT,
    Checked,
    Duration,
    NameChoice,
    server_name,
)
from repot_pipelines.defaults import (
    EXPERIMENT,
    KFP_NAMESPACE,
    POLL_SECONDS,
    START_TIMEOUT_SECONDS,
    STORAGE_FOLDER,
)
from repot_pipelines.kfp_server.access import ConnectionOptions
from repot_pipelines.presets import PRESETS

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.submission import StartOptions
    from repot_pipelines.run_request import RunRequest
    from repot_pipelines.watch.start_watch import StartLimit

DEBUG_OPTION = "--debug"

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Decorator = Callable[[_Command], _Command]
_OptionValues = dict[str, Any]
_CLICK_TYPES = {int: click.INT, float: click.FLOAT, str: click.STRING}
_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLLOWING = "Following the run"
_SETTING_SECTIONS = {
    RunSettings: "Model and labels",
    InputSettings: "Input",
    DatasetSettings: "Dataset and splits",
    CheckpointSettings: "Pre-trained weights",
    TrainingSettings: "Training",
    GateSettings: "Promotion and limits",
}
_SECTION_OF_SETTING = {
    name: _SETTING_SECTIONS[settings]
    for settings in ALL_SETTINGS
    if settings in _SETTING_SECTIONS
    for name in settings.__dataclass_fields__
}
_PRESET_DEFAULTS = {
    name
    for preset in PRESETS.values()
    for name, value in preset.items()
    if value != DEFAULTS.get(name)
}
"""Settings whose default depends on the preset."""


class SettingOption(click.Option):
    """An option of a setting: None if it is omitted; the help text states the default."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return names and help text, with the default that applies without the option."""
        record = super().get_help_record(ctx)
        name = str(self.name)
        default = DEFAULTS[name]
        if record is None or default is False or default == NONE:
            return record
        text = str(default) if isinstance(default, str) else f"{default:g}"
        text = "the preset's" if name in _PRESET_DEFAULTS else text
        return record[0], f"{record[1]}  [default: {text}]"


def debug_option(command: _Command) -> _Command:
    """Add --debug, which the entry point reads, not the command."""
    option = click.option(
        DEBUG_OPTION, is_flag=True, expose_value=False, help="Show the traceback of an error."
    )
    return option(command)


def directory_option(
    name: str,
    *,
    help: str,  # noqa: A002
    required: bool = True,
) -> _Decorator:  # type: ignore[type-arg]
    """Return an option that takes a folder, or a gs:// or s3:// prefix."""
    return click.option(name, required=required, metavar="DIRECTORY", help=help)


def preset_option(default: str) -> _Decorator:  # type: ignore[type-arg]
    """Return --preset."""
    return click.option(
        "--preset",
        type=NameChoice(list(PRESETS)),
        default=default,
        show_default=True,
        help="Set of defaults: "
        + "; ".join(f"{name} trains {values['backbone']}" for name, values in PRESETS.items())
        + ".",
    )


def local_storage_option(command: _Command) -> _Command:
    """Add --storage-uri for commands that work on this machine."""
    option = click.option(
        "--storage-uri",
        default=STORAGE_FOLDER,
        show_default=True,
        help="Where everything is stored: a folder, gs:// or s3://.",
    )
    return option(command)


def json_option(command: _Command) -> _Command:
    """Add --json; the command gets `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
    return option(command)


def limit_option(command: _Command) -> _Command:
    """Add --limit of a list."""
    option = click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=50,
        show_default=True,
        help="List only the most recently written ones, at most this many; 0 lists all.",
    )
    return option(command)


def poll_option(command: _Command) -> _Command:
    """Add --poll-seconds."""
    option = click.option(
        "--poll-seconds",
        type=click.FloatRange(min=0.05, max=86_400),
        default=POLL_SECONDS,
        show_default=True,
        help="Interval between two requests for the state of the run.",
    )
    return in_section(_FOLLOWING, option)(command)


def logs_options(command: _Command) -> _Command:
    """Add --logs and --all-logs; the command gets `logs`: "none", "tasks" or "all"."""
    options = [
        click.option(
            "--logs",
            "logs",
            flag_value="tasks",
            default="none",
            help="Show what the tasks log.",
        ),
        click.option(
            "--all-logs",
            "logs",
            flag_value="all",
            help="Show the whole logs of the pods, with Kubeflow's own lines.",
        ),
    ]
    return in_section(_FOLLOWING, *options)(command)


def start_limit_options(command: _Command) -> _Command:
    """Add the limit for pods that do not start; the command gets a StartLimit, `start_limit`."""
    options = [
        click.option(
            "--start-timeout",
            "timeout_seconds",
            type=Duration(),
            default=START_TIMEOUT_SECONDS,
            show_default="15m",
            help="Fail if a pod has not started after this time, such as 15m or 2h; 0 for no "
            "limit.",
        ),
        click.option(
            "--terminate-on-timeout",
            "terminate",
            is_flag=True,
            help="Terminate the run when --start-timeout has passed.",
        ),
    ]

    def build(values: _OptionValues) -> "StartLimit":
        from repot_pipelines.watch.start_watch import StartLimit

        return StartLimit(**values)

    options = [in_section(_FOLLOWING, *options)]
    return _as_group(command, "start_limit", options, ["timeout_seconds", "terminate"], build)


def setting_option(setting: str, name: str = "", *, with_default: bool = False) -> _Decorator:  # type: ignore[type-arg]
    """Return the option of a setting, with the setting's type and help text.

    Args:
        setting: Name of a setting.
        name: The option, where a command calls it differently.
        with_default: Whether the setting's default is the option's; otherwise an option that is not
            given is None, and the preset's value is used.
    """
    field = PARAMETERS[setting]
    help_text: str = field.metadata["help"]
    default = field.default if with_default else None
    if field.type is bool:
        flag = name or option_name(field)
        return click.option(flag, setting, is_flag=True, default=default, help=help_text)
    return click.option(
        name or option_name(field),
        setting,
        cls=click.Option if with_default else SettingOption,
        type=_CLICK_TYPES[field.type],  # type: ignore[index]
        callback=_reject_infinite if field.type is float else None,
        help=help_text,
        default=default,
        show_default=with_default and field.default != "",
    )


def pipeline_options(command: _Command) -> _Command:
    """Add an option per setting; the command gets those given as `parameters`, a dict by name."""
    names = [name for name, field in PARAMETERS.items() if option_name(field)]
    options = [in_section(_SECTION_OF_SETTING[name], setting_option(name)) for name in names]
    return _as_group(command, "parameters", options, names, _given)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The options of a command line that describe the pipeline run to submit.

    Attributes:
        preset: Name of the set of defaults.
        parameter_file: YAML or JSON with parameters; None without one.
        assignments: Texts NAME=VALUE.
        parameters: Parameters given as options, by name.
    """

    preset: str
    parameter_file: Path | None
    assignments: tuple[str, ...]
    parameters: ParameterValues

    def read(self, *, service_account: str) -> "RunRequest":
        """Return the checked request; print a warning for each value that is probably a mistake.

        Args:
            service_account: That of the run's pods; "" for the server's default.

        Raises:
            UsageError: Lists every problem.
        """
        from repot_pipelines.run_request import read_request

        request = read_request(
            preset=self.preset,
            parameter_file=self.parameter_file,
            options=self.parameters,
            assignments=self.assignments,
            service_account=service_account,
        )
        for warning in cluster_warnings(request.values):
            click.echo(f"warning: {warning}", err=True)
        return request


def request_options(command: _Command) -> _Command:
    """Add PICTURES_URI and the options that set parameters; the command gets a RequestOptions."""
    options = [
        click.argument("pictures_uri", required=False),
        click.option(
            "--storage-uri", help="Where everything is stored: gs:// or s3://BUCKET/PATH."
        ),
        preset_option("cluster"),
        pipeline_options,
        click.option(
            "-p",
            "assignments",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any parameter of the pipeline; may be repeated.",
        ),
        click.option(
            "--params",
            "parameter_file",
            type=_FILE,
            help="YAML or JSON file with parameters.",
        ),
    ]
    names = ["pictures_uri", "storage_uri", "preset", "parameters", "assignments", "parameter_file"]

    def build(values: _OptionValues) -> RequestOptions:
        uris = _given({name: values.pop(name) for name in ("pictures_uri", "storage_uri")})
        return RequestOptions(**{**values, "parameters": {**values["parameters"], **uris}})

    return _as_group(command, "request_options", options, names, build)


def start_options(command: _Command) -> _Command:
    """Add the options that say how a run is started; the command gets a StartOptions, `start`."""
    options = [
        click.option(
            "--experiment",
            type=server_name(MAX_EXPERIMENT_NAME),
            default=EXPERIMENT,
            show_default=True,
            help="Experiment of the runs; created if missing.",
        ),
        click.option(
            "--service-account",
            type=SERVICE_ACCOUNT,
            default="",
            help="Kubernetes service account of the pods: repot-runner, or with trainer_mode=job "
            "repot-job-runner.",
        ),
        click.option(
            "--pipeline-root",
            type=Checked(pipeline_root_problem),
            default="",
            help="Where KFP keeps its own small artifacts.",
        ),
        click.option(
            "--pipeline-name",
            type=server_name(MAX_PIPELINE_NAME),
            default="",
            help="Name of the pipeline on the server; default: its own.",
        ),
        click.option(
            "--version-name",
            type=server_name(MAX_VERSION_NAME),
            default="",
            help="Name of the pipeline version; default: repot's version and the YAML's digest.",
        ),
    ]
    names = ["experiment", "service_account", "pipeline_root", "pipeline_name", "version_name"]

    def build(values: _OptionValues) -> "StartOptions":
        from repot_pipelines.kfp_server.submission import StartOptions

        return StartOptions(**values)

    options = [in_section("Starting the run", *options)]
    return _as_group(command, "start", options, names, build)


def connection_options(command: _Command) -> _Command:
    """Add server address and credentials; the command gets a ConnectionOptions, `connection`."""
    options = [
        click.option(
            "--host",
            help="Address of Kubeflow Pipelines; default: $KF_PIPELINES_ENDPOINT, this pod's "
            "cluster, kubeconfig.",
        ),
        click.option(
            "--ui-host", help="Address for links, if different; default: $KF_PIPELINES_UI_ENDPOINT."
        ),
        click.option(
            "--namespace",
            type=NAMESPACE,
            default="",
            help="Namespace of the runs, on a multi-user server.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            help="Bearer token, read again when it changes; default: $KF_PIPELINES_TOKEN.",
        ),
        click.option(
            "--cookie-file",
            type=_FILE,
            help="Session cookie, name=value; default: $KF_PIPELINES_COOKIE.",
        ),
        click.option("--iap-client-id", help="OAuth client id of Google's Identity-Aware Proxy."),
        click.option(
            "--context", "kube_context", help="Context of kubeconfig, for a server without --host."
        ),
        click.option(
            "--kfp-namespace",
            type=NAMESPACE,
            default=KFP_NAMESPACE,
            show_default=True,
            help="Namespace in which Kubeflow Pipelines is installed.",
        ),
        click.option("--ca-file", type=_FILE, help="CA certificates to verify the server with."),
    ]
    names = [field.name for field in fields(ConnectionOptions)]
    return _as_group(
        command,
        "connection",
        [in_section("Server", *options)],
        names,
        lambda values: ConnectionOptions(**values),
    )


@contextlib.contextmanager
def shown_progress() -> Iterator[None]:
    """Draw the progress of work that runs in this process."""
    from rich.console import Console

    from repot_pipelines.local.events import forward_events
    from repot_pipelines.local.progress_view import make_view

    with make_view(Console(stderr=True)) as view, forward_events(view.show):
        yield


def _as_group(
    command: _Command,
    argument: str,
    options: Sequence[Callable[[Any], Any]],
    names: Sequence[str],
    build: Callable[[_OptionValues], Any],
) -> _Command:
    """Add options to a command and hand their values over as one argument.

    Args:
        command: The command's function.
        argument: Its argument that gets what `build` returns.
        options: Click decorators, in the order of the help text.
        names: Names of the values that belong to the group.
        build: Makes the argument from the values by name.
    """

    @functools.wraps(command)
    def grouped(*args: Any, **values: Any) -> Any:
        group = {name: values.pop(name) for name in names}
        return command(*args, **values, **{argument: build(group)})

    for option in reversed(options):
        grouped = option(grouped)
    return grouped  # type: ignore[return-value]


def _given(values: _OptionValues) -> _OptionValues:
    return {name: value for name, value in values.items() if value is not None}


def _reject_infinite(
    _context: click.Context, _option: click.Parameter, value: float | None
) -> float | None:
    """Reject nan and inf, which KFP cannot serialise."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"it must be a finite number; got {value}.")
    return value
