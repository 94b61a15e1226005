"""One Job for one training: the one that runs is adopted, the one that ended is replaced, and two never run."""

import logging
import time
from typing import Any

from repot.errors import TrainingError
from repot.trainer.job.cluster import Cluster
from repot.trainer.job.diagnosis import end_of
from repot.trainer.job.job_spec import RUN_ANNOTATION, TRAINING_LABEL, make_service

GONE_SECONDS = 600.0
_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)

Manifest = dict[str, Any]


def ensure_job(cluster: Cluster, job: Manifest, *, training_id: str, run_uri: str) -> Manifest:
    """Return the Job of a training, made or adopted, with the Service of its workers.

    Args:
        cluster: Where.
        job: What to make if there is none that runs.
        training_id, run_uri: What it must be of.

    Raises:
        TrainingError: It cannot be made, or its name is taken.
    """
    name, deadline = job["metadata"]["name"], time.monotonic() + GONE_SECONDS
    while True:
        found = cluster.get_job(name)
        if found is None:
            # None again: another task was faster, and the next look finds its Job.
            found = cluster.create_job(job)
            if found is not None:
                _log.info("created Job %s in namespace %s", name, cluster.namespace)
        else:
            _check_own(found, training_id, run_uri)
        if found is not None and _is_alive(found):
            _ensure_service(cluster, found, training_id, run_uri)
            return found
        if (
            found is not None
            and end_of(found) is not None
            and "deletionTimestamp" not in found["metadata"]
        ):
            _log.info("Job %s of an earlier attempt has ended; it is replaced", name)
            cluster.delete_job(name)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Job {name} of an earlier attempt must go; it does not. Delete it, and its pods."
            )
        if found is not None:
            time.sleep(_PAUSE_SECONDS)


def _is_alive(job: Manifest) -> bool:
    return end_of(job) is None and "deletionTimestamp" not in job["metadata"]


def _check_own(job: Manifest, training_id: str, run_uri: str) -> None:
    metadata = job["metadata"]
    owner = metadata.get("labels", {}).get(TRAINING_LABEL)
    if owner != training_id:
        raise TrainingError(
            f"The Job {metadata['name']} must be of training {training_id}; it is of {owner or 'something else'}. "
            "Delete it."
        )
    place = metadata.get("annotations", {}).get(RUN_ANNOTATION)
    if place != run_uri and _is_alive(job):
        raise TrainingError(
            f"The Job {metadata['name']} must write to {run_uri}; one of that name writes to {place}. Wait for its "
            "end, or use another namespace for the other storage."
        )


def _ensure_service(cluster: Cluster, job: Manifest, training_id: str, run_uri: str) -> None:
    """Make the Service of several workers; one of an earlier Job goes with that Job, and is replaced."""
    if job["spec"]["parallelism"] == 1:
        return
    service = make_service(training_id, run_uri, job)
    name, uid = service["metadata"]["name"], job["metadata"]["uid"]
    deadline = time.monotonic() + GONE_SECONDS
    while cluster.create_service(service) is None:
        found = cluster.get_service(name)
        if found is not None and [
            owner["uid"] for owner in found["metadata"].get("ownerReferences", [])
        ] == [uid]:
            return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The Service {name} of an earlier attempt must go; it does not. Delete it."
            )
        cluster.delete_service(name)
        time.sleep(_PAUSE_SECONDS)
