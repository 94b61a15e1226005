"""The report in a browser: nothing is cut off, tables sort, cells open, without a network."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from repot.evaluator.report.data import CellPictures
from repot.evaluator.report.page import render_report
from tests.unit.evaluator.report.test_page import make_slices, make_suspects
from tests.unit.evaluator.samples import make_outcome, make_report_data

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Return this machine's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def write_page(folder: Path, num_labels: int) -> str:
    """Write a report of some labels, every second picture wrong; return its URL."""
    labels = [f"label_{i}_{'long' * (i % 9)}" for i in range(num_labels)]
    outcomes = [
        make_outcome(i, labels[i % num_labels], labels[(i + i % 2) % num_labels])
        for i in range(4 * num_labels + 1)
    ]
    data = make_report_data(outcomes, labels)
    (mistake, *_) = data.mistakes
    outcome = mistake.outcome
    cell = CellPictures(label=outcome.label, predicted=outcome.predicted, pictures=(mistake,))
    data = dataclasses.replace(
        data,
        cells=(cell,),
        slices=make_slices(is_worse=True),
        suspects=make_suspects(num_suspects=5),
    )
    path = folder / f"{num_labels}.html"
    path.write_text(render_report(data), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("num_labels", [2, 4, 30, 1000])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_not_wider_than_the_screen(
    browser: "Browser", tmp_path: Path, num_labels: int, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))

    url = write_page(tmp_path, num_labels)
    page.goto(url)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert {request for request in requests if not request.startswith("data:")} == {url}
    assert errors == []
    page.close()


@pytest.mark.parametrize("num_labels", [2, 30])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_page_works_in_the_sandboxed_frame_of_kubeflow(
    browser: "Browser", tmp_path: Path, num_labels: int, colours: Literal["light", "dark"]
) -> None:
    """Its HTMLViewer sets srcdoc of an iframe that may run scripts, without an origin."""
    context = browser.new_context(color_scheme=colours, viewport={"width": 1000, "height": 700})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    url = "http://kubeflow.test/"
    page.route(
        f"{url}**",
        lambda route: route.fulfill(
            content_type="text/html",
            body="<iframe sandbox='allow-scripts' width=980 height=680></iframe>",
        ),
    )
    page.goto(url)
    report = Path(write_page(tmp_path, num_labels).removeprefix("file://")).read_text("utf-8")
    page.evaluate("html => { document.querySelector('iframe').srcdoc = html; }", report)
    frame = page.frame_locator("iframe")

    head = frame.locator("table.labels").last.locator("thead th").first
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    frame.locator(".cell summary").first.click()
    assert frame.locator(".cell .sheet img").first.is_visible()
    page.keyboard.press("Escape")
    assert not frame.locator(".cell .sheet img").first.is_visible()
    # A link would replace the report with a page of Kubeflow.
    assert frame.locator("a[href]").count() == 0
    assert frame.get_by_text("data.html").first.is_visible()
    assert problems == []
    context.close()


def first_column(page: "Page") -> list[str]:
    rows = page.locator("table.labels").last.locator("tbody tr th:visible")
    return [text.split("\n")[0] for text in rows.all_inner_texts()]


def test_tables_sort_by_keyboard_and_cells_close_with_escape(
    browser: "Browser", tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_page(tmp_path, 30))
    before = first_column(page)

    head = page.locator("table.labels").last.locator("thead th").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    ascending = first_column(page)
    assert [name.split("_")[1] for name in ascending] == [str(i) for i in range(30)]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(page) == ascending[::-1] != before

    page.locator("input[type=search]").last.fill("label_7_")
    assert [name for name in first_column(page) if name] == [ascending[7]]

    summary = page.locator(".cell summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".cell .sheet img").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(".cell .sheet img").is_visible()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.close()


def test_rows_are_sorted_and_filtered_on_a_phone(browser: "Browser", tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(write_page(tmp_path, 30))

    page.locator("select").last.select_option("label, descending")
    page.locator("input[type=search]").last.fill("label_1")

    assert [name.split("_")[1] for name in first_column(page)] == [
        *("19", "18", "17", "16", "15", "14", "13", "12", "11", "10", "1"),
    ]
    page.close()


def test_without_scripts_cells_open_and_no_dead_control_is_shown(
    browser: "Browser", tmp_path: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(write_page(tmp_path, 30))

    assert page.locator("button, select, input").count() == 0
    page.locator(".cell summary").click()
    assert page.locator(".cell .sheet img").is_visible()
    assert page.locator("table.labels").last.locator("tbody tr").count() == 30
    context.close()
