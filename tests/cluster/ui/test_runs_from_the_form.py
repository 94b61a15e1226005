"""Runs that are started and read in the UI, as by a person who has only a browser."""

import json

import pytest

from repot import storage
from repot.settings import FORM_FIELDS, SETTINGS_FIELD, choices
from tests.cluster.session import SMALL_PODS, Session
from tests.cluster.ui.pages import KubeflowUi, RunForm
from tests.cluster.waiting import RUN_SECONDS, TEST_SECONDS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(TEST_SECONDS),
    pytest.mark.usefixtures("promoted", "prepared_cluster"),
]

MAX_FORM_FIELDS = 14
MAX_TITLE_LENGTH = 20


@pytest.fixture
def form(session: Session, ui: KubeflowUi, pipeline_name: str) -> RunForm:
    """Return the form of a new run, with the session's experiment and service account."""
    form = ui.open_run_form(pipeline_name)
    form.choose_experiment(session.name)
    if session.settings.service_account:
        form.enter_service_account(session.settings.service_account)
    return form


def as_shown(value: str | bool) -> str:
    """Return a value of a drop-down list as the UI, written in JavaScript, shows it."""
    return value if isinstance(value, str) else json.dumps(value)


def test_form_is_short_and_has_drop_downs(form: RunForm) -> None:
    assert form.parameters == sorted([*FORM_FIELDS, SETTINGS_FIELD])
    assert len(form.parameters) <= MAX_FORM_FIELDS
    for name in form.parameters:
        expected = choices(name) if name in FORM_FIELDS else ()
        assert form.choices(name) == [as_shown(each) for each in expected]


def test_graph_shows_whole_titles(ui: KubeflowUi, pipeline_name: str) -> None:
    titles = ui.open_pipeline(pipeline_name).titles()

    assert "Train" in titles
    assert all(len(title) <= MAX_TITLE_LENGTH for title in titles)


def test_required_field_alone_starts_a_run(session: Session, form: RunForm) -> None:
    form.fill("pictures_uri", storage.join(session.folder_uri, "pictures"))

    run_id = form.start()

    # The default checkpoint is a download, which not every cluster allows; Plan checks the rest.
    session.kubeflow.wait_for_task(run_id, "plan", seconds=RUN_SECONDS)
    session.kubeflow.terminate(run_id)
    session.kubeflow.end_of(run_id, RUN_SECONDS)


def test_run_from_the_form_is_promoted_and_shows_its_verdict(
    session: Session, ui: KubeflowUi, form: RunForm
) -> None:
    form.fill("pictures_uri", storage.join(session.folder_uri, "pictures"))
    form.fill("checkpoint", storage.join(session.folder_uri, "weights.pth"))
    form.fill("model_name", "from-the-ui")
    form.choose("backbone", SMALL_PODS["backbone"])
    form.choose("recipe", SMALL_PODS["recipe"])
    form.fill("epochs", str(SMALL_PODS["epochs"]))
    form.fill("batch_size", str(SMALL_PODS["batch_size"]))
    rare = ("image_size", "train_shards", "validation_shards")
    form.fill(SETTINGS_FIELD, json.dumps({name: SMALL_PODS[name] for name in rare}))

    run_id = form.start()

    assert session.kubeflow.end_of(run_id, RUN_SECONDS) == "SUCCEEDED"
    assert session.champion("from-the-ui") is not None
    report = ui.read_report(run_id, "evaluate", "report")
    assert "Promoted" in report
    assert "from-the-ui" in report


def test_failed_run_shows_its_reason(session: Session, ui: KubeflowUi, form: RunForm) -> None:
    missing_uri = storage.join(session.folder_uri, "no-pictures")
    form.fill("pictures_uri", missing_uri)

    run_id = form.start()

    assert session.kubeflow.end_of(run_id, RUN_SECONDS) == "FAILED"
    last_lines = ui.read_log(run_id, "Plan").splitlines()[-20:]
    assert "=== plan failed ===" in last_lines
    assert missing_uri in "".join(last_lines)
