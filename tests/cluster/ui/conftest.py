"""Fixtures of the tests that use the web page of Kubeflow Pipelines in a browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.settings import CLUSTER_KEYS
from tests.cluster.session import SMALL_PODS, Session
from tests.cluster.ui.browser import open_page, reach_ui
from tests.cluster.ui.pages import KubeflowUi

# The UI adds a version to an existing pipeline, or creates one: the tests do the latter.
_SUFFIX = "-ui"


@pytest.fixture(scope="module")
def ui(session: Session) -> Iterator[KubeflowUi]:
    """Yield the UI in a browser."""
    with reach_ui(session.settings) as address, open_page() as page:
        yield KubeflowUi(page, address)


@pytest.fixture(scope="module")
def compiled(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the pipeline as a release has it: compiled with the images of the cluster."""
    path = tmp_path_factory.mktemp("compiled") / "finetune.yaml"
    image = session.settings.image
    images = ("--cpu-image", image, "--trainer-image", image)
    session.commands.run("compile", "--output", str(path), *images).expect(0)
    return path


@pytest.fixture(scope="module")
def pipeline_name(session: Session, ui: KubeflowUi, compiled: Path) -> str:
    """Upload the pipeline, and return its name."""
    name = session.name + _SUFFIX
    ui.upload_pipeline(name, compiled)
    return name


@pytest.fixture(scope="module")
def prepared_cluster(session: Session) -> Iterator[None]:
    """Give the cluster's ConfigMap the defaults that its administrator would, for small pods."""
    defaults = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, name in CLUSTER_KEYS.items()
        if (value := SMALL_PODS.get(name)) is not None
    }
    defaults |= {"STORAGE_URI": session.storage_uri, "TRAINER_IMAGE": session.settings.image}
    with session.cluster.config_map_values(session.settings.config_map, defaults):
        yield
