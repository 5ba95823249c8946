"""The `csr` command. Each module registers the commands of one topic on the one app."""

from orchestration.cli import (
    bench,
    collections,
    data,
    demo,
    doctor,
    documents,
    interchange,
    models,
    servers,
    stack,
    warmup,
)
from orchestration.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "collections",
    "data",
    "demo",
    "doctor",
    "documents",
    "interchange",
    "main",
    "models",
    "servers",
    "stack",
    "warmup",
]
