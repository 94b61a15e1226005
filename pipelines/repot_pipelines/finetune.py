"""The pipeline: its graph, resources, conditions and caching; all logic is in the components.

plan -+-> build shards (N pods) -+-> train -> evaluate, gate and promote
      +-> fetch checkpoint ------+
      +-> evaluate, gate and promote, if the training is finished already
"""

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Dict, List

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import extract_pipeline_channels_from_any
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from repot import cluster_names
from repot.checkpoint_fetcher.component import fetch_checkpoint
from repot.container_images import USER_ID
from repot.evaluator.component import evaluate
from repot.planner.component import plan
from repot.planner.finished import ALL_STEPS, GATE_ONLY
from repot.settings import (
    CLUSTER_VARIABLES,
    FORM_FIELDS,
    PARAMETERS,
    SETTINGS_FIELD,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    JobSettings,
    ParameterValues,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from repot.shard_builder.component import build_shards
from repot.trainer.component import train

# The defaults below come from the settings, where each is defined.
_RUN = RunSettings(pictures_uri="")
_DATASET, _CHECKPOINT, _TRAINING = DatasetSettings(), CheckpointSettings(), TrainingSettings()
_GATE, _TASK = GateSettings(), TaskSettings()

_SETTINGS_HELP = (
    "Any other setting, as a JSON object of names and values, such as "
    '{"builder_pods": 16, "image_size": 224}.'
)

_STEPS_INPUT = "plan--steps"
"""The input of a condition. KFP's local runner takes the name for output `steps` of task `plan`."""
_CONDITIONS = {
    "build-shards": ALL_STEPS,
    "fetch-checkpoint": ALL_STEPS,
    "train": ALL_STEPS,
    "evaluate": ALL_STEPS,
    "evaluate-2": GATE_ONLY,
}
"""The value of Plan's output `steps` for which a task runs."""

_KFP_KEYS = {"tolerationSeconds": "toleration_seconds"}

_COMPILED_SETTINGS: ContextVar[ParameterValues] = ContextVar(
    "compiled settings",
    default=MappingProxyType({}),
)
"""The settings that differ from their defaults in the pipeline that is being compiled."""


def build_pipeline(settings: ParameterValues) -> Any:
    """Return the pipeline with other values of settings than the defaults of their fields.

    Args:
        settings: Settings that are no form fields, by name. Those of Plan's own pod are part of its
            specification; Plan treats the others as defaults.
    """
    token = _COMPILED_SETTINGS.set(settings)
    try:
        return _as_pipeline(finetune.pipeline_func)
    finally:
        _COMPILED_SETTINGS.reset(token)


def _describe_parameters(pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """Append an Args section with the help text of every field; KFP copies it into the YAML."""
    texts = {name: PARAMETERS[name].metadata["help"] for name in FORM_FIELDS}
    texts[SETTINGS_FIELD] = _SETTINGS_HELP
    lines = [f"    {name}: {text}" for name, text in sorted(texts.items())]
    pipeline.__doc__ = f"{pipeline.__doc__}\n\nArgs:\n" + "\n".join(lines)
    return pipeline


def _configure(
    task: dsl.PipelineTask,
    display_name: str,
    image: str,
    *,
    pod: Mapping[str, Any],
    size: str = "task",
    cached: bool = True,
) -> None:
    """Set a task's name in the UI, its image, resources, placement, caching, labels and user.

    Args:
        task: The task.
        display_name: Name in the UI.
        image: Container image.
        pod: What the pod requests: the outputs of Plan, or for Plan itself the settings.
        size: Prefix of the names in `pod` of CPU and memory.
        cached: Whether KFP may reuse the outputs of an earlier run. KFP does not look whether what
            they name still exists. Plan does: a trainer that starts has something to train, and the
            items of the builders tell KFP whether their dataset exists.
    """
    cpu, memory = pod[f"{size}_cpu"], pod[f"{size}_memory"]
    task.set_display_name(display_name)
    task.set_container_image(image)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    # Unlike set_container_image, the resource setters of kfp 2.17 do not register their parameters,
    # and a task in a loop would not receive them.
    task.register_pipeline_channels(extract_pipeline_channels_from_any([cpu, memory]))
    placement = "trainer_pod" if size == "trainer_pod" else "task"
    kubernetes.add_node_selector_json(task, pod[f"{placement}_node_selector"])
    tolerations = pod[f"{placement}_tolerations"]
    if isinstance(tolerations, list):  # kfp spells the key of fixed tolerations differently
        tolerations = [
            {_KFP_KEYS.get(key, key): value for key, value in each.items()} for each in tolerations
        ]
    kubernetes.add_toleration_json(task, tolerations)
    task.set_caching_options(enable_caching=cached)
    for label, value in cluster_names.TASK_LABELS.items():
        kubernetes.add_pod_label(task, label, value)
    # KFP adds the rest of the Pod Security Standard "restricted", but lets containers run as root.
    kubernetes.set_security_context(
        task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True
    )


def _set_environment(tasks: List[dsl.PipelineTask], names: JobSettings) -> None:
    """Set the variables of tasks: the run, the storage, and the services that hear about a run.

    The ConfigMap and the Secrets are optional.
    """
    name_variables = cluster_names.name_variables(
        config_map=names.settings_config_map,
        s3_secret=names.s3_secret_name,
        google_secret=names.google_secret_name,
    )
    for task in tasks:
        for variable, value in name_variables.items():
            task.set_env_variable(variable, value)
        kubernetes.use_field_path_as_env(
            task,
            env_name=cluster_names.RUN_ID_VARIABLE,
            field_path=f"metadata.labels['{cluster_names.RUN_LABEL}']",
        )
        kubernetes.use_config_map_as_env(
            task,
            config_map_name=names.settings_config_map,
            config_map_key_to_env={
                **cluster_names.CONFIG_MAP_VARIABLES,
                **cluster_names.INTEGRATION_VARIABLES,
            },
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=names.s3_secret_name,
            secret_key_to_env=cluster_names.S3_SECRET_VARIABLES,
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=names.google_secret_name,
            secret_key_to_env=cluster_names.GOOGLE_SECRET_VARIABLES,
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=cluster_names.INTEGRATIONS_SECRET,
            secret_key_to_env=cluster_names.INTEGRATION_SECRET_VARIABLES,
            optional=True,
        )


def _as_pipeline(function: Callable[..., Any]) -> Any:
    """Return a function as a pipeline in which some tasks run on a condition.

    `dsl.If` puts tasks into a pipeline of their own, which costs a run one more sequential pod, and
    no task outside can depend on it. KFP's server and its local runner also evaluate the condition
    of a single task; only kfp 2.17 cannot compile it. The server also skips what depends on a
    skipped task, the local runner does not: so every task of a branch has the condition.
    Source: `task` in backend/src/v2/compiler/argocompiler/dag.go of KFP 2.14 to 2.17.
    """
    pipeline = dsl.pipeline(
        name="repot-finetune",
        display_name="repot: fine-tune an image classifier",
        description="Pictures in folders to a fine-tuned, evaluated and promoted image classifier.",
    )(function)
    spec = pipeline.pipeline_spec
    for key, value in _CONDITIONS.items():
        task = spec.root.dag.tasks[key]
        inputs = spec.components[task.component_ref.name].input_definitions
        inputs.parameters[_STEPS_INPUT].parameter_type = ParameterType.STRING
        source = task.inputs.parameters[_STEPS_INPUT].task_output_parameter
        source.producer_task, source.output_parameter_key = "plan", "steps"
        if "plan" not in task.dependent_tasks:
            task.dependent_tasks.append("plan")
        left = f"inputs.parameter_values['{_STEPS_INPUT}']"
        task.trigger_policy.condition = f"{left} == '{value}'"
    return pipeline


@_as_pipeline
@_describe_parameters
def finetune(
    pictures_uri: str,
    backbone: str = _TRAINING.backbone,
    batch_size: int = _TRAINING.batch_size,
    checkpoint: str = _CHECKPOINT.checkpoint,
    epochs: int = _TRAINING.epochs,
    learning_rate: float = _TRAINING.learning_rate,
    min_precision: float = _GATE.min_precision,
    model_name: str = _RUN.model_name,
    nested: bool = _DATASET.nested,
    recipe: str = _TRAINING.recipe,
    settings: Dict[str, Any] = {},  # noqa: B006 - KFP requires a literal default
    storage_uri: str = _RUN.storage_uri,
    trainer_mode: str = _TASK.trainer_mode,
    validation_fraction: float = _DATASET.validation_fraction,
):
    """Fine-tune an image classifier on folders of labelled pictures."""
    form = dict(locals())
    compiled = _COMPILED_SETTINGS.get()
    plan_pod, names = TaskSettings.from_parameters(compiled), JobSettings.from_parameters(compiled)
    image = plan_pod.cpu_image

    # Plan takes and checks all of them; later tasks get what it computed.
    planned = plan(**form, compiled_settings=json.dumps(dict(compiled), sort_keys=True))
    _configure(planned, "Plan", image, pod=plan_pod.to_json(), cached=False)
    kubernetes.use_config_map_as_env(
        planned,
        config_map_name=names.settings_config_map,
        config_map_key_to_env=CLUSTER_VARIABLES,
        optional=True,
    )
    pod = planned.outputs
    used_storage_uri = planned.outputs["used_storage_uri"]

    first_built = build_shards(item=planned.outputs["first_item"])
    _configure(first_built, "Build shards", image, pod=pod, size="builder")
    with dsl.ParallelFor(planned.outputs["Output"], name="Other builders") as item:
        built = build_shards(item=item)
        _configure(built, "Build other shards", image, pod=pod, size="builder")

    fetched = fetch_checkpoint(
        checkpoint=checkpoint,
        checkpoint_sha256=planned.outputs["checkpoint_sha256"],
        checkpoint_values=planned.outputs["checkpoint_values"],
        checkpoint_version=planned.outputs["checkpoint_version"],
        backbone=backbone,
        storage_uri=used_storage_uri,
    )
    _configure(fetched, "Fetch checkpoint", image, pod=pod, size="fetcher", cached=False)

    trained = train(
        dataset_id=planned.outputs["dataset_id"],
        checkpoint_id=fetched.outputs["checkpoint_id"],
        storage_uri=used_storage_uri,
        settings=planned.outputs["training_settings"],
        rebuild=planned.outputs["rebuild"],
        job=planned.outputs["trainer_job"],
    ).after(first_built, built)
    # Plan decides what the pod requests: everything if it trains, little if it follows a Job.
    _configure(
        trained,
        "Train",
        planned.outputs["trainer_pod_image"],
        pod=pod,
        size="trainer_pod",
        cached=False,
    )
    trained.set_accelerator_type(planned.outputs["trainer_pod_accelerator_type"])
    trained.set_accelerator_limit(planned.outputs["trainer_pod_accelerator_count"])
    kubernetes.empty_dir_mount(
        trained,
        volume_name="shared-memory",
        mount_path="/dev/shm",  # noqa: S108
        medium="Memory",
    )

    judged = {
        "dataset_id": planned.outputs["dataset_id"],
        "model_name": model_name,
        "settings": planned.outputs["gate_settings"],
        "run_request": planned.outputs["run_request"],
        "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        "storage_uri": used_storage_uri,
    }
    evaluated = evaluate(training_id=trained.outputs["training_id"], **judged)
    only_judged = evaluate(training_id=planned.outputs["finished_training_id"], **judged)
    tasks = [planned, first_built, built, fetched, trained, evaluated, only_judged]
    _set_environment(tasks, names)
    for task, name in ((evaluated, "Evaluate and gate"), (only_judged, "Gate, nothing new")):
        _configure(task, name, image, pod=pod, size="evaluator", cached=False)
        kubernetes.use_secret_as_env(
            task,
            secret_name=cluster_names.INTEGRATIONS_SECRET,
            secret_key_to_env=cluster_names.TRACKING_SECRET_VARIABLES,
            optional=True,
        )
