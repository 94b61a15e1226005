"""THE pipeline: pictures -> plan -> build shards -> merge, fetch checkpoint -> train -> evaluate -> gate -> promote.

Graph, placement, retries and caching; every piece of logic is in the components.
"""

from typing import Dict, List

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import extract_pipeline_channels_from_any

from repot.checkpoint_fetcher.component import fetch_checkpoint
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE
from repot.evaluator.component import evaluate, gate, promote
from repot.planner.component import plan
from repot.settings import NONE
from repot.shard_builder.component import build_shards, merge
from repot.trainer.component import train


def _place(
    task: dsl.PipelineTask,
    display_name: str,
    image: str,
    *,
    cpu: str = "1",
    memory: str = "2Gi",
    cached: bool = True,
) -> None:
    """Give a task its name in the UI, image, resources and caching."""
    task.set_display_name(display_name)
    task.set_container_image(image)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    # set_cpu_request and its like, unlike set_container_image, do not register their parameters: kfp 2.17 would not
    # hand them into a loop.
    task.register_pipeline_channels(extract_pipeline_channels_from_any([cpu, memory]))
    task.set_caching_options(enable_caching=cached)


def _give_access(
    tasks: List[dsl.PipelineTask],
    settings_config_map: str,
    s3_secret_name: str,
    google_secret_name: str,
) -> None:
    """Let tasks reach object storage; what is not there in the namespace is left out, as with workload identity."""
    for task in tasks:
        kubernetes.use_config_map_as_env(
            task,
            config_map_name=settings_config_map,
            config_map_key_to_env={"S3_ENDPOINT": "AWS_ENDPOINT_URL_S3", "S3_REGION": "AWS_REGION"},
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=s3_secret_name,
            secret_key_to_env={
                "accesskey": "AWS_ACCESS_KEY_ID",
                "secretkey": "AWS_SECRET_ACCESS_KEY",
            },
            optional=True,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=google_secret_name,
            secret_key_to_env={"key.json": "REPOT_GOOGLE_KEY"},
            optional=True,
        )
        names = extract_pipeline_channels_from_any(
            [settings_config_map, s3_secret_name, google_secret_name]
        )
        task.register_pipeline_channels(names)


@dsl.pipeline(
    name="repot-finetune",
    display_name="repot: fine-tune an image classifier",
    description="Pictures in folders to a fine-tuned, evaluated and promoted image classifier.",
)
def finetune(
    pictures_uri: str,
    storage_uri: str,
    accelerator_count: str = "1",
    accelerator_type: str = "nvidia.com/gpu",
    backbone: str = "inception_v3",
    batch_size: int = 32,
    builder_cpu: str = "2",
    builder_memory: str = "4Gi",
    builder_pods: int = 8,
    checkpoint: str = "default",
    checkpoint_sha256: str = NONE,
    checkpoint_values: str = "auto",
    cpu_image: str = CPU_IMAGE,
    epochs: int = 0,
    evaluator_cpu: str = "2",
    evaluator_memory: str = "8Gi",
    google_secret_name: str = "repot-google-key",
    image_size: int = 0,
    input_queue_memory_factor: int = 1,
    job_deadline_hours: int = 72,
    job_priority_class: str = NONE,
    job_queue: str = NONE,
    job_service_account: str = "repot-worker",
    labels_file_uri: str = NONE,
    learning_rate: float = 0.0,
    max_rejected_fraction: float = 0.05,
    min_precision: float = 0.0,
    model_name: str = "classifier",
    num_threads: int = 1,
    num_workers: int = 1,
    rebuild: str = NONE,
    recipe: str = "fine_tune",
    s3_secret_name: str = "repot-s3",
    seed: int = 0,
    settings_config_map: str = "repot-settings",
    train_shards: int = 0,
    trainer_cpu: str = "4",
    trainer_image: str = TRAINER_IMAGE,
    trainer_memory: str = "16Gi",
    trainer_mode: str = "pod",
    trainer_node_selector: Dict[str, str] = {},  # noqa: B006 - KFP wants a literal default
    trainer_tolerations: List[Dict[str, str]] = [],  # noqa: B006 - KFP wants a literal default
    validation_fraction: float = 0.2,
    validation_shards: int = 0,
):
    """Fine-tune an image classifier on folders of labelled pictures.

    Args:
        pictures_uri: Folder of label folders, or of train/ and validation/ folders of label folders.
        storage_uri: Folder that everything is written to: gs://bucket/prefix or s3://bucket/prefix, or a local folder.
        accelerator_count: Accelerators of each trainer pod, as text; "0" for none.
        accelerator_type: Resource name of the accelerator, e.g. nvidia.com/gpu.
        backbone: Network to fine-tune, e.g. inception_v3.
        batch_size: Examples a training step.
        builder_cpu: CPUs of a shard builder pod.
        builder_memory: Memory of a shard builder pod.
        builder_pods: Shard builder pods, at most 64; each builds many shards.
        checkpoint: Pre-trained weights: a known name, a path or a URI; "default" is the backbone's own.
        checkpoint_sha256: SHA-256 that the checkpoint must have; none for no check.
        checkpoint_values: Which values of a TensorFlow checkpoint: auto, ema or raw.
        cpu_image: Image of every task but the trainer.
        epochs: Epochs of the recipe's main phase; 0 takes the recipe's own.
        evaluator_cpu: CPUs of the pods that score models: Evaluate and Gate.
        evaluator_memory: Memory of the pods that score models.
        google_secret_name: Secret whose key.json is a Google service account's key; not needed with workload identity.
        image_size: Height and width in pixels; 0 takes the backbone's own.
        input_queue_memory_factor: Shuffle buffer in units of 1024 records.
        job_deadline_hours: After which Kubernetes ends the Job that trains; with trainer_mode=job.
        job_priority_class: PriorityClass of the Job's pods; none for the cluster's default.
        job_queue: Kueue queue that the Job waits in; none for no queue.
        job_service_account: Service account of the Job's pods; it must reach the storage.
        labels_file_uri: File with one label a line; none for the sorted folder names.
        learning_rate: Peak learning rate; 0 takes the recipe's own.
        max_rejected_fraction: Share of damaged pictures past which the run fails.
        min_precision: Lowest precision@1 that is promoted.
        model_name: Name that versions are published under.
        num_threads: Thread count of the 2016 shard layout; not a number of processes.
        num_workers: Pods that train together, each with its accelerators; more than one with trainer_mode=job.
        rebuild: Any new text forces a new training; none for no wish.
        recipe: How to train: fine_tune or head.
        s3_secret_name: Secret whose accesskey and secretkey open the S3 store; not needed with a role.
        seed: Seed of initialisation, shuffling and augmentation.
        settings_config_map: ConfigMap whose S3_ENDPOINT and S3_REGION say where the S3 store is.
        train_shards: Shards of the training split; 0 chooses about 1024 pictures a shard.
        trainer_cpu: CPUs of a trainer pod.
        trainer_image: Image of the trainer.
        trainer_memory: Memory of a trainer pod.
        trainer_mode: pod trains in the task's own pod; job in a Kubernetes Job, which survives spot nodes.
        trainer_node_selector: Node labels that a trainer pod needs, as JSON.
        trainer_tolerations: Tolerations of a trainer pod, as a JSON list.
        validation_fraction: Share of the pictures for validation, where they are not split already.
        validation_shards: Shards of the validation split; 0 chooses.
    """
    planned = plan(
        pictures_uri=pictures_uri,
        storage_uri=storage_uri,
        labels_file_uri=labels_file_uri,
        validation_fraction=validation_fraction,
        train_shards=train_shards,
        validation_shards=validation_shards,
        num_threads=num_threads,
        builder_pods=builder_pods,
        max_rejected_fraction=max_rejected_fraction,
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        checkpoint_values=checkpoint_values,
        backbone=backbone,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        seed=seed,
        input_queue_memory_factor=input_queue_memory_factor,
        min_precision=min_precision,
        model_name=model_name,
        trainer_mode=trainer_mode,
        num_workers=num_workers,
        trainer_image=trainer_image,
        trainer_cpu=trainer_cpu,
        trainer_memory=trainer_memory,
        trainer_node_selector=trainer_node_selector,
        trainer_tolerations=trainer_tolerations,
        accelerator_type=accelerator_type,
        accelerator_count=accelerator_count,
        job_deadline_hours=job_deadline_hours,
        job_priority_class=job_priority_class,
        job_queue=job_queue,
        job_service_account=job_service_account,
        settings_config_map=settings_config_map,
        s3_secret_name=s3_secret_name,
        google_secret_name=google_secret_name,
        cpu_image=cpu_image,
    )
    _place(planned, "Plan: check everything, list the pictures", cpu_image, cached=False)

    with dsl.ParallelFor(planned.outputs["Output"], name="build-shards") as item:
        built = build_shards(item=item, storage_uri=storage_uri)
        _place(built, "Build shards", cpu_image, cpu=builder_cpu, memory=builder_memory)

    merged = merge(
        dataset_id=planned.outputs["dataset_id"],
        storage_uri=storage_uri,
        max_rejected_fraction=max_rejected_fraction,
    ).after(built)
    _place(
        merged,
        "Merge: account for every picture",
        cpu_image,
        cpu=builder_cpu,
        memory=builder_memory,
    )

    fetched = fetch_checkpoint(
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        checkpoint_values=checkpoint_values,
        checkpoint_version=planned.outputs["checkpoint_version"],
        backbone=backbone,
        storage_uri=storage_uri,
    )
    _place(fetched, "Fetch checkpoint", cpu_image, memory="4Gi")

    trained = train(
        dataset_id=planned.outputs["dataset_id"],
        checkpoint_id=fetched.outputs["checkpoint_id"],
        storage_uri=storage_uri,
        backbone=backbone,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        seed=seed,
        input_queue_memory_factor=input_queue_memory_factor,
        rebuild=rebuild,
        job=planned.outputs["trainer_job"],
    ).after(merged)
    # Plan says what the task's own pod asks for: everything if it trains itself, little if it only follows a Job.
    _place(
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
        storage_uri=storage_uri,
    )
    _place(evaluated, "Evaluate", cpu_image, cpu=evaluator_cpu, memory=evaluator_memory)

    judged = gate(
        dataset_id=planned.outputs["dataset_id"],
        training_id=trained.outputs["training_id"],
        model_name=model_name,
        min_precision=min_precision,
        storage_uri=storage_uri,
    ).after(evaluated)
    _place(
        judged,
        "Gate: threshold and champion",
        cpu_image,
        cpu=evaluator_cpu,
        memory=evaluator_memory,
        cached=False,
    )

    with dsl.If(judged.outputs["Output"] == "promote", name="promote"):
        promoted = promote(
            training_id=trained.outputs["training_id"],
            model_name=model_name,
            champion_version=judged.outputs["champion_version"],
            storage_uri=storage_uri,
        )
        _place(promoted, "Promote", cpu_image, cached=False)
    tasks = [planned, built, merged, fetched, trained, evaluated, judged, promoted]
    _give_access(tasks, settings_config_map, s3_secret_name, google_secret_name)
