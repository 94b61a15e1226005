"""One Job per training: a running Job is adopted, an ended one is replaced, never two at once."""

import logging
import time

from repot.errors import TrainingError
from repot.kubernetes_rules import KubernetesObject
from repot.trainer.job.api import JobApi
from repot.trainer.job.diagnosis import end_condition
from repot.trainer.job.spec import RUN_ANNOTATION, TRAINING_LABEL, make_service

DELETION_SECONDS = 600.0
"""The Job and the Service of an earlier attempt must be gone after this time."""

_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)


def ensure_job(
    api: JobApi, job: KubernetesObject, *, training_id: str, run_uri: str
) -> KubernetesObject:
    """Return the running Job of a training, created or adopted, with the Service of its workers.

    Args:
        api: Access to the namespace.
        job: The Job to create if none is running.
        training_id: The training that an adopted Job must be for.
        run_uri: The run folder that an adopted Job must write to.

    Raises:
        TrainingError: The Job cannot be created, or a different Job has its name.
    """
    name, deadline = job["metadata"]["name"], time.monotonic() + DELETION_SECONDS
    while True:
        found = api.get_job(name)
        if found is None:
            # None again if another task created it in the meantime: the next turn finds that Job.
            found = api.create_job(job)
            if found is not None:
                _log.info("created Job %s in namespace %s", name, api.namespace)
        else:
            _check_same_training(found, training_id, run_uri)
        if found is not None and _is_active(found):
            _ensure_service(api, found, training_id, run_uri)
            return found
        if found is not None and not _is_being_deleted(found):
            _log.info("replacing Job %s of an earlier attempt, which has ended", name)
            api.delete_job(name)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Job {name} of an earlier attempt must be deleted; it still exists after "
                f"{DELETION_SECONDS:.0f} s. Delete it and its pods."
            )
        if found is not None:
            time.sleep(_PAUSE_SECONDS)


def _is_active(job: KubernetesObject) -> bool:
    return end_condition(job) is None and not _is_being_deleted(job)


def _is_being_deleted(job: KubernetesObject) -> bool:
    return "deletionTimestamp" in job["metadata"]


def _check_same_training(job: KubernetesObject, training_id: str, run_uri: str) -> None:
    metadata = job["metadata"]
    owner = metadata.get("labels", {}).get(TRAINING_LABEL)
    if owner != training_id:
        raise TrainingError(
            f"The Job {metadata['name']} must belong to training {training_id}; it belongs to "
            f"{owner or 'something else'}. Delete it."
        )
    other_uri = metadata.get("annotations", {}).get(RUN_ANNOTATION)
    if other_uri != run_uri and _is_active(job):
        raise TrainingError(
            f"The Job {metadata['name']} must write to {run_uri}; a running Job of that name "
            f"writes to {other_uri}. Wait until it ends, or use another namespace for the other "
            "storage."
        )


def _ensure_service(api: JobApi, job: KubernetesObject, training_id: str, run_uri: str) -> None:
    """Create the Service of several workers.

    The Service of an earlier Job is replaced: Kubernetes deletes it together with that Job.
    """
    if job["spec"]["parallelism"] == 1:
        return
    service = make_service(training_id, run_uri, job)
    name, job_uid = service["metadata"]["name"], job["metadata"]["uid"]
    deadline = time.monotonic() + DELETION_SECONDS
    while api.create_service(service) is None:
        found = api.get_service(name)
        if found is not None:
            owners = found["metadata"].get("ownerReferences", [])
            if [owner["uid"] for owner in owners] == [job_uid]:
                return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Service {name} of an earlier attempt must be deleted; it still exists after "
                f"{DELETION_SECONDS:.0f} s. Delete it."
            )
        api.delete_service(name)
        time.sleep(_PAUSE_SECONDS)
