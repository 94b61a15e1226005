"""The KFP component that plans a run: checks parameters, lists pictures, deals work to builder pods."""

from typing import Dict, List

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def plan(
    pictures_uri: str,
    storage_uri: str,
    labels_file_uri: str,
    validation_fraction: float,
    train_shards: int,
    validation_shards: int,
    num_threads: int,
    builder_pods: int,
    max_rejected_fraction: float,
    checkpoint: str,
    checkpoint_sha256: str,
    checkpoint_values: str,
    backbone: str,
    recipe: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    image_size: int,
    seed: int,
    input_queue_memory_factor: int,
    min_precision: float,
    model_name: str,
    trainer_mode: str,
    num_workers: int,
    trainer_image: str,
    trainer_cpu: str,
    trainer_memory: str,
    trainer_node_selector: Dict[str, str],
    trainer_tolerations: List[Dict[str, str]],
    accelerator_type: str,
    accelerator_count: str,
    job_deadline_hours: int,
    job_priority_class: str,
    job_queue: str,
    job_service_account: str,
    settings_config_map: str,
    s3_secret_name: str,
    google_secret_name: str,
    cpu_image: str,
    dataset_id: dsl.OutputPath(str),
    checkpoint_version: dsl.OutputPath(str),
    trainer_job: dsl.OutputPath(str),
    trainer_pod_image: dsl.OutputPath(str),
    trainer_pod_cpu: dsl.OutputPath(str),
    trainer_pod_memory: dsl.OutputPath(str),
    trainer_pod_accelerator_count: dsl.OutputPath(str),
    trainer_pod_node_selector: dsl.OutputPath(dict),
    trainer_pod_tolerations: dsl.OutputPath(list),
) -> List[str]:
    """Check every parameter, list and split the pictures, and return one work item for each builder pod."""
    import json
    from pathlib import Path

    from repot import progress
    from repot.checkpoints import find_version
    from repot.planner.plan import plan_work
    from repot.planner.preflight import check_parameters
    from repot.planner.trainer_pod import choose_task_pod

    with progress.task("plan"):
        parameters = check_parameters(
            pictures_uri=pictures_uri,
            storage_uri=storage_uri,
            labels_file_uri=labels_file_uri,
            dataset={
                "validation_fraction": validation_fraction,
                "train_shards": train_shards,
                "validation_shards": validation_shards,
                "num_threads": num_threads,
            },
            training={
                "backbone": backbone,
                "recipe": recipe,
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "image_size": image_size,
                "seed": seed,
                "input_queue_memory_factor": input_queue_memory_factor,
            },
            gate={"min_precision": min_precision, "max_rejected_fraction": max_rejected_fraction},
            trainer_mode=trainer_mode,
            job={
                "image": trainer_image,
                "cpu": trainer_cpu,
                "memory": trainer_memory,
                "node_selector": trainer_node_selector,
                "tolerations": trainer_tolerations,
                "accelerator_type": accelerator_type,
                "accelerator_count": accelerator_count,
                "num_workers": num_workers,
                "deadline_hours": job_deadline_hours,
                "priority_class": job_priority_class,
                "queue": job_queue,
                "service_account": job_service_account,
                "settings_config_map": settings_config_map,
                "s3_secret_name": s3_secret_name,
                "google_secret_name": google_secret_name,
            },
            checkpoint={
                "source": checkpoint,
                "sha256": checkpoint_sha256,
                "values": checkpoint_values,
            },
            builder_pods=builder_pods,
            model_name=model_name,
        )
        version = find_version(parameters.checkpoint)
        work = plan_work(parameters)
        pod = choose_task_pod(trainer_mode, parameters.job, cpu_image=cpu_image)
    outputs = {
        dataset_id: work.dataset_id,
        checkpoint_version: parameters.checkpoint.sha256 or version or "unknown",
        trainer_job: parameters.job.to_json() if trainer_mode == "job" else "null",
        trainer_pod_image: pod.image,
        trainer_pod_cpu: pod.cpu,
        trainer_pod_memory: pod.memory,
        trainer_pod_accelerator_count: pod.accelerator_count,
        trainer_pod_node_selector: json.dumps(pod.node_selector),
        trainer_pod_tolerations: json.dumps(pod.tolerations),
    }
    for path, text in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    return list(work.items)
