"""The KFP component that trains a classifier on a dataset."""

from kfp import dsl

from repot.container_images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train(
    dataset_id: str,
    checkpoint_id: str,
    storage_uri: str,
    settings: str,
    rebuild: str,
    job: str,
    training_id: dsl.OutputPath(str),
    model: dsl.Output[dsl.Model],
):
    """Train a classifier, or resume an interrupted training; a finished one is not repeated.

    Args:
        dataset_id: Dataset to train on.
        checkpoint_id: Converted checkpoint to start from.
        storage_uri: Root of the pipeline's storage.
        settings: JSON of the TrainingSettings, checked by plan.
        rebuild: Any text; a different text forces a new training.
        job: JSON of the JobSettings of the Kubernetes Job that trains; null trains in this pod.
        training_id: Output: id of the training.
        model: Output: URI of the run folder, with the number of parameters as metadata.
    """
    import json
    from pathlib import Path

    from repot import progress
    from repot.notification import notify_failure
    from repot.pruning.uses import Use, note_use
    from repot.settings import JobSettings, TrainingSettings, empty_if_none
    from repot.trainer.request import TrainingRequest
    from repot.trainer.train import train

    with progress.task("train"), notify_failure("train", storage_uri):
        request = TrainingRequest.from_ids(
            storage_uri,
            dataset_id=dataset_id,
            checkpoint_id=checkpoint_id,
            settings=TrainingSettings.from_text(settings),
            rebuild=empty_if_none(rebuild),
        )
        note_use(
            storage_uri,
            Use(
                dataset_id=dataset_id,
                checkpoint_id=checkpoint_id,
                training_id=request.training_id,
            ),
        )
        if json.loads(job) is None:
            record = train(request)
        else:
            from repot.trainer.job.run_job import train_in_job  # needs the Kubernetes client

            record = train_in_job(JobSettings.from_text(job), request)
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
