"""The KFP component that plans a run: check settings, list pictures, assign work to pods."""

from typing import Any, Dict, List

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def plan(
    backbone: str,
    batch_size: int,
    checkpoint: str,
    epochs: int,
    learning_rate: float,
    min_precision: float,
    model_name: str,
    nested: bool,
    pictures_uri: str,
    recipe: str,
    settings: Dict[str, Any],
    storage_uri: str,
    trainer_mode: str,
    validation_fraction: float,
    compiled_settings: str,
    used_settings: dsl.Output[dsl.Markdown],
    used_storage_uri: dsl.OutputPath(str),
    dataset: dsl.Output[dsl.Dataset],
    dataset_id: dsl.OutputPath(str),
    first_item: dsl.OutputPath(str),
    steps: dsl.OutputPath(str),
    finished_training_id: dsl.OutputPath(str),
    gate_settings: dsl.OutputPath(str),
    run_request: dsl.OutputPath(str),
    checkpoint_sha256: dsl.OutputPath(str),
    checkpoint_values: dsl.OutputPath(str),
    checkpoint_version: dsl.OutputPath(str),
    training_settings: dsl.OutputPath(str),
    rebuild: dsl.OutputPath(str),
    trainer_job: dsl.OutputPath(str),
    task_cpu: dsl.OutputPath(str),
    task_memory: dsl.OutputPath(str),
    task_node_selector: dsl.OutputPath(dict),
    task_tolerations: dsl.OutputPath(list),
    fetcher_cpu: dsl.OutputPath(str),
    fetcher_memory: dsl.OutputPath(str),
    builder_cpu: dsl.OutputPath(str),
    builder_memory: dsl.OutputPath(str),
    evaluator_cpu: dsl.OutputPath(str),
    evaluator_memory: dsl.OutputPath(str),
    trainer_pod_image: dsl.OutputPath(str),
    trainer_pod_cpu: dsl.OutputPath(str),
    trainer_pod_memory: dsl.OutputPath(str),
    trainer_pod_accelerator_type: dsl.OutputPath(str),
    trainer_pod_accelerator_count: dsl.OutputPath(str),
    trainer_pod_node_selector: dsl.OutputPath(dict),
    trainer_pod_tolerations: dsl.OutputPath(list),
) -> List[str]:
    """Check every setting, list and split the pictures, and return an item per further builder.

    Args:
        settings: Settings that are no field of the form, by name.
        compiled_settings: JSON of the settings that `repot compile` wrote into the pipeline.
        used_settings: Output: every setting of the run, its value and where that comes from.
        used_storage_uri: Output: the storage, which may be the cluster's default.
        first_item: Output: the work item of the first builder. Most datasets need no other, and a
            loop costs a run two more sequential pods.
        steps: Output: what the run does, see `repot.planner.finished`.
        finished_training_id: Output: the training that needs only the gate; "none" without one.
    """
    # KFP requires every parameter in the signature; each has the name of its setting.
    paths = dict(locals())

    import json
    import os
    from pathlib import Path

    from repot import layout, progress
    from repot.checkpoint_files import find_version
    from repot.cluster_names import RUN_ID_VARIABLE
    from repot.notification import notify_failure
    from repot.planner.finished import plan_run
    from repot.planner.outputs import plan_outputs
    from repot.planner.preflight import check_settings
    from repot.settings import FORM_FIELDS, run_storage_uri
    from repot.settings.integrations import environment_problems

    with progress.task("plan"), notify_failure("plan", run_storage_uri(storage_uri, os.environ)):
        for problem in environment_problems(os.environ):
            progress.notice("plan", problem, is_warning=True)
        parameters, used = check_settings(
            {name: paths[name] for name in FORM_FIELDS},
            settings,
            compiled=json.loads(compiled_settings),
            environment=os.environ,
        )
        Path(used_settings.path).write_text(used, encoding="utf-8")
        source = parameters.checkpoint
        version = source.sha256 or find_version(source.uri)
        work, finished = plan_run(
            parameters,
            checkpoint_version=version,
            run_id=os.environ.get(RUN_ID_VARIABLE, ""),
        )
    outputs = plan_outputs(parameters, work, finished, checkpoint_version=version or "unknown")
    for name, text in outputs.items():
        path = Path(paths[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    uri = layout.dataset_uri(parameters.run.storage_uri, work.dataset_id)
    Path(dataset.path).write_text(uri + "\n")
    dataset.metadata.update(uri=uri, dataset_id=work.dataset_id, **work.facts)
    return [] if finished.training_id else list(work.items[1:])
