"""What is compared: an engine answers one query on one thread, or many on all."""

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from benchmarks.index_search.codes import RowNumbers

THREADS = len(os.sched_getaffinity(0))

AnswerAll: TypeAlias = Callable[[RowNumbers, int], object]
"""(query rows, threads) → nothing of interest."""


@dataclass(frozen=True)
class Engine:
    """One way to search the documents of a cut.

    Attributes:
        name: Unique in a comparison.
        searches: Codes, or the embeddings behind them.
        exact: Whether it finds the best documents by construction.
        answer: Query row → answer in the engine's own form, on one thread.
        rows: Answer → rows of documents, best first.
        answer_all: Answers many queries.
        build_seconds: From codes or embeddings in arrays to an index that answers, on all threads that it uses.
        bytes: Held, or None where it cannot be told.
        settings: What was chosen for it, or by it.
        close: Gives back files and threads.
    """

    name: str
    searches: Literal["codes", "embeddings"]
    exact: bool
    answer: Callable[[int], Any]
    rows: Callable[[Any], list[int]]
    answer_all: AnswerAll
    build_seconds: float
    bytes: int | None
    settings: Callable[[], str] = str
    close: Callable[[], object] = lambda: None


class NotInstalled(Exception):
    """A package of another engine is missing; the text says which."""


def package(module: str, requirement: str) -> Any:
    """Import another engine's package.

    Raises:
        NotInstalled: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalled(f"not installed (pip install {requirement})") from error


def over_threads(work: Callable[[RowNumbers], object]) -> AnswerAll:
    """Return what runs `work` on equal shares of the queries, a thread each."""

    def run(queries: RowNumbers, threads: int) -> object:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, np.array_split(queries, threads)))

    return run
