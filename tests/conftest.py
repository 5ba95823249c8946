"""Fixtures for every test."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from tests.support.deployment import deployment
from tests.support.measured import measured, show_measured
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.stack import LocalStack

if TYPE_CHECKING:
    from tests.support.champion import Champion

__all__ = ["deployment", "measured", "ray_cluster"]


# The first example of a test may compile kernels, and machines differ; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("csr", deadline=None)
hypothesis.settings.load_profile("csr")


class OneRayCluster(LoadFileScheduling):
    """Shares tests between processes by file, except that all files that use the Ray cluster stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if _uses_ray(file) else file


@cache
def _uses_ray(file: str) -> bool:
    source = (Path(__file__).parent.parent / file).read_text()
    return any(f"tests.support.{name} " in source for name in ("champion", "ray_cluster", "stack"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the Ray cluster come first: they take turns in one process, and the others fill the rest of the time."""
    items.sort(key=lambda item: not _uses_ray(item.nodeid.split("::")[0]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRayCluster:
    """Called by xdist in the process that hands out tests."""
    return OneRayCluster(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Called by pytest at the end."""
    show_measured(terminalreporter)


@pytest.fixture(scope="session")
def champion(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> "Champion":
    """The session's one trained and promoted model."""
    from tests.support.champion import train_and_promote  # Ray and MLflow take seconds to import; most tests need none

    return train_and_promote(tmp_path_factory.mktemp("champion"), ray_cluster)


@pytest.fixture(scope="module")
def stack(
    champion: "Champion", ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """A running stack for one module, ended by `csr down`. One at a time: a Ray cluster holds one encoder."""
    local = LocalStack(tmp_path_factory.mktemp("stack"), champion.registry_uri, ray_cluster.environment)
    try:
        local.up()
        yield local
    finally:
        local.down()
