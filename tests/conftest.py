"""Fixtures for every test."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.deployment import deployment
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.stack import LocalStack

if TYPE_CHECKING:
    from tests.support.champion import Champion

__all__ = ["deployment", "ray_cluster"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together when two processes share them: those on the one Ray cluster, else a file's."""
    for item in items:
        on_ray = "ray_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else str(item.path)))


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
