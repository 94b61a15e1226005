"""A web server to fetch checkpoints from, and downloads that retry at once."""

from collections.abc import Iterator

import pytest

from repot.checkpoint_fetcher import originals
from tests.web_server import WebServer, running_web_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        yield server


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "RETRY_PAUSES_SECONDS", (0.0, 0.0, 0.0))
