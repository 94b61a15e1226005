"""Kubeflow Pipelines access for the tests: read, terminate and delete runs and schedules."""

import os
from collections.abc import Iterator
from typing import Any

from repot_pipelines.kfp_server.access import ConnectionOptions, resolve_access
from repot_pipelines.kfp_server.errors import MissingObjectError, ServerError
from repot_pipelines.kfp_server.runs import FINAL_STATES, get_run
from repot_pipelines.kfp_server.server import connect, name_filter
from repot_pipelines.schedules.lookup import list_schedules
from tests.cluster.cluster_settings import ClusterSettings
from tests.cluster.waiting import wait_for

_END_SECONDS = 300.0


class KubeflowClient:
    """A client of the Kubeflow Pipelines server.

    Everything that a test session creates has a name that begins with the session's name.

    Args:
        settings: Settings with the server.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        options = ConnectionOptions(host=settings.host, kfp_namespace=settings.kfp_namespace)
        self._server = connect(resolve_access(options, os.environ), namespace=settings.namespace)
        self._client = self._server.client

    def run(self, run_id: str) -> Any:
        """Return a run."""
        return get_run(self._server, run_id)

    def end_of(self, run_id: str, seconds: float) -> str:
        """Wait until a run has ended, and return its final state."""
        return str(
            wait_for(
                f"the end of run {run_id}",
                lambda: state if (state := self.run(run_id).state) in FINAL_STATES else "",
                seconds=seconds,
                state=lambda: self.run(run_id).state,
            )
        )

    def wait_for_task(self, run_id: str, name: str, *, seconds: float) -> None:
        """Wait until a task of a run has succeeded."""

        def states() -> list[str]:
            details = self.run(run_id).run_details
            tasks = (details and details.task_details) or ()
            return [str(task.state) for task in tasks if task.display_name == name]

        wait_for(f"the task {name}", lambda: "SUCCEEDED" in states(), seconds=seconds, state=states)

    def runs_of_schedule(self, name: str, experiment: str) -> list[Any]:
        """Return the runs that a schedule started."""
        ids = {schedule.recurring_run_id for schedule in self.schedules(name)}
        return [run for run in self._runs(experiment) if run.recurring_run_id in ids]

    def schedules(self, prefix: str) -> list[Any]:
        """Return the schedules whose names begin with `prefix`."""
        return [
            each
            for each in list_schedules(self._server)
            if str(each.display_name).startswith(prefix)
        ]

    def terminate(self, run_id: str) -> None:
        """Terminate a run, as the button in the UI does."""
        method = self._client.runs.run_service_terminate_run
        self._server.call(f"terminate the run {run_id}", method, run_id=run_id)

    def stop_all(self, name: str) -> None:
        """Pause the schedules of a session, and terminate its runs.

        Args:
            name: Name of the session, which is also the name of its experiment.
        """
        recurring_runs = self._client.recurring_runs
        for schedule in self.schedules(name):
            method = recurring_runs.recurring_run_service_disable_recurring_run
            self._server.call(
                "pause a schedule", method, recurring_run_id=schedule.recurring_run_id
            )
        unfinished = [run.run_id for run in self._runs(name) if run.state not in FINAL_STATES]
        for run_id in unfinished:
            self._terminate_if_running(run_id)
        for run_id in unfinished:
            self.end_of(run_id, _END_SECONDS)

    def delete_all(self, name: str) -> None:
        """Delete the schedules, runs, experiment and pipeline of a session."""
        for schedule in self.schedules(name):
            method = self._client.recurring_runs.recurring_run_service_delete_recurring_run
            self._server.call(
                "delete a schedule", method, recurring_run_id=schedule.recurring_run_id
            )
        for run in list(self._runs(name)):
            self._server.call(
                "delete a run", self._client.runs.run_service_delete_run, run_id=run.run_id
            )
        for experiment_id in self._experiments(name):
            method = self._client.experiments.experiment_service_delete_experiment
            self._server.call("delete the experiment", method, experiment_id=experiment_id)
        for pipeline_id in self._pipelines(name):
            self._delete_pipeline(pipeline_id)

    def _terminate_if_running(self, run_id: str) -> None:
        try:
            self.terminate(run_id)
        except MissingObjectError:
            return
        except ServerError:
            if self.run(run_id).state not in FINAL_STATES:
                raise

    def _delete_pipeline(self, pipeline_id: str) -> None:
        api = self._client.pipelines
        versions = self._server.list_all(
            "list the versions",
            api.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline_id,
        )
        for version in list(versions):
            self._server.call(
                "delete a version",
                api.pipeline_service_delete_pipeline_version,
                pipeline_id=pipeline_id,
                pipeline_version_id=version.pipeline_version_id,
            )
        self._server.call(
            "delete the pipeline", api.pipeline_service_delete_pipeline, pipeline_id=pipeline_id
        )

    def _runs(self, experiment: str) -> Iterator[Any]:
        method = self._client.runs.run_service_list_runs
        for experiment_id in self._experiments(experiment):
            yield from self._server.list_all(
                "list the runs", method, "runs", experiment_id=experiment_id
            )

    def _experiments(self, name: str) -> list[str]:
        method = self._client.experiments.experiment_service_list_experiments
        found = self._list_named(name, method, "experiments")
        return [str(each.experiment_id) for each in found]

    def _pipelines(self, name: str) -> list[str]:
        method = self._client.pipelines.pipeline_service_list_pipelines
        found = self._list_named(name, method, "pipelines")
        return [str(each.pipeline_id) for each in found]

    def _list_named(self, name: str, method: Any, field: str) -> list[Any]:
        query = {"filter": name_filter(name), "namespace": self._server.namespace}
        return list(self._server.list_all(f"look for {field}", method, field, **query))
