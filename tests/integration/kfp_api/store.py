"""The server's state, and the effect of every API method on it."""

import datetime
import itertools
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from repot.kubernetes_rules import is_object_name
from tests.integration.kfp_api.answers import ApiError
from tests.integration.kfp_api.lists import Query, page_of
from tests.integration.kfp_api.validation import (
    check_cron,
    check_parameters,
    inner_spec,
    read_pipeline,
)
from tests.integration.kfp_api.workflow import (
    Progress,
    make_nodes,
    manifest,
    pods_by_name,
    task_details,
)

Object = dict[str, Any]

ACTIVE_STATES = ("PENDING", "RUNNING", "PAUSED", "CANCELING")
NEVER = "1970-01-01T00:00:00Z"
_START = datetime.datetime(2026, 3, 1, 2, tzinfo=datetime.UTC)


@dataclass
class Store:
    """The server's state; its version is 2.<minor>."""

    minor: int = 17
    is_multi_user: bool = False
    pipeline_store: str = "database"
    pipelines: dict[str, Object] = field(default_factory=dict)
    versions: dict[str, Object] = field(default_factory=dict)
    experiments: dict[str, Object] = field(default_factory=dict)
    runs: dict[str, Object] = field(default_factory=dict)
    schedules: dict[str, Object] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Object] = field(default_factory=dict)
    killed_runs: list[str] = field(default_factory=list)
    _seconds: "itertools.count[int]" = field(default_factory=itertools.count)

    def list_pipelines(self, query: Query) -> Object:
        """List the pipelines of a namespace; "" is the shared one."""
        found = [
            pipeline
            for pipeline in self.pipelines.values()
            if pipeline["namespace"] == self._namespace(query)
        ]
        return page_of(
            found,
            query,
            field="pipelines",
            keys=("pipeline_id", "name", "display_name", "created_at"),
        )

    def create_pipeline(self, body: Object) -> Object:
        """Create a pipeline without a version."""
        name, namespace = body.get("name", ""), self._namespace(body)
        if not name:
            raise ApiError("invalid", "name is required")
        if self.pipeline_store == "kubernetes" and not is_object_name(name):
            raise ApiError("invalid", f'Invalid pipeline name "{name}"')
        if any(
            each["name"] == name and each["namespace"] == namespace
            for each in self.pipelines.values()
        ):
            raise ApiError(
                "taken",
                f"Failed to create a new pipeline. The name {name} already exists. "
                "Please specify a new name",
            )
        pipeline = {
            **body,
            "pipeline_id": self._id(),
            "namespace": namespace,
            "created_at": self._now(),
        }
        pipeline["display_name"] = pipeline.get("display_name") or name
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        return pipeline

    def delete_pipeline(self, pipeline_id: str) -> Object:
        """Delete a pipeline that has no version."""
        self._get(self.pipelines, "Pipeline", pipeline_id)
        if any(version["pipeline_id"] == pipeline_id for version in self.versions.values()):
            raise ApiError(
                "invalid", f"Failed to delete pipeline {pipeline_id}: it has pipeline versions"
            )
        del self.pipelines[pipeline_id]
        return {}

    def upload_version(self, pipeline_id: str, name: str, description: str, text: str) -> Object:
        """Create a version from a YAML file."""
        self._get(self.pipelines, "Pipeline", pipeline_id)
        spec = read_pipeline(text)
        if any(
            each["pipeline_id"] == pipeline_id and each["name"] == name
            for each in self.versions.values()
        ):
            raise ApiError("taken", "Failed to create a pipeline version")
        version: Object = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": self._id(),
            "name": name,
            "display_name": name,
            "description": description,
            "created_at": self._now(),
            "pipeline_spec": spec,
        }
        self.versions[version["pipeline_version_id"]] = version
        return version

    def list_versions(self, pipeline_id: str, query: Query) -> Object:
        """List the versions of a pipeline."""
        self._get(self.pipelines, "Pipeline", pipeline_id)
        found = [
            version for version in self.versions.values() if version["pipeline_id"] == pipeline_id
        ]
        keys = ("pipeline_version_id", "name", "display_name", "created_at")
        return page_of(found, query, field="pipeline_versions", keys=keys)

    def get_version(self, version_id: str) -> Object:
        """Return a version."""
        return self._get(self.versions, "PipelineVersion", version_id)

    def list_experiments(self, query: Query) -> Object:
        """List the experiments of a namespace."""
        found = [
            each
            for each in self.experiments.values()
            if each["namespace"] == self._namespace(query)
        ]
        return page_of(
            found, query, field="experiments", keys=("experiment_id", "display_name", "created_at")
        )

    def create_experiment(self, body: Object) -> Object:
        """Create an experiment; the database compares names without case."""
        name, namespace = body.get("display_name", ""), self._namespace(body)
        for each in self.experiments.values():
            if each["namespace"] == namespace and each["display_name"].lower() == name.lower():
                raise ApiError(
                    "taken",
                    f"Failed to create a new experiment. The name {name} already exists. "
                    "Please specify a new name",
                )
        experiment = {
            **body,
            "experiment_id": self._id(),
            "namespace": namespace,
            "created_at": self._now(),
        }
        self.experiments[experiment["experiment_id"]] = experiment
        return experiment

    def create_run(self, body: Object) -> Object:
        """Start a run; it is PENDING and has no tasks yet."""
        if not body.get("display_name"):
            raise ApiError("internal", "Run name cannot be empty")
        self._get(self.experiments, "Experiment", body.get("experiment_id", ""))
        try:
            spec, reference = self._source(body, pin=True)
        except ApiError as err:
            raise ApiError(
                "internal", f"Failed to create a run due to error fetching manifest: {err}"
            ) from err
        check_parameters(spec, body.get("runtime_config", {}).get("parameters", {}))
        run_id = self._id()
        self.runs[run_id] = {
            **body,
            "run_id": run_id,
            "state": "PENDING",
            "created_at": self._now(),
            "finished_at": NEVER,
            "service_account": body.get("service_account") or "pipeline-runner",
            "pipeline_version_reference": reference,
            "state_history": [{"state": "PENDING"}],
        }
        return self.runs[run_id]

    def get_run(self, run_id: str) -> Object:
        """Return a run."""
        return self._get(self.runs, "Run", run_id)

    def list_runs(self, query: Query) -> Object:
        """List the runs of an experiment."""
        found = [
            run
            for run in self.runs.values()
            if run["experiment_id"] == query.get("experiment_id", run["experiment_id"])
        ]
        return page_of(
            found,
            query,
            field="runs",
            keys=("run_id", "display_name", "created_at", "state", "experiment_id"),
        )

    def set_run(self, run_id: str, state: str, progress: Progress | None = None) -> None:
        """Advance a run: set its state and the phases of its tasks."""
        run = self.runs[run_id]
        run["state"] = state
        run["state_history"] = [*run["state_history"], {"state": state}]
        if progress is not None:
            spec = inner_spec(self._source(run, pin=True)[0])
            nodes = make_nodes(spec, self.workflow(run_id), progress)
            run["run_details"] = {"task_details": task_details(nodes, self.workflow(run_id))}
            self.manifests[run_id] = manifest(nodes, self.workflow(run_id))

    def get_run_v1(self, run_id: str) -> Object:
        """Return a run as the old API does: with the Argo workflow as text."""
        run = self.get_run(run_id)
        text = json.dumps(self.manifests.get(run_id, {}))
        return {
            "run": {"id": run_id, "name": run["display_name"]},
            "pipeline_runtime": {"workflow_manifest": text},
        }

    def terminate_run(self, run_id: str) -> Object:
        """Terminate a run; it is CANCELING until its pods have ended."""
        run = self._get(self.runs, "Run", run_id)
        if run["state"] not in ACTIVE_STATES:
            raise ApiError("invalid", f"Failed to terminate a run {run_id}: it has ended")
        self.set_run(run_id, "CANCELING")
        return {}

    def set_log(self, run_id: str, path: str, text: str, progress: Progress) -> None:
        """Set the log of the pod of the node at a path, e.g. `root.train.executor`."""
        workflow = self.workflow(run_id)
        nodes = make_nodes(
            inner_spec(self._source(self.runs[run_id], pin=True)[0]), workflow, progress
        )
        pods = {
            node.path.replace("(0)", ""): pod for pod, node in pods_by_name(nodes, workflow).items()
        }
        pod = pods[f"{workflow}.{path}"]
        self.logs[pod] = text

    def workflow(self, run_id: str) -> str:
        """Return the name of a run's Argo workflow."""
        return f"repot-finetune-{run_id[:5]}"

    def create_schedule(self, body: Object) -> Object:
        """Create a recurring run; names need not be unique."""
        if not body.get("display_name"):
            raise ApiError("internal", "Recurring run's name cannot be empty")
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise ApiError(
                "invalid", "Max concurrency of a recurring run must be at least 1 and at most 10."
            )
        check_cron(body.get("trigger", {}).get("cron_schedule", {}).get("cron", ""))
        self._get(self.experiments, "Experiment", body.get("experiment_id", ""))
        spec, reference = self._source(body, pin=False)
        check_parameters(spec, body.get("runtime_config", {}).get("parameters", {}))
        schedule_id = self._id()
        is_enabled = body.get("mode") == "ENABLE"
        self.schedules[schedule_id] = {
            **body,
            "recurring_run_id": schedule_id,
            "namespace": self._namespace(body) or "kubeflow",
            "service_account": body.get("service_account") or "pipeline-runner",
            "status": "ENABLED" if is_enabled else "DISABLED",
            "created_at": self._now(),
            "pipeline_version_reference": reference,
        }
        return self.schedules[schedule_id]

    def list_schedules(self, query: Query) -> Object:
        """List every recurring run."""
        keys = ("recurring_run_id", "display_name", "created_at")
        return page_of(list(self.schedules.values()), query, field="recurringRuns", keys=keys)

    def set_schedule(self, schedule_id: str, *, enabled: bool) -> Object:
        """Pause or resume a recurring run."""
        schedule = self._get(self.schedules, "Job", schedule_id)
        schedule["status"], schedule["mode"] = (
            ("ENABLED", "ENABLE") if enabled else ("DISABLED", "DISABLE")
        )
        return {}

    def delete_schedule(self, schedule_id: str, query: Query) -> Object:
        """Delete a recurring run and its active runs; since 2.16 the caller can orphan the runs."""
        self._get(self.schedules, "Job", schedule_id)
        if self.minor < 16 or query.get("propagation_policy") != "ORPHAN":
            for run in list(self.runs.values()):
                if run.get("recurring_run_id") == schedule_id and run["state"] in ACTIVE_STATES:
                    self.killed_runs.append(run["run_id"])
                    run["state"] = "FAILED"
        del self.schedules[schedule_id]
        return {}

    def fire(self, schedule_id: str) -> str:
        """Start the next run of a schedule and return the run's id."""
        schedule = self.schedules[schedule_id]
        reference = {"pipeline_version_reference": schedule["pipeline_version_reference"]}
        body = {
            "display_name": f"{schedule['display_name']} 1",
            "experiment_id": schedule["experiment_id"],
            **reference,
        }
        run = self.create_run({**body, "runtime_config": schedule.get("runtime_config", {})})
        run["recurring_run_id"] = schedule_id
        return str(run["run_id"])

    def _source(self, body: Object, *, pin: bool) -> tuple[Object, Object]:
        """Return the spec of a run or schedule, and the version reference to store."""
        reference = dict(body.get("pipeline_version_reference") or {})
        if body.get("pipeline_spec"):
            return body["pipeline_spec"], reference
        if reference.get("pipeline_version_id"):
            version = self._get(self.versions, "PipelineVersion", reference["pipeline_version_id"])
            return version["pipeline_spec"], reference
        found = [
            each
            for each in self.versions.values()
            if each["pipeline_id"] == reference.get("pipeline_id")
        ]
        if not found:
            raise ApiError(
                "missing", f"PipelineVersion of {reference.get('pipeline_id')} not found"
            )
        latest = max(found, key=lambda version: version["created_at"])
        pinned = {**reference, "pipeline_version_id": latest["pipeline_version_id"]}
        return latest["pipeline_spec"], pinned if pin else reference

    def _get(self, objects: dict[str, Object], kind: str, identifier: str) -> Object:
        if identifier not in objects:
            raise ApiError("missing", f"{kind} {identifier} not found")
        return objects[identifier]

    def _namespace(self, request: Object | Query) -> str:
        """Return the namespace of a request; a single-user server ignores it."""
        return str(request.get("namespace") or "") if self.is_multi_user else ""

    def _id(self) -> str:
        return str(uuid.uuid4())

    def _now(self) -> str:
        return f"{_START + datetime.timedelta(seconds=next(self._seconds)):%Y-%m-%dT%H:%M:%SZ}"
