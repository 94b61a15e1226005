"""What a person does and reads in the UI of Kubeflow Pipelines 2.17: upload, form, run, task."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_RUN_ADDRESS = re.compile(r"#/runs/details/([^/?]+)")
_FORM_ADDRESS = re.compile(r"#/runs/new\?")
# A parameter's label is its name and type: "batch_size - integer".
_LABEL = re.compile(r"(\w+) - \w+")
_DROP_DOWN_ROLE = "combobox"


@dataclass(frozen=True)
class RunForm:
    """The form that starts a run.

    Attributes:
        page: The page that shows it.
    """

    page: "Page"

    @property
    def parameters(self) -> list[str]:
        """Return the names of the parameters, from top to bottom."""
        labels = self.page.locator("label").all_inner_texts()
        return [found[1] for label in labels if (found := _LABEL.match(label.strip()))]

    def choices(self, name: str) -> list[str]:
        """Return the choices of a parameter's drop-down list; [] if it is a text field."""
        field = self._field(name)
        if field.get_attribute("role") != _DROP_DOWN_ROLE:
            return []
        field.click()
        choices = self.page.get_by_role("option").all_inner_texts()
        self.page.keyboard.press("Escape")
        return [choice.strip() for choice in choices]

    def fill(self, name: str, value: str) -> None:
        """Type the value of a parameter; that of a list or object is JSON."""
        self._field(name).fill(value)

    def choose(self, name: str, value: str) -> None:
        """Choose the value of a parameter from its drop-down list."""
        self._field(name).click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def choose_experiment(self, name: str) -> None:
        """Select an experiment in the dialog that lists them."""
        self.page.get_by_label("Experiment", exact=False).locator("..").get_by_role(
            "button", name="Choose"
        ).click()
        dialog = self.page.locator("#experimentSelectorDialog")
        dialog.get_by_text(name, exact=True).click()
        dialog.get_by_role("button", name="Use this experiment").click()

    def enter_service_account(self, name: str) -> None:
        """Type the service account of the run's pods."""
        self.page.get_by_label("Service Account").fill(name)

    def start(self) -> str:
        """Start the run, and return its id."""
        self.page.get_by_role("button", name="Start", exact=True).click()
        self.page.wait_for_url(_RUN_ADDRESS)
        found = _RUN_ADDRESS.search(self.page.url)
        assert found is not None
        return found[1]

    def _field(self, name: str) -> "Locator":
        # The label of a drop-down list is not connected to its field.
        return self.page.locator(f"[id='{name}']")


@dataclass(frozen=True)
class KubeflowUi:
    """The web page of Kubeflow Pipelines.

    Attributes:
        page: The browser page.
        address: URL of the UI.
    """

    page: "Page"
    address: str

    def upload_pipeline(self, name: str, path: Path) -> None:
        """Upload a compiled pipeline under a new name; its graph is shown afterwards."""
        self._open("/pipeline_versions/new")
        self.page.get_by_label("Pipeline Name").fill(name)
        self.page.get_by_label("Upload a file").check()
        self.page.locator("input[type=file]").set_input_files(path)
        self.page.get_by_role("button", name="Create", exact=True).click()
        self.page.get_by_role("button", name="Create run").wait_for()

    def open_pipeline(self, name: str) -> "KubeflowUi":
        """Select a pipeline in the list; its graph is shown."""
        self._open("/pipelines")
        self.page.get_by_role("link").get_by_text(name, exact=True).click()
        self.page.get_by_role("button", name="Create run").wait_for()
        return self

    def open_run_form(self, pipeline_name: str) -> RunForm:
        """Press "Create run" on the page of a pipeline, and return the form."""
        self.open_pipeline(pipeline_name)
        self.page.get_by_role("button", name="Create run").click()
        self.page.wait_for_url(_FORM_ADDRESS)
        self.page.get_by_role("button", name="Start", exact=True).wait_for()
        return RunForm(self.page)

    def titles(self) -> list[str]:
        """Return the texts of the graph's nodes as they are shown, cut off where they are."""
        self.page.locator(".react-flow__node").first.wait_for()
        nodes = self.page.locator(".react-flow__node").all_inner_texts()
        return [text.strip().splitlines()[-1] for text in nodes if text.strip()]

    def read_log(self, run_id: str, task: str) -> str:
        """Return the log of a task as the UI shows it."""
        self._open_run(run_id)
        self.page.locator(".react-flow__node").get_by_text(task, exact=True).click()
        self.page.get_by_role("button", name="Logs", exact=True).click()
        view = self.page.get_by_test_id("logs-view-window")
        view.wait_for()
        return str(view.inner_text())

    def read_report(self, run_id: str, task: str, artifact: str) -> str:
        """Return the text of a task's HTML artifact, from its Visualization tab."""
        self._open_run(run_id)
        # Two tasks have a report, and one of them runs.
        self.page.locator(f"[data-id='artifact.{task}.{artifact}']").click()
        self.page.get_by_role("button", name="Visualization", exact=True).click()
        body = self.page.frame_locator("iframe").locator("body")
        body.wait_for()
        return str(body.inner_text())

    def _open_run(self, run_id: str) -> None:
        self._open(f"/runs/details/{run_id}")
        # A node that is selected before its task's state has arrived stays without details.
        self.page.wait_for_load_state("networkidle")

    def _open(self, path: str) -> None:
        # The address differs only behind "#", so that without a reload an old page may stay.
        self.page.goto(f"{self.address}/#{path}")
        self.page.reload()
