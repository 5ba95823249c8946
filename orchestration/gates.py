"""What a version must show before it may serve. Pure: evaluations in, a table of verdicts out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from orchestration.evaluation import Evaluation, LevelQuality

Floors: TypeAlias = tuple[tuple[int, float], ...]
"""(from this k on, least share of what dense search reaches), largest k first; below the last k there is no floor."""

OF_DENSE_MIN: Final[Mapping[str, Floors]] = {
    "one_nn": ((32, 0.93), (16, 0.90), (8, 0.85)),
    "ndcg": ((32, 0.75), (16, 0.65), (8, 0.50)),
}
"""By field of RankingQuality; where a set has both labels and relevance, both count. At k = 8, 16 and 32, label-free
adapters keep 0.97, 0.97 and 0.99 of 1-NN accuracy on 20 Newsgroups, and adapters for retrieval 0.70, 0.79 and 0.86 of
nDCG on package descriptions, the harder of two sets; the floors leave room for harder sets and shorter runs."""

RERANKED_RECALL_MIN: Final = 0.80
"""At the largest level, for adapters trained without labels or pairs; 0.96 at k = 64 on 20 Newsgroups. Below this,
re-ranking no longer repairs what the codes lose. Labels and pairs pull codes away from dense neighbours on purpose: no
gate for those, unless there is no other gate of quality, as on queries without labels and relevance."""

DEAD_SHARE_MAX: Final = 0.30
"""At the largest level. Healthy adapters leave 0 to 10 % of latents unused on text, collapsed ones 40 % and more."""

USES_EXPECTED_MIN: Final = 10
"""The dead share is judged only when even use would give each latent this many queries; fewer say nothing."""

QUALITY_LOSS_MAX: Final = 0.01
"""Of 1-NN accuracy and of nDCG against the champion, at each level: about one standard error of an accuracy near 0.75
over 2,000 queries."""

RECALL_LOSS_MAX: Final = 0.02
"""Against the champion, at each level, re-ranked, when both were trained without labels and pairs."""


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
    searches = (*(level.search for level in evaluation.levels), *evaluation.asymmetric)
    results = [
        GateResult("parity", None, float(evaluation.parity), "at least", 1.0),
        GateResult("index_exactness", None, min(search.exactness for search in searches), "at least", 1.0),
    ]
    against_dense = [gate for name, floors in OF_DENSE_MIN.items() for gate in _of_dense(evaluation, name, floors)]
    results += against_dense
    kept = top.search.reranked.recall
    if kept is not None and (not evaluation.supervised or not against_dense):
        results.append(GateResult("recall_reranked", top.k, kept, "at least", RERANKED_RECALL_MIN))
    if evaluation.queries * top.k >= USES_EXPECTED_MIN * evaluation.hidden_dim:
        results.append(GateResult("dead_share", top.k, top.dead_share, "at most", DEAD_SHARE_MAX))
    return tuple(results)


def _of_dense(evaluation: Evaluation, name: str, floors: Floors) -> list[GateResult]:
    dense = evaluation.dense.known().get(name)
    if not dense:
        return []
    return [
        GateResult(f"{name}_of_dense", level.k, level.search.hits.known()[name] / dense, "at least", floor)
        for level in evaluation.levels
        if (floor := next((floor for first, floor in floors if level.k >= first), None)) is not None
    ]


def _against(challenger: Evaluation, champion: Evaluation) -> tuple[GateResult, ...]:
    offered = {level.k: level for level in challenger.levels}
    kept = sum(level.k in offered for level in champion.levels)
    # Collections store codes at the champion's levels, and callers ask for them.
    results = [GateResult("levels_kept", None, float(kept), "at least", float(len(champion.levels)))]
    unsupervised = not (challenger.supervised or champion.supervised)
    for old in champion.levels:
        if old.k in offered:
            results += _level_against(offered[old.k], old, unsupervised)
    return tuple(results)


def _level_against(new: LevelQuality, old: LevelQuality, unsupervised: bool) -> list[GateResult]:
    offered, held = new.search.hits.known(), old.search.hits.known()
    results = [
        GateResult(f"{name}_of_champion", new.k, offered[name], "at least", held[name] - QUALITY_LOSS_MAX)
        for name in OF_DENSE_MIN
        if name in offered and name in held
    ]
    kept, kept_before = new.search.reranked.recall, old.search.reranked.recall
    if unsupervised and kept is not None and kept_before is not None:
        threshold = kept_before - RECALL_LOSS_MAX
        results.append(GateResult("recall_reranked_of_champion", new.k, kept, "at least", threshold))
    return results
