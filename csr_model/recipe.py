"""What to train when nothing is said: at most four fixed candidates, and the one that validation prefers.

Candidates follow from what the data offers (labels, pairs, neither; rows; dimension), never from what it is.
Each is trained for a quarter of the time on nine tenths of the rows or pairs and scored on the last tenth;
the winner is then trained in full, on everything. The rule is the same on every set.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from csr_model import metrics
from csr_model.batches import Pairs
from csr_model.collectives import from_first_rank
from csr_model.config import CSRConfig
from csr_model.embeddings import spread_rows, summarize
from csr_model.errors import InvalidTrainingData
from csr_model.supervision import usable_labels, usable_pairs
from csr_model.training import Training
from csr_model.validation import held_out

_PROBE_SHARE = 0.25
_ROWS_MAX = 100_000
_QUERIES_MAX = 2_000
_QUERIES_MIN = 50
_TOP = 10

log = logging.getLogger("csr_model")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Choice:
    """What the recipe decided.

    Attributes:
        name: Of the candidate.
        config: To train.
        scores: Validation score of each candidate, 0 … 1, mean over the levels: 1-NN accuracy with labels,
            nDCG@10 of held-out pairs with pairs. Empty where there is only one candidate.
        seconds: Spent on choosing; part of the training time.
    """

    name: str
    config: CSRConfig
    scores: dict[str, float]
    seconds: float


def candidates(
    input_dim: int, rows: int, labelled: bool = False, paired: bool = False, **chosen: Any
) -> dict[str, CSRConfig]:
    """Return the configurations to choose from, by name; fields in `chosen` win in each.

    Pairs, where there are any, decide over labels: they say what searches should find.

    Args:
        input_dim: d.
        rows: Training rows.
        labelled: Labels can be learned.
        paired: Pairs can be learned.
        chosen: Fields of `CSRConfig`.
    """
    options: dict[str, dict[str, Any]] = {"reconstruction": {}}
    if paired:
        options = {"map of pairs": {"linear_map": "pairs"}, "pairs": {"gamma_pairs": 0.1}}
    elif labelled:
        short: dict[str, Any] = {"expansion": 4, "rows_seen": 100_000}
        options = {
            "labels": short | {"gamma_labels": 1.0, "learning_rate": 2e-3, "input_dropout": 0.15},
            "map of labels": short | {"linear_map": "labels", "map_temperature": 0.1},
        }
    return {name: CSRConfig.automatic(input_dim, rows, **(fields | chosen)) for name, fields in options.items()}


def choose(
    embeddings: Array,
    labels: Array | None = None,
    pairs: Pairs | None = None,
    ids: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda objective: objective,
    chosen: Mapping[str, Any] | None = None,
) -> Choice:
    """Return the configuration that `fit` uses when none is given; every rank returns the same.

    Args:
        embeddings: [n, d].
        labels: [n], or None.
        pairs: Rows of the embeddings, or None.
        ids: [n] names of the rows, which decide what is held out; by default their numbers.
        device: Where to train.
        wrap: As for `Training`.
        chosen: Fields of `CSRConfig` that are given.

    Raises:
        InvalidTrainingData, InvalidVector, InvalidConfig: As `Training`.
    """
    rows, input_dim = embeddings.shape
    options = candidates(input_dim, rows, labels is not None, pairs is not None, **(chosen or {}))
    first = next(iter(options))
    if len(options) == 1:
        return _chosen(Choice(first, options[first], {}, 0.0))
    started = time.perf_counter()
    summarize(embeddings, next(iter(options.values())).normalize)  # names a bad row by its own number
    mask = held_out([str(row) for row in range(rows)] if ids is None else ids)
    probe = _paired_probe(embeddings, pairs, mask) if pairs is not None else _labelled_probe(embeddings, labels, mask)
    scores: dict[str, float] = {}
    if probe.trustworthy(options[first]):
        try:
            for name, config in options.items():
                scores[name] = from_first_rank(probe.score(config, device, wrap), device)
                log.info("candidate %r: validation %.4f", name, scores[name])
        except InvalidTrainingData as error:
            log.warning("no choice: what is not held out cannot be learned from (%s)", error)
            scores = {}
    best = max(scores, key=lambda name: scores[name], default=first)
    return _chosen(Choice(best, options[best], scores, time.perf_counter() - started))


@dataclass(frozen=True)
class _Probe:
    """Rows to train a candidate on, and held-out questions to ask it.

    Attributes:
        embeddings: [n, d] training rows.
        labels: [n], or None.
        pairs: Rows of `embeddings`, or None.
        documents: [m, d] to search.
        queries: [q, d], held out.
        judge: Found documents [q, n], best first → quality of each query, 0 … 1.
    """

    embeddings: Array
    labels: Array | None
    pairs: Pairs | None
    documents: Array
    queries: Array
    judge: Callable[[Array], Array]

    def trustworthy(self, config: CSRConfig) -> bool:
        """True when there are enough rows to train on and queries to tell candidates apart."""
        examples = len(self.embeddings) if self.pairs is None else len(self.pairs.queries)
        return len(self.queries) >= _QUERIES_MIN and examples >= config.batch_size

    def score(self, config: CSRConfig, device: torch.device | str, wrap: Callable[[nn.Module], nn.Module]) -> float:
        """Train a candidate for a quarter of its time and return its mean quality over queries and levels."""
        short = dataclasses.replace(config, epochs=max(1, round(_PROBE_SHARE * config.epochs)))
        training = Training(short, self.embeddings, self.labels, self.pairs, device, wrap)
        while not training.done:
            training.run_epoch()
        adapter = training.adapter()
        found = min(_TOP + 1, len(self.documents))  # one more than is judged, as a query may find itself
        documents, queries = adapter.encode(self.documents, adapter.k_max), adapter.encode(self.queries, adapter.k_max)
        return float(
            np.mean(
                [
                    self.judge(
                        metrics.sparse_neighbours(documents.prefix(k), queries.prefix(k), adapter.hidden_dim, found)
                    )
                    for k in adapter.levels
                ]
            )
        )


def _chosen(choice: Choice) -> Choice:
    log.info("recipe: %s, %s", choice.name, choice.config.to_json())
    return choice


def _labelled_probe(embeddings: Array, labels: Array | None, mask: Array) -> _Probe:
    numbers = usable_labels(labels, len(embeddings))
    kept, asked = _sample(np.flatnonzero(~mask), _ROWS_MAX), _sample(np.flatnonzero(mask), _QUERIES_MAX)
    known, wanted = numbers[kept], numbers[asked]

    def judge(found: Array) -> Array:
        return metrics.one_nn_hits(found, known, wanted)

    rows = np.asarray(embeddings[kept])
    return _Probe(rows, known, None, rows, np.asarray(embeddings[asked]), judge)


def _paired_probe(embeddings: Array, pairs: Pairs, mask: Array) -> _Probe:
    """Hold out the pairs of some queries; their documents stay, as they would in an index.

    A query that is also some pair's document finds itself first, which says nothing and is left out.
    """
    pairs = usable_pairs(pairs, len(embeddings), 0)
    asked = _sample(np.unique(pairs.queries[mask[pairs.queries]]), _QUERIES_MAX)
    learned = ~mask[pairs.queries]
    kept = np.setdiff1d(np.arange(len(embeddings)), pairs.queries[~learned])
    kept = np.union1d(kept, pairs.documents[learned])
    if len(kept) > _ROWS_MAX:
        some = _sample(np.flatnonzero(learned), _ROWS_MAX // 4)
        needed = np.concatenate([pairs.queries[some], pairs.documents[some]])
        kept = np.union1d(needed, _sample(kept, _ROWS_MAX // 2))
        learned = np.isin(np.arange(len(learned)), some)
    inside = Pairs(*(np.searchsorted(kept, side[learned]) for side in pairs))
    questions = np.isin(pairs.queries, asked)
    searched = np.union1d(pairs.documents[questions], _sample(np.unique(pairs.documents), _ROWS_MAX // 2))
    relevant = np.stack(
        [np.searchsorted(asked, pairs.queries[questions]), np.searchsorted(searched, pairs.documents[questions])],
        axis=1,
    )

    def judge(found: Array) -> Array:
        itself = searched[found] == asked[:, None]
        order = np.argsort(itself, axis=1, kind="stable")
        others = np.where(np.take_along_axis(itself, order, 1), -1, np.take_along_axis(found, order, 1))
        return metrics.ndcgs(others, relevant, _TOP)

    return _Probe(embeddings[kept], None, inside, embeddings[searched], embeddings[asked], judge)


def _sample(rows: Array, count: int) -> Array:
    """Return at most `count` of the rows, spread evenly."""
    chosen: Array = rows[spread_rows(len(rows), count)]
    return chosen
