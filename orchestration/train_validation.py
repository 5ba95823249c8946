"""Quality while training: a few held-out questions, asked of the codes as they are, and when to stop for lack of it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from csr_model import CSRConfig, Training, metrics
from csr_model.adapter import CSRAdapter, adapter_of
from csr_model.embeddings import checked_rows
from orchestration.train_files import TrainingRows
from orchestration.validation_set import HeldOutRows

QUERIES_MAX: Final = 2_000
DOCUMENTS_MAX: Final = 20_000
"""Besides those that the queries want."""
_TOP: Final = 10

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Questions:
    """Held-out queries, the documents they search, and who is right.

    Attributes:
        documents: [m, d].
        queries: [q, d].
        judge: Found documents [q, ≤ 10] → quality of each query, 0 … 1.
    """

    documents: Array
    queries: Array
    judge: Callable[[Array], Array]

    @classmethod
    def of(cls, rows: TrainingRows, held_out: HeldOutRows) -> Self:
        """Read them: nDCG@10 for pairs, else 1-NN accuracy for labels, else recall of 10 dense neighbours."""
        thin = held_out.thinned(QUERIES_MAX, DOCUMENTS_MAX)
        documents, queries = np.asarray(rows.embeddings[thin.documents]), np.asarray(rows.embeddings[thin.queries])
        if (relevant := thin.relevant) is not None:
            return cls(documents, queries, lambda found: metrics.ndcgs(found, relevant, _TOP))
        if rows.labels is not None:
            known, wanted = rows.labels[thin.documents], rows.labels[thin.queries]
            return cls(documents, queries, lambda found: metrics.one_nn_hits(found, known, wanted))
        nearest = metrics.dense_neighbours(documents, queries, min(_TOP, len(documents)))
        return cls(documents, queries, lambda found: metrics.recalls(found, nearest))

    def score(self, training: Training) -> float:
        """Return the mean quality over queries and levels, 0 … 1, of a training as it stands."""
        adapter = self._adapter(training)
        documents, queries = (adapter.encode(rows, adapter.k_max) for rows in (self.documents, self.queries))
        top = min(_TOP, len(self.documents))
        found = [
            metrics.sparse_neighbours(documents.prefix(k), queries.prefix(k), adapter.hidden_dim, top)
            for k in adapter.levels
        ]
        return float(np.mean([self.judge(each) for each in found]))

    def _adapter(self, training: Training) -> CSRAdapter:
        # Not training.adapter(): that encodes up to 65,536 rows to count how latents are used.
        weights = copy.deepcopy(training.autoencoder).cpu()
        config: CSRConfig = training.config
        sample = checked_rows(self.documents[:1], config.input_dim)
        return adapter_of(weights, config.levels, sample, 0, {}, {})


@dataclass
class BestEpoch:
    """The best validation score so far, and whether to go on.

    Attributes:
        patience: Epochs without a better score after which to stop; None never stops.
        score: The best one; None before the first.
        epoch: That had it, from 0.
        weights: The autoencoder's state then; None without patience, where the last epoch counts.
        metrics: Of that epoch.
    """

    patience: int | None
    score: float | None = None
    epoch: int = -1
    weights: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None

    def note(self, score: float, metrics: Mapping[str, float], training: Training) -> None:
        """Take in the score of the epoch that has just ended, with whatever else is known of it."""
        if self.score is not None and score <= self.score:
            return
        self.score, self.epoch = score, training.history[-1].epoch
        if self.patience is not None:
            self.weights = copy.deepcopy(training.autoencoder.state_dict())
            self.metrics = dict(metrics)

    def exhausted(self, training: Training) -> bool:
        """Tell whether patience has run out by the end of the newest epoch."""
        if self.patience is None or self.score is None or not training.history:
            return False
        return training.history[-1].epoch - self.epoch >= self.patience
