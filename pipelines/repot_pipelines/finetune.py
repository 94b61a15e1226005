"""The pipeline: its graph, resources and caching; all logic is in the components.

plan -+-> build shards (N pods) -> merge -+-> train -> evaluate, gate and promote
      +-> fetch checkpoint ---------------+
"""

from collections.abc import Callable
from typing import Any, Dict, List

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import extract_pipeline_channels_from_any

from repot import cluster_names
from repot.checkpoint_fetcher.component import fetch_checkpoint
from repot.container_images import USER_ID
from repot.evaluator.component import evaluate
from repot.planner.component import plan
from repot.settings import (
    NONE,
    PARAMETERS,
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    JobSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from repot.shard_builder.component import build_shards, merge
from repot.trainer.component import train

# The defaults below come from the settings, where each is defined.
_RUN = RunSettings(pictures_uri="", storage_uri="")
_DATASET, _CHECKPOINT, _TRAINING = DatasetSettings(), CheckpointSettings(), TrainingSettings()
_GATE, _TASK, _JOB = GateSettings(), TaskSettings(), JobSettings()


def _describe_parameters(pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """Append an Args section with the help text of every setting; KFP copies it into the YAML."""
    lines = [f"    {name}: {field.metadata['help']}" for name, field in sorted(PARAMETERS.items())]
    pipeline.__doc__ = f"{pipeline.__doc__}\n\nArgs:\n" + "\n".join(lines)
    return pipeline


def _configure(
    task: dsl.PipelineTask,
    display_name: str,
    image: str,
    *,
    cpu: str = "1",
    memory: str = "2Gi",
    cached: bool = True,
) -> None:
    """Set a task's name in the UI, its image, resources, caching, labels and user."""
    task.set_display_name(display_name)
    task.set_container_image(image)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    # Unlike set_container_image, the resource setters of kfp 2.17 do not register their parameters,
    # and a task in a loop would not receive them.
    task.register_pipeline_channels(extract_pipeline_channels_from_any([cpu, memory]))
    task.set_caching_options(enable_caching=cached)
    for label, value in cluster_names.TASK_LABELS.items():
        kubernetes.add_pod_label(task, label, value)
    # KFP adds the rest of the Pod Security Standard "restricted", but lets containers run as root.
    kubernetes.set_security_context(
        task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True
    )


def _set_environment(
    tasks: List[dsl.PipelineTask],
    settings_config_map: str,
    s3_secret_name: str,
    google_secret_name: str,
) -> None:
    """Set the variables of tasks: the run, the storage, and the services that hear about a run.

    The ConfigMap and the Secrets are optional.
    """
    for task in tasks:
        kubernetes.use_field_path_as_env(
            task,
            env_name=cluster_names.RUN_ID_VARIABLE,
            field_path=f"metadata.labels['{cluster_names.RUN_LABEL}']",
        )
        kubernetes.use_config_map_as_env(
            task,
            config_map_name=settings_config_map,
            config_map_key_to_env={
                **cluster_names.CONFIG_MAP_VARIABLES,
                **cluster_names.INTEGRATION_VARIABLES,
            },
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=s3_secret_name,
            secret_key_to_env=cluster_names.S3_SECRET_VARIABLES,
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=google_secret_name,
            secret_key_to_env=cluster_names.GOOGLE_SECRET_VARIABLES,
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=cluster_names.INTEGRATIONS_SECRET,
            secret_key_to_env=cluster_names.INTEGRATION_SECRET_VARIABLES,
            optional=True,
        )
        names = [settings_config_map, s3_secret_name, google_secret_name]
        task.register_pipeline_channels(extract_pipeline_channels_from_any(names))


@dsl.pipeline(
    name="repot-finetune",
    display_name="repot: fine-tune an image classifier",
    description="Pictures in folders to a fine-tuned, evaluated and promoted image classifier.",
)
@_describe_parameters
def finetune(
    pictures_uri: str,
    storage_uri: str,
    accelerator_count: str = str(_JOB.accelerator_count),
    accelerator_type: str = _JOB.accelerator_type,
    allow_label_removal: bool = _GATE.allow_label_removal,
    backbone: str = _TRAINING.backbone,
    batch_size: int = _TRAINING.batch_size,
    builder_cpu: str = _TASK.builder_cpu,
    builder_memory: str = _TASK.builder_memory,
    builder_pods: int = _RUN.builder_pods,
    checkpoint: str = _CHECKPOINT.checkpoint,
    checkpoint_sha256: str = NONE,
    checkpoint_values: str = _CHECKPOINT.checkpoint_values,
    cpu_image: str = _TASK.cpu_image,
    epochs: int = _TRAINING.epochs,
    evaluator_cpu: str = _TASK.evaluator_cpu,
    evaluator_memory: str = _TASK.evaluator_memory,
    google_secret_name: str = _JOB.google_secret_name,
    image_size: int = _TRAINING.image_size,
    input_queue_memory_factor: int = _TRAINING.input_queue_memory_factor,
    job_deadline_hours: int = _JOB.job_deadline_hours,
    job_priority_class: str = NONE,
    job_queue: str = NONE,
    job_service_account: str = _JOB.job_service_account,
    labels_file_uri: str = NONE,
    learning_rate: float = _TRAINING.learning_rate,
    max_rejected_fraction: float = _GATE.max_rejected_fraction,
    min_precision: float = _GATE.min_precision,
    model_name: str = _RUN.model_name,
    nested: bool = _DATASET.nested,
    num_threads: int = _DATASET.num_threads,
    num_workers: int = _JOB.num_workers,
    rebuild: str = NONE,
    recipe: str = _TRAINING.recipe,
    s3_secret_name: str = _JOB.s3_secret_name,
    seed: int = _TRAINING.seed,
    settings_config_map: str = _JOB.settings_config_map,
    train_shards: int = _DATASET.train_shards,
    trainer_cpu: str = _JOB.trainer_cpu,
    trainer_image: str = _JOB.trainer_image,
    trainer_memory: str = _JOB.trainer_memory,
    trainer_mode: str = _TASK.trainer_mode,
    trainer_node_selector: Dict[str, str] = {},  # noqa: B006 - KFP requires a literal default
    trainer_tolerations: List[Dict[str, str]] = [],  # noqa: B006 - KFP requires a literal default
    validation_fraction: float = _DATASET.validation_fraction,
    validation_shards: int = _DATASET.validation_shards,
):
    """Fine-tune an image classifier on folders of labelled pictures."""
    parameters = locals()

    # Plan takes and checks all of them; later tasks get what it computed.
    planned = plan(**{name: parameters[name] for name in plan.component_spec.inputs})
    _configure(planned, "Plan", cpu_image, cached=False)

    with dsl.ParallelFor(planned.outputs["Output"], name="Builders") as item:
        built = build_shards(item=item, storage_uri=storage_uri)
        _configure(built, "Build shards", cpu_image, cpu=builder_cpu, memory=builder_memory)

    merged = merge(
        dataset_id=planned.outputs["dataset_id"],
        storage_uri=storage_uri,
        max_rejected_fraction=max_rejected_fraction,
    ).after(built)
    _configure(merged, "Complete dataset", cpu_image, cpu=builder_cpu, memory=builder_memory)

    fetched = fetch_checkpoint(
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        checkpoint_values=checkpoint_values,
        checkpoint_version=planned.outputs["checkpoint_version"],
        backbone=backbone,
        storage_uri=storage_uri,
    )
    _configure(fetched, "Fetch checkpoint", cpu_image, memory="4Gi")

    trained = train(
        dataset_id=planned.outputs["dataset_id"],
        checkpoint_id=fetched.outputs["checkpoint_id"],
        storage_uri=storage_uri,
        settings=planned.outputs["training_settings"],
        rebuild=rebuild,
        job=planned.outputs["trainer_job"],
    ).after(merged)
    # Plan decides what the pod requests: everything if it trains, little if it follows a Job.
    _configure(
        trained,
        "Train",
        planned.outputs["trainer_pod_image"],
        cpu=planned.outputs["trainer_pod_cpu"],
        memory=planned.outputs["trainer_pod_memory"],
    )
    trained.set_accelerator_type(accelerator_type)
    trained.set_accelerator_limit(planned.outputs["trainer_pod_accelerator_count"])
    kubernetes.add_node_selector_json(
        trained, node_selector_json=planned.outputs["trainer_pod_node_selector"]
    )
    kubernetes.add_toleration_json(
        trained, toleration_json=planned.outputs["trainer_pod_tolerations"]
    )
    kubernetes.empty_dir_mount(
        trained,
        volume_name="shared-memory",
        mount_path="/dev/shm",  # noqa: S108
        medium="Memory",
    )

    evaluated = evaluate(
        dataset_id=planned.outputs["dataset_id"],
        training_id=trained.outputs["training_id"],
        model_name=model_name,
        min_precision=min_precision,
        allow_label_removal=allow_label_removal,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        storage_uri=storage_uri,
    )
    _configure(
        evaluated,
        "Evaluate and gate",
        cpu_image,
        cpu=evaluator_cpu,
        memory=evaluator_memory,
        cached=False,
    )
    tasks = [planned, built, merged, fetched, trained, evaluated]
    _set_environment(tasks, settings_config_map, s3_secret_name, google_secret_name)
    kubernetes.use_secret_as_env(
        evaluated,
        secret_name=cluster_names.INTEGRATIONS_SECRET,
        secret_key_to_env=cluster_names.TRACKING_SECRET_VARIABLES,
        optional=True,
    )
