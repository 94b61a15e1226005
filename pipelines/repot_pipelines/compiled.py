"""The compiled pipeline: where the YAML file is, how to read it, and how to compile it."""

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from repot import storage
from repot.errors import RepotError
from repot.settings import DEFAULTS, FORM_FIELDS, PIPELINE_SETTINGS, ParameterValues, choices

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


def compiled_settings(pipeline: PipelineSpec) -> ParameterValues:
    """Return the settings that differ from their defaults in a compiled pipeline, by name."""
    plan = pipeline["root"]["dag"]["tasks"]["plan"]["inputs"]["parameters"]
    settings: ParameterValues = json.loads(plan["compiled_settings"]["runtimeValue"]["constant"])
    form = pipeline["root"]["inputDefinitions"]["parameters"]
    return {
        **settings,
        **{
            name: form[name]["defaultValue"]
            for name in FORM_FIELDS
            if "defaultValue" in form[name] and form[name]["defaultValue"] != DEFAULTS.get(name)
        },
    }


def compile_pipeline(path: Path, *, settings: ParameterValues | None = None) -> None:
    """Compile the pipeline to one YAML file.

    Args:
        path: The file.
        settings: Settings with other defaults than their fields', e.g. the container images of a
            release by digest. Those of the form become the form's defaults.
    """
    from kfp import compiler

    from repot_pipelines.finetune import build_pipeline

    settings = settings or {}
    form = {name: value for name, value in settings.items() if name in FORM_FIELDS}
    rest = {name: value for name, value in settings.items() if name not in FORM_FIELDS}
    pipeline = build_pipeline(rest)
    _add_choices(pipeline)
    with tempfile.TemporaryDirectory(prefix="repot-compile-") as folder:
        package = Path(folder) / FILE_NAME
        compiler.Compiler().compile(pipeline, package_path=str(package), pipeline_parameters=form)
        storage.write_bytes(str(path.absolute()), package.read_bytes())


def _add_choices(pipeline: Any) -> None:
    """Add the valid values of form fields, which KFP 2.17 shows as drop-down lists.

    Its compiler has no way to declare them. Servers since 2.16 check them, and the UI of 2.16 shows
    a text field; older servers reject the field, but repot needs 2.16 anyway. Source:
    ValidateLiteralParameter and NewRunParametersV2.tsx of kubeflow/pipelines.
    """
    parameters = pipeline.pipeline_spec.root.input_definitions.parameters
    for name in FORM_FIELDS:
        for choice in choices(name):
            value = parameters[name].literals.add()
            if isinstance(choice, bool):
                value.bool_value = choice
            else:
                value.string_value = choice


def pipeline_for(values: ParameterValues) -> Path:
    """Return the compiled pipeline of a run: the one that ships, unless its Plan needs another pod.

    Plan's pod exists before Plan can read a setting, so its image, size, placement, ConfigMap and
    Secrets are part of the YAML. A run with other values of those gets a pipeline of its own, in a
    temporary folder that is deleted when this process ends.

    Args:
        values: The settings that the run sets, by name.

    Raises:
        RepotError: There is no compiled pipeline.
    """
    path = find_compiled()
    shipped = compiled_settings(read_pipeline(path))
    own = {
        name: values[name]
        for name in PIPELINE_SETTINGS
        if name in values and values[name] != shipped.get(name, DEFAULTS[name])
    }
    if not own:
        return path
    folder = tempfile.mkdtemp(prefix="repot-pipeline-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    own_path = Path(folder) / FILE_NAME
    compile_pipeline(own_path, settings={**shipped, **own})
    return own_path
