"""Worker 0's log in the task's own: every line once, whichever pod it comes from."""

import logging
import sys
import threading
from typing import Any

from repot.trainer.job.cluster import Cluster
from repot.trainer.job.diagnosis import newest_of_worker

_log = logging.getLogger(__name__)


class LogStream:
    """Follows the log of worker 0 in threads, one for each of its pods.

    Args:
        cluster: Where the pods are.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread: threading.Thread | None = None
        self._last: dict[str, str] = {}

    def look(self, pods: list[dict[str, Any]]) -> None:
        """Follow the youngest pod of worker 0, if it has begun and is not followed already."""
        pod = newest_of_worker(pods, 0)
        if pod is None or (pod.get("status") or {}).get("phase", "Pending") == "Pending":
            return
        if self._thread is None or not self._thread.is_alive():
            name = pod["metadata"]["name"]
            self._thread = threading.Thread(
                target=self._follow, args=[name], name="log", daemon=True
            )
            self._thread.start()

    def drain(self, pods: list[dict[str, Any]], seconds: float) -> None:
        """Wait for what is still to come of a pod that has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        self.look(pods)
        if self._thread is not None:
            self._thread.join(seconds)

    def _follow(self, pod: str) -> None:
        last = self._last.get(pod, "")
        try:
            for line in self._cluster.follow_log(pod, since=last):
                stamp, _, text = line.partition(" ")
                if stamp > last:
                    sys.stdout.write(f"{text}\n")
                    sys.stdout.flush()
                    last = self._last[pod] = stamp
        except OSError as err:
            _log.debug("the log of %s stopped: %s", pod, err)
