"""What people read after an evaluation, from a version in a real registry."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from csr_model import CSRAdapter
from orchestration.cli.model_views import evaluate_version, evaluation_table
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluation import Evaluation
from orchestration.registry import Registry
from tests.orchestration.conftest import Register

EvaluateAt = Callable[[int | None, int | None], Evaluation]


@pytest.fixture
def labelled(split: EmbeddedSplit, held_out: EmbeddedSplit) -> EmbeddedSet:
    """Training rows are searched, labels decide."""
    return EmbeddedSet("labelled", split, None, split, held_out, None)


@pytest.fixture
def evaluated(
    request: pytest.FixtureRequest,
    register: Register,
    registry: Registry,
    adapters: list[CSRAdapter],
    labelled: EmbeddedSet,
) -> EvaluateAt:
    """Return a function that evaluates a registered version at k_query and k_docs."""
    version = register(request.node.name.split("[")[0], adapters[0])
    return lambda k_query, k_docs: evaluate_version(registry, labelled, version, k_query, k_docs)


def shown(evaluation: Evaluation) -> str:
    """Return the table as a terminal of 120 columns shows it."""
    console = Console(file=StringIO(), width=120)
    console.print(evaluation_table(evaluation))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_one_side_can_be_chosen_and_the_other_takes_every_level(evaluated: EvaluateAt) -> None:
    """`csr evaluate --k-query 8` would measure something else than it says."""

    def measured(k_query: int | None, k_docs: int | None) -> list[tuple[int, int]]:
        evaluation = evaluated(k_query, k_docs)
        searches = [*(level.search for level in evaluation.levels), *evaluation.asymmetric]
        return [(search.k_query, search.k_docs) for search in searches]

    assert measured(8, None) == [(8, 8), (8, 2), (8, 4)]
    assert measured(None, 2) == [(2, 2), (4, 2), (8, 2)]
    assert measured(12, 4) == [(12, 4)]


def test_a_table_shows_what_the_set_offers_and_no_empty_column(evaluated: EvaluateAt) -> None:
    """People would look for numbers among dashes, or miss the dense line to compare with."""
    evaluation = evaluated(None, None)
    text = shown(evaluation)
    lines = [line for line in text.splitlines() if "│" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["2", "4", "8", "2, queries 8", "4, queries 8", "dense"]
    for column in ("1-NN", "re-ranked", "probe", "V", "dense@10", "dead", "bytes"):
        assert column in text
    assert "nDCG" not in text
    assert "R@1" not in text
    assert f"{100 * evaluation.levels[0].search.hits.known()['one_nn']:.1f}" in lines[0]
    assert f"{100 * evaluation.dense.known()['one_nn']:.1f}" in lines[-1]
    assert "120 queries, 320 documents, 48 latents" in text


def test_a_table_of_relevance(
    registry: Registry, register: Register, adapters: list[CSRAdapter], labelled: EmbeddedSet
) -> None:
    """Retrieval would be judged by the wrong first number."""
    relevant = np.array([(query, query) for query in range(120)], np.int64)
    judged = replace(labelled, queries=replace(labelled.queries, labels=None), relevant=relevant)
    evaluation = evaluate_version(registry, judged, register("table-of-relevance", adapters[0]))
    text = shown(evaluation)
    for column in ("nDCG@10", "R@1", "R@10", "back R@10"):
        assert column in text
    assert "probe" not in text
    first = next(line for line in text.splitlines() if "│" in line)
    assert f"{100 * evaluation.levels[0].search.reranked.known()['ndcg']:.1f}" in first
