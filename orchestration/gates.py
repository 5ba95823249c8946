"""What a version must show before it may serve. Pure: evaluations in, a table of verdicts out."""

from dataclasses import dataclass
from typing import Final, Literal

from orchestration.evaluate import Evaluation, LevelQuality

ONE_NN_OF_DENSE_MIN: Final = ((32, 0.93), (16, 0.90), (8, 0.85))
"""(from this k on, least share of dense 1-NN accuracy); below 8 there is no floor. Label-free adapters keep 0.97, 0.97
and 0.99 of it at k = 8, 16 and 32 on 20 Newsgroups; the floors leave room for harder sets and shorter runs."""

RERANKED_RECALL_MIN: Final = 0.80
"""At the largest level, for adapters trained without labels; 0.96 at k = 64 on 20 Newsgroups. Below this, re-ranking no
longer repairs what the codes lose. Labels pull codes away from dense neighbours on purpose: no gate for those, unless
there is no other gate of quality, as on queries without labels."""

DEAD_SHARE_MAX: Final = 0.30
"""At the largest level. Healthy adapters leave 0 to 10 % of latents unused on text, collapsed ones 40 % and more."""

USES_EXPECTED_MIN: Final = 10
"""The dead share is judged only when even use would give each latent this many queries; fewer say nothing."""

ONE_NN_LOSS_MAX: Final = 0.01
"""Against the champion, at each level: about one standard error of an accuracy near 0.75 over 2,000 queries."""

RECALL_LOSS_MAX: Final = 0.02
"""Against the champion, at each level, re-ranked, when both were trained without labels."""


@dataclass(frozen=True)
class GateResult:
    """One row of the verdict.

    Attributes:
        name: What was judged.
        k: At which level; None for the adapter as a whole.
        value: Measured.
        rule: Which side of the threshold is good; the threshold itself is good.
        threshold: Limit.
    """

    name: str
    k: int | None
    value: float
    rule: Literal["at least", "at most"]
    threshold: float

    @property
    def passed(self) -> bool:
        """True when the value is on the good side; a value that is not a number never is."""
        return self.value >= self.threshold if self.rule == "at least" else self.value <= self.threshold

    @property
    def needed(self) -> str:
        """The rule in words, such as `at least 0.93`."""
        return f"{self.rule} {self.threshold:.4g}"

    @property
    def key(self) -> str:
        """Name for metrics, such as `one_nn_of_dense.k32`."""
        return self.name if self.k is None else f"{self.name}.k{self.k}"


def judge(challenger: Evaluation, champion: Evaluation | None = None) -> tuple[GateResult, ...]:
    """Return all gates: the absolute ones, then those against the champion.

    Args:
        challenger: Of the version that wants to serve.
        champion: Of the version that serves, on the same documents and queries; None for the first version.
    """
    results = _absolute(challenger)
    return results if champion is None else results + _against(challenger, champion)


def _absolute(evaluation: Evaluation) -> tuple[GateResult, ...]:
    top = evaluation.levels[-1]
    results = [
        GateResult("parity", None, float(evaluation.parity), "at least", 1.0),
        GateResult("index_exactness", None, min(level.exactness for level in evaluation.levels), "at least", 1.0),
    ]
    against_dense = _one_nn_of_dense(evaluation)
    results += against_dense
    if not evaluation.supervised or not against_dense:
        results.append(GateResult("recall_reranked", top.k, top.recall_reranked, "at least", RERANKED_RECALL_MIN))
    if evaluation.queries * top.k >= USES_EXPECTED_MIN * evaluation.hidden_dim:
        results.append(GateResult("dead_share", top.k, top.dead_share, "at most", DEAD_SHARE_MAX))
    return tuple(results)


def _one_nn_of_dense(evaluation: Evaluation) -> list[GateResult]:
    dense = evaluation.dense_one_nn
    if not dense:
        return []
    return [
        GateResult("one_nn_of_dense", level.k, level.one_nn / dense, "at least", floor)
        for level in evaluation.levels
        if level.one_nn is not None and (floor := _one_nn_floor(level.k)) is not None
    ]


def _one_nn_floor(k: int) -> float | None:
    return next((floor for first, floor in ONE_NN_OF_DENSE_MIN if k >= first), None)


def _against(challenger: Evaluation, champion: Evaluation) -> tuple[GateResult, ...]:
    offered = {level.k: level for level in challenger.levels}
    kept = sum(level.k in offered for level in champion.levels)
    # Collections store codes at the champion's levels, and callers ask for them.
    results = [GateResult("levels_kept", None, float(kept), "at least", float(len(champion.levels)))]
    label_free = not (challenger.supervised or champion.supervised)
    for old in champion.levels:
        if old.k in offered:
            results += _level_against(offered[old.k], old, label_free)
    return tuple(results)


def _level_against(new: LevelQuality, old: LevelQuality, label_free: bool) -> list[GateResult]:
    results = []
    if new.one_nn is not None and old.one_nn is not None:
        results.append(GateResult("one_nn_of_champion", new.k, new.one_nn, "at least", old.one_nn - ONE_NN_LOSS_MAX))
    if label_free:
        threshold = old.recall_reranked - RECALL_LOSS_MAX
        results.append(GateResult("recall_reranked_of_champion", new.k, new.recall_reranked, "at least", threshold))
    return results
