"""Fixtures of the tests on a real cluster; without cluster settings the tests are skipped.

With `-m cluster`, missing settings are an error.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.errors import UsageError
from tests.cluster.cluster_settings import ClusterSettings, read_settings
from tests.cluster.command_line import CommandResult
from tests.cluster.session import Session, open_session

MARK = "cluster"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests on a cluster if its settings are missing; with `-m cluster`, fail."""
    cluster_items = [
        item
        for item in items
        if item.get_closest_marker(MARK) and Path(__file__).parent in item.path.parents
    ]
    if not cluster_items:
        return
    try:
        read_settings(os.environ, Path.home())
    except UsageError as err:
        problems = " ".join(err.problems)
        reason = f"no cluster to test on, see tests/cluster/cluster_settings.py: {problems}"
        if MARK in (config.getoption("markexpr") or ""):
            raise pytest.UsageError(reason) from err
        for item in cluster_items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def settings() -> Iterator[ClusterSettings]:
    """Yield the settings, with their variables set for this process and its children."""
    found = read_settings(os.environ, Path.home())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.variables.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="session")
def session(
    settings: ClusterSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """Yield what all tests share; everything is deleted at the end."""
    with open_session(
        settings, f"cluster-tests-{secrets.token_hex(4)}", tmp_path_factory.mktemp("session")
    ) as session:
        yield session


@pytest.fixture(scope="session")
def promoted(session: Session) -> CommandResult:
    """Return the result of the first run; other runs reuse its dataset, weights and training."""
    return session.submit("first").expect(0)
