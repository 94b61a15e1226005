"""What a person asks a server to run: the compiled pipeline and its parameters, checked before anybody is contacted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.errors import UsageError
from repot_pipelines.cluster_rules import cluster_problems
from repot_pipelines.compiled import find_compiled
from repot_pipelines.parameters import (
    convert_parameters,
    read_assignments,
    read_parameter_file,
    read_parameters,
    read_pipeline,
    with_defaults,
)
from repot_pipelines.presets import PRESETS

CLUSTER_PRESET = "cluster"
"""Its values are the pipeline's own defaults: nothing of it is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A pipeline and its parameters.

    Attributes:
        path: The compiled YAML.
        pipeline: The pipeline spec in it.
        given: The parameters that are sent, in the pipeline's types.
        values: Those, and the pipeline's defaults for the rest.
    """

    path: Path
    pipeline: dict[str, Any]
    given: dict[str, Any]
    values: dict[str, Any]

    @property
    def pipeline_name(self) -> str:
        """Return the pipeline's own name."""
        return str(self.pipeline["pipelineInfo"]["name"])


def read_request(
    *,
    preset: str,
    parameter_file: Path | None,
    options: Mapping[str, Any],
    assignments: Iterable[str],
) -> Request:
    """Put the parameters together and check them.

    Args:
        preset: A name of PRESETS.
        parameter_file: YAML or JSON; overrides the preset.
        options: Parameters by name, None for those that are not given; override the file.
        assignments: Texts NAME=VALUE; override all.

    Raises:
        UsageError: Lists every problem: names, types, missing values, and what a cluster would not run.
    """
    path = find_compiled()
    pipeline = read_pipeline(path)
    known = read_parameters(pipeline)
    given = {
        **(PRESETS[preset] if preset != CLUSTER_PRESET else {}),
        **(read_parameter_file(parameter_file) if parameter_file else {}),
        **{name: value for name, value in options.items() if value is not None},
        **read_assignments(assignments),
    }
    converted, problems = convert_parameters(given, known)
    values = with_defaults(converted, known)
    problems += cluster_problems(values)
    if problems:
        raise UsageError(problems)
    return Request(path=path, pipeline=pipeline, given=converted, values=values)
