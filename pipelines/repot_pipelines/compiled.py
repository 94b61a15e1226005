"""The compiled pipeline: where it lies, and how it is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repot.errors import RepotError

PipelineSpec = dict[str, Any]
"""A pipeline in KFP's schema, as the compiler writes it and the server returns it."""

FILE_NAME = "finetune.yaml"


def find_compiled() -> Path:
    """Return the path of the compiled pipeline that ships.

    In a wheel it lies inside this package, in a checkout beside it: an editable install copies nothing.

    Raises:
        RepotError: It is in neither place.
    """
    package = Path(__file__).parent
    for folder in (package / "compiled", package.parent / "compiled"):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise RepotError(
        f"There is no {FILE_NAME} beside {package}. Run `repot compile`, or install repot again."
    )


def compile_pipeline(path: Path, *, defaults: Mapping[str, str] | None = None) -> None:
    """Compile the pipeline to one YAML file.

    Args:
        path: The file.
        defaults: Other defaults of parameters by name, e.g. the images of a release with their digests.
    """
    from kfp import compiler

    from repot_pipelines.finetune import finetune

    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(
        finetune, package_path=str(path), pipeline_parameters=dict(defaults or {})
    )


def checkout_target() -> Path:
    """Return where `repot compile` writes without --output: the checkout's file, else one in the current folder."""
    beside = Path(__file__).parent.parent / "compiled"
    return beside / FILE_NAME if beside.is_dir() else Path(FILE_NAME)
