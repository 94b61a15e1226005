"""The compiled pipeline: where the YAML file is, how to read it, and how to compile it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repot.errors import RepotError

PipelineSpec = dict[str, Any]
"""A pipeline in KFP's schema, as the compiler writes it and the server returns it."""

FILE_NAME = "finetune.yaml"


def find_compiled() -> Path:
    """Return the path of the compiled pipeline.

    In a wheel it is inside this package, in a checkout beside it: hatchling's force-include does
    not apply to editable installs.

    Raises:
        RepotError: It does not exist.
    """
    package = Path(__file__).parent
    for folder in (package / "compiled", package.parent / "compiled"):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise RepotError(
        f"The compiled pipeline {FILE_NAME} must be in {package} or beside it. "
        "Run `repot compile`, or install repot again."
    )


def read_pipeline(path: Path) -> PipelineSpec:
    """Return the pipeline spec of a compiled YAML, without its platform settings."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # The second document of the YAML holds the platform settings.
    with path.open(encoding="utf-8") as file:
        pipeline: PipelineSpec = next(yaml.load_all(file, loader))
    return pipeline


def compile_pipeline(path: Path, *, defaults: Mapping[str, str] | None = None) -> None:
    """Compile the pipeline to one YAML file.

    Args:
        path: The file.
        defaults: Parameter defaults to replace, e.g. the container images of a release by digest.
    """
    from kfp import compiler

    from repot_pipelines.finetune import finetune

    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(
        finetune, package_path=str(path), pipeline_parameters=dict(defaults or {})
    )
