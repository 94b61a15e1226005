"""A headless browser for the tests of the UI: this machine's Chromium, driven by Playwright."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.cluster.cluster_settings import ClusterSettings

if TYPE_CHECKING:
    from playwright.sync_api import Page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WINDOW = {"width": 1400, "height": 1600}
_UI_SERVICE = "service/ml-pipeline-ui"
_ACTION_MILLISECONDS = 30_000
_FORWARDING = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


@contextlib.contextmanager
def open_page() -> Iterator["Page"]:
    """Yield an empty page of a new browser.

    The browser is the system's: Playwright's own is a download of its own.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="make test-cluster installs Playwright"
    )
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.fail(f"The tests of the UI need one of {', '.join(_BROWSERS)} on PATH.")
    # Chromium refuses its sandbox to root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=program, args=flags)
        page = browser.new_page(viewport=_WINDOW)
        page.set_default_timeout(_ACTION_MILLISECONDS)
        yield page
        browser.close()


@contextlib.contextmanager
def reach_ui(settings: ClusterSettings) -> Iterator[str]:
    """Yield the address of the UI, through `kubectl port-forward` if the settings have none."""
    address = settings.ui or settings.host
    if address:
        yield address.rstrip("/")
        return
    command = ["kubectl", "--namespace", settings.kfp_namespace]
    command += ["port-forward", "--address", "127.0.0.1", _UI_SERVICE, ":80"]
    with subprocess.Popen(
        command,
        env={**os.environ, **settings.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = _FORWARDING.match(line)
            assert found, f"{' '.join(command)}: {line}{process.stdout.read()}"
            yield f"http://{found[1]}"
        finally:
            process.kill()
