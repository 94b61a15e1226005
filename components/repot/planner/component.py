"""The KFP component that plans a run: check parameters, list pictures, assign work to pods."""

from typing import Dict, List

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def plan(
    pictures_uri: str,
    storage_uri: str,
    labels_file_uri: str,
    model_name: str,
    rebuild: str,
    builder_pods: int,
    nested: bool,
    validation_fraction: float,
    train_shards: int,
    validation_shards: int,
    num_threads: int,
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
    allow_label_removal: bool,
    max_rejected_fraction: float,
    trainer_mode: str,
    cpu_image: str,
    builder_cpu: str,
    builder_memory: str,
    evaluator_cpu: str,
    evaluator_memory: str,
    trainer_image: str,
    trainer_cpu: str,
    trainer_memory: str,
    accelerator_type: str,
    accelerator_count: str,
    trainer_node_selector: Dict[str, str],
    trainer_tolerations: List[Dict[str, str]],
    num_workers: int,
    job_queue: str,
    job_service_account: str,
    job_priority_class: str,
    settings_config_map: str,
    s3_secret_name: str,
    google_secret_name: str,
    job_deadline_hours: int,
    dataset_id: dsl.OutputPath(str),
    checkpoint_version: dsl.OutputPath(str),
    training_settings: dsl.OutputPath(str),
    trainer_job: dsl.OutputPath(str),
    trainer_pod_image: dsl.OutputPath(str),
    trainer_pod_cpu: dsl.OutputPath(str),
    trainer_pod_memory: dsl.OutputPath(str),
    trainer_pod_accelerator_count: dsl.OutputPath(str),
    trainer_pod_node_selector: dsl.OutputPath(dict),
    trainer_pod_tolerations: dsl.OutputPath(list),
) -> List[str]:
    """Check every parameter, list and split the pictures, and return one item per builder pod."""
    # KFP requires every parameter in the signature; each has the name of its setting.
    arguments = dict(locals())

    import json
    from pathlib import Path

    from repot import progress
    from repot.checkpoint_files import find_version
    from repot.notification import notify_failure, settings_problems
    from repot.planner.plan import plan_work
    from repot.planner.preflight import check_parameters
    from repot.planner.trainer_pod import choose_trainer_pod

    with progress.task("plan"), notify_failure("plan", storage_uri):
        for problem in settings_problems():
            progress.notice("plan", problem, is_warning=True)
        parameters = check_parameters(arguments)
        source = parameters.checkpoint
        version = source.sha256 or find_version(source.uri) or "unknown"
        work = plan_work(parameters)
        pod = choose_trainer_pod(parameters.task, parameters.job)
    is_job = parameters.task.trainer_mode == "job"
    outputs = {
        dataset_id: work.dataset_id,
        checkpoint_version: version,
        training_settings: parameters.training.to_text(),
        trainer_job: parameters.job.to_text() if is_job else "null",
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
