"""What the commands around models do and show, apart from the command line; imports torch, Ray and MLflow."""

from collections.abc import Mapping
from typing import Final

from rich.table import Table

from orchestration.data.sets import EmbeddedSet
from orchestration.evaluate import evaluate
from orchestration.evaluate_answers import RankingQuality
from orchestration.evaluation import Evaluation, LevelQuality, SearchQuality
from orchestration.promote import Promotion
from orchestration.registry import ModelVersionInfo, Registry

COLUMNS: Final = (
    "k",
    "nDCG@10",
    "R@1",
    "R@10",
    "back R@10",
    "1-NN",
    "re-ranked",
    "probe",
    "V",
    "dense@10",
    "dead",
    "bytes",
)
"""Of the table, in %; `re-ranked` is the first quality of the set after re-ranking 50 hits, `dense@10` the share of the
10 nearest by dense cosine, `bytes` per vector."""

_OF_RANKING: Final = {
    "ndcg": "nDCG@10",
    "relevant_recall_1": "R@1",
    "relevant_recall_10": "R@10",
    "back_recall_10": "back R@10",
    "one_nn": "1-NN",
    "recall": "dense@10",
}


def evaluate_version(
    registry: Registry,
    data: EmbeddedSet,
    version: ModelVersionInfo,
    k_query: int | None = None,
    k_docs: int | None = None,
) -> Evaluation:
    """Measure a registered version on the set's test queries.

    With one k given, the other side takes each of the adapter's levels; with none, `default_ks` are measured.
    """
    adapter = registry.load(version)
    if k_query is None and k_docs is None:
        return evaluate(adapter, data)
    asked, stored = (adapter.levels if k is None else (k,) for k in (k_query, k_docs))
    return evaluate(adapter, data, [(query, docs) for query in asked for docs in stored])


def evaluation_table(evaluation: Evaluation) -> Table:
    """Quality per k as a table for people, in percent; columns that the set cannot fill are left out."""
    rows = [_search_row(level.search) | _level_row(level) for level in evaluation.levels]
    rows += [_search_row(search) for search in evaluation.asymmetric]
    rows.append(_dense_row(evaluation))
    columns = {name: any(name in row for row in rows) for name in COLUMNS}
    shown = [name for name, filled in columns.items() if filled]
    caption = (
        f"{evaluation.queries:,} queries, {evaluation.documents:,} documents, {evaluation.hidden_dim:,} latents; "
        f"measured in {evaluation.seconds:.0f} s; all in % but k and bytes"
    )
    table = Table(*shown, caption=caption, caption_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(row.get(name, "-") for name in shown))
    return table


def _search_row(search: SearchQuality) -> dict[str, str]:
    k_query, k_docs = search.k_query, search.k_docs
    reranked = search.reranked.known()
    first = next(name for name in _OF_RANKING if name in reranked)
    name = str(k_docs) if k_query == k_docs else f"{k_docs}, queries {k_query}"
    return {"k": name, **_ranking_row(search.hits), "re-ranked": _percent(reranked[first])}


def _level_row(level: LevelQuality) -> dict[str, str]:
    shares = {"probe": level.linear_probe, "V": level.v_measure, "dead": level.dead_share}
    return {**_known(shares), "bytes": f"{level.bytes_per_vector:.0f}"}


def _dense_row(evaluation: Evaluation) -> dict[str, str]:
    labels = {"probe": evaluation.dense_linear_probe, "V": evaluation.dense_v_measure}
    exact = {"k": "dense", "dense@10": "100.0", "bytes": str(evaluation.dense_bytes_per_vector)}
    return exact | _ranking_row(evaluation.dense) | _known(labels)


def _ranking_row(quality: RankingQuality) -> dict[str, str]:
    known = quality.known()
    return {column: _percent(known[name]) for name, column in _OF_RANKING.items() if name in known}


def _known(shares: Mapping[str, float | None]) -> dict[str, str]:
    return {name: _percent(share) for name, share in shares.items() if share is not None}


def promotion_table(promotion: Promotion) -> Table:
    """Gates as a table for people."""
    table = Table("gate", "k", "value", "needed", "result")
    for gate in promotion.gates:
        result = "[green]passed[/green]" if gate.passed else "[red]failed[/red]"
        level = "" if gate.k is None else str(gate.k)
        table.add_row(gate.name, level, f"{gate.value:.4g}", gate.needed, result)
    return table


def verdict(promotion: Promotion) -> str:
    """What became of the alias, in a sentence."""
    name = f"{promotion.version.name} version {promotion.version.version}"
    return {
        "promoted": f"{name} is champion now.",
        "forced": f"{name} is champion now, by force; the reason is on the version's tags.",
        "unchanged": f"{name} was champion already.",
        "refused": f"{name} is not promoted: a gate failed. The alias champion stays where it was.",
    }[promotion.outcome]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
