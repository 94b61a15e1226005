"""The program that a pod of the Job runs: `python -m repot.trainer.job.worker REQUEST_URI`.

Environment:
    JOB_COMPLETION_INDEX     index of this worker; set by Kubernetes
    REPOT_WORKERS            host:port of all workers by index, with commas; unset for one worker
    REPOT_TERMINATION_LOG    file for the message in the pod's status
    REPOT_SILENCE_SECONDS    stop when the waiting task has no heartbeat for this long
"""

import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Sequence

from repot.errors import RepotError, StoppedError, StorageError
from repot.json_record import read_record
from repot.progress import write_termination_message
from repot.trainer.job.heartbeat import SILENCE_SECONDS
from repot.trainer.job.termination import EXIT_FAILED, EXIT_PERMANENT, EXIT_RESTART, StopRequest
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train

WORKERS_VARIABLE = "REPOT_WORKERS"
SILENCE_VARIABLE = "REPOT_SILENCE_SECONDS"

_NAME_LOOKUP_SECONDS = 2.0
# Raised by TensorFlow in a worker when another worker is lost (subclasses of tf.errors.OpError).
_LOST_WORKER_ERRORS = {
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "UnavailableError",
}

_log = logging.getLogger(__name__)


def run_worker(request_uri: str, *, addresses: Sequence[str], index: int, stop: StopRequest) -> int:
    """Take part in a training and return the exit code.

    Args:
        request_uri: File of the training request.
        addresses: host:port of every worker, by index; empty for a single worker.
        index: Index of this worker.
        stop: Checked before every step.
    """
    try:
        request = read_record(request_uri, TrainingRequest)
        silence_seconds = float(os.environ.get(SILENCE_VARIABLE, SILENCE_SECONDS))
        stop.watch_heartbeat(request.heartbeat_uri, silence_seconds)
        if len(addresses) > 1:
            _wait_for_host_names(addresses, stop)
            os.environ["TF_CONFIG"] = make_tf_config(addresses, index)
        train(request, should_stop=stop.is_set)
    except RepotError as err:
        return _report(err, stop)
    except Exception as err:  # noqa: BLE001 - the exit code tells whether to start again
        traceback.print_exc()
        name = type(err).__name__
        write_termination_message(f"{name}: {str(err).partition(chr(10))[0]}")
        is_worker_lost = len(addresses) > 1 and name in _LOST_WORKER_ERRORS
        return EXIT_RESTART if is_worker_lost else EXIT_FAILED
    return 0


def make_tf_config(addresses: Sequence[str], index: int) -> str:
    """Return TF_CONFIG for one of several workers; worker 0 is the chief.

    Source: documentation of tf.distribute.cluster_resolver.TFConfigClusterResolver.
    """
    return json.dumps(
        {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    )


def main() -> None:
    """Run the worker of this pod."""
    stop = StopRequest()
    stop.listen_for_sigterm()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    addresses = [address for address in os.environ.get(WORKERS_VARIABLE, "").split(",") if address]
    index = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    code = run_worker(sys.argv[1], addresses=addresses, index=index, stop=stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # A normal exit would join TensorFlow's threads, which may wait for workers that are gone.
    os._exit(code)


def _report(err: RepotError, stop: StopRequest) -> int:
    write_termination_message(str(err))
    if isinstance(err, StoppedError):
        _log.warning("%s", err)
        return stop.exit_code
    _log.error("%s", err)
    return EXIT_FAILED if isinstance(err, StorageError) else EXIT_PERMANENT


def _wait_for_host_names(addresses: Sequence[str], stop: StopRequest) -> None:
    """Wait until all host names resolve: each one appears when its pod has an address."""
    for address in addresses:
        host = address.rpartition(":")[0]
        is_logged = False
        while not _is_resolvable(host):
            if stop.is_set():
                raise StoppedError(
                    "The worker was asked to stop while it waited for the others. Start it again."
                )
            if not is_logged:
                _log.info("waiting for worker %s", host)
                is_logged = True
            stop.wait(_NAME_LOOKUP_SECONDS)


def _is_resolvable(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


if __name__ == "__main__":
    main()
