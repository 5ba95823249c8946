"""Fixtures for every test."""

from tests.support.deployment import deployment
from tests.support.ray_cluster import ray_cluster
from tests.support.stack import champion, stack

__all__ = ["champion", "deployment", "ray_cluster", "stack"]
