"""A request to run the pipeline on a server, built from options and files and checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repot.errors import UsageError
from repot.settings import DEFAULTS, ParameterValues, to_arguments
from repot_pipelines.cluster_rules import account_problems, cluster_problems
from repot_pipelines.compiled import PipelineSpec, find_compiled, pipeline_for, read_pipeline
from repot_pipelines.parameters import (
    convert_parameters,
    read_assignments,
    read_parameter_file,
    with_defaults,
)
from repot_pipelines.presets import PRESETS


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A pipeline and its parameters.

    Attributes:
        path: The compiled YAML.
        pipeline: The pipeline spec in it.
        given: The settings that the run sets, by name.
        sent: The arguments of the pipeline: the form's fields and `settings`.
        values: All settings by name: those that are given, and the pipeline's defaults.
    """

    path: Path
    pipeline: PipelineSpec
    given: ParameterValues
    sent: ParameterValues
    values: ParameterValues

    @property
    def pipeline_name(self) -> str:
        """Return the pipeline's own name."""
        return str(self.pipeline["pipelineInfo"]["name"])


def read_request(
    *,
    preset: str,
    parameter_file: Path | None,
    options: ParameterValues,
    assignments: Iterable[str],
    service_account: str = "",
) -> RunRequest:
    """Combine the parameters from all sources and check them.

    Args:
        preset: A name of PRESETS.
        parameter_file: YAML or JSON; overrides the preset.
        options: Parameters by name; None means not given. Override the file.
        assignments: Texts NAME=VALUE; override everything else.
        service_account: Kubernetes service account of the pods; "" for the server's default.

    Raises:
        UsageError: Lists every problem: names, types, missing values, and what a cluster rejects.
    """
    raw = {
        **{name: value for name, value in PRESETS[preset].items() if value != DEFAULTS[name]},
        **(read_parameter_file(parameter_file) if parameter_file else {}),
        **{name: value for name, value in options.items() if value is not None},
        **read_assignments(assignments),
    }
    given, problems = convert_parameters(raw)
    values = with_defaults(given, read_pipeline(find_compiled()))
    problems += cluster_problems(values)
    problems += account_problems(values, service_account)
    if problems:
        raise UsageError(problems)
    path = pipeline_for(given)
    return RunRequest(
        path=path,
        pipeline=read_pipeline(path),
        given=given,
        sent=to_arguments(given),
        values=values,
    )
