"""Fixtures of the tests on a real cluster; without one they are skipped, or refused where they were asked for."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.errors import UsageError
from tests.cluster.cluster_settings import ClusterSettings, read_settings
from tests.cluster.command_line import Ended
from tests.cluster.site import Site, open_site

MARK = "cluster"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need a cluster where none is named; with `-m cluster` that is an error."""
    mine = [
        item
        for item in items
        if item.get_closest_marker(MARK) and Path(__file__).parent in item.path.parents
    ]
    if not mine:
        return
    try:
        read_settings(os.environ, Path.home())
    except UsageError as err:
        told = f"no cluster to test on, see tests/cluster/cluster_settings.py: {' '.join(err.problems)}"
        if MARK in (config.getoption("markexpr") or ""):
            raise pytest.UsageError(told) from err
        for item in mine:
            item.add_marker(pytest.mark.skip(reason=told))


@pytest.fixture(scope="session")
def settings() -> Iterator[ClusterSettings]:
    """Return the cluster that the variables name; this process and its children come to the same store."""
    found = read_settings(os.environ, Path.home())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.variables.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="session")
def site(settings: ClusterSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield what all tests share; at the end nothing of it is left."""
    with open_site(
        settings, f"cluster-tests-{secrets.token_hex(4)}", tmp_path_factory.mktemp("site")
    ) as site:
        yield site


@pytest.fixture(scope="session")
def promoted(site: Site) -> Ended:
    """Return how the first run ended: its data set, weights and training are there for all others."""
    return site.submit("first").expect(0)
