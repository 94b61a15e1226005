"""A request to run the pipeline on a server, built from options and files and checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repot.errors import UsageError
from repot.settings import ParameterValues
from repot_pipelines.cluster_rules import account_problems, cluster_problems
from repot_pipelines.compiled import PipelineSpec, find_compiled, read_pipeline
from repot_pipelines.parameters import (
    convert_parameters,
    read_assignments,
    read_parameter_file,
    read_parameters,
    with_defaults,
)
from repot_pipelines.presets import PRESETS

CLUSTER_PRESET = "cluster"
"""Its values are the pipeline's own defaults, so none of them is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A pipeline and its parameters.

    Attributes:
        path: The compiled YAML.
        pipeline: The pipeline spec in it.
        sent: The parameters that are sent, in the pipeline's types.
        values: All parameters: those that are sent, and the pipeline's defaults.
    """

    path: Path
    pipeline: PipelineSpec
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
    path = find_compiled()
    pipeline = read_pipeline(path)
    known = read_parameters(pipeline)
    raw = {
        **(PRESETS[preset] if preset != CLUSTER_PRESET else {}),
        **(read_parameter_file(parameter_file) if parameter_file else {}),
        **{name: value for name, value in options.items() if value is not None},
        **read_assignments(assignments),
    }
    sent, problems = convert_parameters(raw, known)
    values = with_defaults(sent, known)
    problems += cluster_problems(values)
    problems += account_problems(values, service_account)
    if problems:
        raise UsageError(problems)
    return RunRequest(path=path, pipeline=pipeline, sent=sent, values=values)
