"""Fixtures for every test."""

from tests.support.deployment import deployment
from tests.support.ray_cluster import ray_cluster

__all__ = ["deployment", "ray_cluster"]
