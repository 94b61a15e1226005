"""The KFP component that fine-tunes the backbone on a data set."""

from kfp import dsl

from repot.container_images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train(
    dataset_id: str,
    checkpoint_id: str,
    storage_uri: str,
    backbone: str,
    recipe: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    image_size: int,
    seed: int,
    input_queue_memory_factor: int,
    rebuild: str,
    job: str,
    training_id: dsl.OutputPath(str),
    model: dsl.Output[dsl.Model],
):
    """Train, resuming where an earlier pod stopped; a training that was finished before is not repeated.

    Args:
        job: JSON of the JobSettings of the Kubernetes Job that trains; null to train in this pod.
    """
    import json
    from pathlib import Path

    from repot import progress
    from repot.job_settings import JobSettings
    from repot.settings import TrainingSettings, given
    from repot.trainer.request import TrainingRequest
    from repot.trainer.train import train

    with progress.task("train"):
        settings = TrainingSettings(
            backbone=backbone,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            image_size=image_size,
            seed=seed,
            input_queue_memory_factor=input_queue_memory_factor,
        )
        request = TrainingRequest.from_ids(
            storage_uri,
            dataset_id=dataset_id,
            checkpoint_id=checkpoint_id,
            settings=settings,
            rebuild=given(rebuild),
        )
        if json.loads(job) is None:
            record = train(request)
        else:
            from repot.trainer.job.run_job import train_in_job  # needs the Kubernetes client

            record = train_in_job(JobSettings.from_json(job), request)
        progress.result(training_id=request.training_id)
    for path, text in ((training_id, request.training_id), (model.path, request.run_uri + "\n")):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    model.metadata.update(
        uri=request.run_uri,
        training_id=request.training_id,
        dataset_id=dataset_id,
        num_parameters=record.num_parameters,
    )
