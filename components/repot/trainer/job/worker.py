"""What a pod of the Job runs: `python -m repot.trainer.job.worker REQUEST_URI`.

Environment:
    JOB_COMPLETION_INDEX     this worker's index; Kubernetes sets it
    REPOT_WORKERS            host:port of every worker, by index, with commas between them; not set for a single one
    REPOT_TERMINATION_LOG    file for the one message that the pod's status shows; none if it is not set
    REPOT_SILENCE_SECONDS    how long the task may be silent
"""

import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from repot.errors import RepotError, StoppedError, StorageError
from repot.json_record import read_record
from repot.trainer.job.heartbeat import SILENCE_SECONDS
from repot.trainer.job.stop import FAILED, START_AGAIN, WILL_NOT_HELP, Stop
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train

TERMINATION_LOG_VARIABLE = "REPOT_TERMINATION_LOG"
WORKERS_VARIABLE = "REPOT_WORKERS"
SILENCE_VARIABLE = "REPOT_SILENCE_SECONDS"
_NAME_SECONDS = 2.0
# What TensorFlow raises in a worker when another one is gone (tf.errors.OpError, by class name).
_OF_LOST_WORKERS = {"AbortedError", "CancelledError", "DeadlineExceededError", "UnavailableError"}

_log = logging.getLogger(__name__)


def run_worker(request_uri: str, *, addresses: Sequence[str], index: int, stop: Stop) -> int:
    """Take part in a training, and return the exit code.

    Args:
        request_uri: What to do.
        addresses: host:port of every worker, by index; only several need them.
        index: Of this worker.
        stop: Asked before every step.
    """
    try:
        request = read_record(request_uri, TrainingRequest)
        stop.watch(request.heartbeat_uri, float(os.environ.get(SILENCE_VARIABLE, SILENCE_SECONDS)))
        if len(addresses) > 1:
            _wait_for_names(addresses, stop)
            os.environ["TF_CONFIG"] = make_tf_config(addresses, index)
        train(request, should_stop=stop.is_asked)
    except RepotError as err:
        return _report(err, stop)
    except Exception as err:  # noqa: BLE001 - the exit code tells whether to start again
        traceback.print_exc()
        _leave_message(f"{type(err).__name__}: {str(err).partition(chr(10))[0]}")
        return (
            START_AGAIN if len(addresses) > 1 and type(err).__name__ in _OF_LOST_WORKERS else FAILED
        )
    return 0


def make_tf_config(addresses: Sequence[str], index: int) -> str:
    """Return TF_CONFIG for one of several workers; worker 0 is the chief.

    Source: https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver
    """
    return json.dumps(
        {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    )


def main() -> None:
    """Run the worker of this pod."""
    stop = Stop()
    stop.listen()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    addresses = [address for address in os.environ.get(WORKERS_VARIABLE, "").split(",") if address]
    index = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    code = run_worker(sys.argv[1], addresses=addresses, index=index, stop=stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorFlow's threads wait for those of other workers, which may be gone.
    os._exit(code)


def _report(err: RepotError, stop: Stop) -> int:
    _leave_message(str(err))
    if isinstance(err, StoppedError):
        _log.warning("%s", err)
        return stop.exit_code
    _log.error("%s", err)
    return FAILED if isinstance(err, StorageError) else WILL_NOT_HELP


def _leave_message(message: str) -> None:
    """Write what the pod's status is to show; Kubernetes keeps 4096 bytes of it."""
    path = os.environ.get(TERMINATION_LOG_VARIABLE)
    if path:
        Path(path).write_bytes(message.encode()[:4096])


def _wait_for_names(addresses: Sequence[str], stop: Stop) -> None:
    """Wait until the names of all workers are known: each appears when its pod has an address."""
    for address in addresses:
        host = address.rpartition(":")[0]
        is_told = False
        while not _is_known(host):
            if stop.is_asked():
                raise StoppedError(
                    "The worker was asked to stop while it waited for the others. Start it again."
                )
            if not is_told:
                _log.info("waiting for worker %s", host)
                is_told = True
            stop.pause(_NAME_SECONDS)


def _is_known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


if __name__ == "__main__":
    main()
