"""The comparison of index engines: what it calls right, fast and reached."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import command, write
from benchmarks.index_search import approximate, bars, cells, oracle, ours, runs, special
from benchmarks.index_search.cells import WARM_UP_QUERIES, Cell, Measured
from benchmarks.index_search.codes import Codes, Cut, Dense, SearchSet, flat, stored
from benchmarks.index_search.engines import Engine, NotInstalled
from benchmarks.index_search.exact import NUMPY, QDRANT, SCIPY
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.report import markdown
from benchmarks.index_search.synthetic import ROWS_AT_ONCE, Clustered, Unclustered, made
from benchmarks.index_search.ten_million import ten_million
from benchmarks.index_search.timing import TURN, UNTIMED, take_turns

HIDDEN_DIM, QUERIES = 64, WARM_UP_QUERIES + 12


def codes_of(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]], k: int) -> Codes:
    """Return the k largest coordinates of each row."""
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    return stored(order, np.maximum(np.take_along_axis(rows, order, axis=1), 0), HIDDEN_DIM)


@pytest.fixture
def tiny() -> SearchSet:
    """300 documents, some of them alike; their own rows are the embeddings."""
    random = np.random.default_rng(3)
    documents, queries = (random.random((count, HIDDEN_DIM), np.float32) ** 4 for count in (300, QUERIES))
    documents[100:140] = documents[0]
    dense = Dense(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (documents, queries)))
    return SearchSet("tiny", "rows", HIDDEN_DIM, codes_of(documents, 16), codes_of(queries, 16), dense)


@pytest.fixture
def cut(tiny: SearchSet) -> Cut:
    """Its codes at k = 8."""
    return tiny.cut(8)


def slow_truth(found: Cut, query: int) -> list[tuple[int, float]]:
    """Return the ten best by the definition of a score, number by number."""

    def integers(latents: np.ndarray[tuple[int], np.dtype[np.uint16]], weights: object) -> dict[int, int]:
        given = [float(weight) for weight in weights]  # type: ignore[attr-defined]
        norm = math.sqrt(sum(weight * weight for weight in given))
        return {int(latent): round(65_535 * w / norm) for latent, w in zip(latents, given, strict=True) if w > 0}

    asked = integers(found.query_latents[query], found.query_weights[query])
    scored = []
    for row in range(len(found)):
        code = integers(found.latents[row], found.weights[row])
        dot = sum(weight * code.get(latent, 0) for latent, weight in asked.items())
        squares = [float(sum(weight**2 for weight in side.values())) for side in (asked, code)]
        scored.append((-dot / math.sqrt(squares[0] * squares[1]), row))
    return [(row, -score) for score, row in sorted(scored)[:10] if score < 0]


def test_truth_is_the_definition(cut: Cut) -> None:
    """Everything is judged by the brute force in matrices; forty documents that tie must come by row."""
    truths = oracle.answers(cut, np.arange(20))
    for query, truth in enumerate(truths):
        assert list(zip(truth.rows.tolist(), truth.scores.tolist(), strict=True)) == slow_truth(cut, query)
    asks_for_the_tie = replace(cut, query_latents=cut.latents[:1], query_weights=cut.weights[:1])
    assert oracle.answers(asks_for_the_tie, np.array([0]))[0].rows.tolist() == [0, *range(100, 109)]


def test_truth_does_not_depend_on_blocks(cut: Cut) -> None:
    """Ten million documents are judged piece by piece; a best document of an early piece must not be lost."""
    best = oracle.Best(cut.query_latents[:20], cut.query_weights[:20], HIDDEN_DIM)
    for start in range(0, 300, 7):
        best.add(cut.latents[start : start + 7], cut.weights[start : start + 7], start)
    for whole, pieces in zip(oracle.answers(cut, np.arange(20)), best.truth(), strict=True):
        assert whole.rows.tolist() == pieces.rows.tolist()
        assert whole.scores.tolist() == pieces.scores.tolist()


def test_recall_counts_places(cut: Cut) -> None:
    """A published recall must fall by a tenth for each of ten documents missed, and not for a tie told otherwise."""
    truth = oracle.answers(cut, np.array([5]))[0]
    rows = truth.rows.tolist()
    worst = int(np.argmin(oracle.exact_scores(cut, 5, np.arange(len(cut)))))
    assert oracle.recall(cut, 5, rows, truth) == 1
    assert oracle.recall(cut, 5, rows[::-1], truth) == 1
    assert oracle.recall(cut, 5, [*rows[:7], worst], truth) == pytest.approx(0.7)
    assert oracle.recall(cut, 5, [rows[0]] * 10, truth) == pytest.approx(0.1)
    assert oracle.recall(cut, 5, [], truth) == 0
    same = replace(cut, query_latents=cut.latents[:1], query_weights=cut.weights[:1])
    tied = oracle.answers(same, np.array([0]))[0]
    assert oracle.recall(same, 0, list(range(130, 140)), tied) == 1


def test_a_level_is_judged_as_stored(tiny: SearchSet) -> None:
    """Level 4 of a wider index cuts stored codes without rounding anew, and only so its scores are the same."""
    wide = tiny.cut(16)
    index, _ = ours.filled(wide)
    found = index.search(wide.query_latents[:20], wide.query_weights[:20], 10, k=4)
    for hits, truth in zip(found, oracle.answers(wide, np.arange(20), 4), strict=True):
        assert [(int(name), score) for name, score in hits] == list(
            zip(truth.rows.tolist(), truth.scores.tolist(), strict=True)
        )


def test_exact_engines_are_exact(tiny: SearchSet) -> None:
    """A wrapper that asked an engine wrongly would make a competitor look bad; embeddings have a truth of their own."""
    cell = cells.compare(tiny, 8, cells.EXACT, 12, lambda line: None)
    found = {line.engine: line for line in cell.engines}
    assert {ours.OURS, SCIPY, NUMPY} <= found.keys()
    assert all(line.recall == 1 for line in cell.engines)
    assert [line.identical for line in cell.engines if line.engine.startswith(ours.OURS)] == [True] * 4
    assert found[SCIPY].identical is None
    assert found[ours.OURS].queries == 12
    assert cell.posting_skew == pytest.approx(sum((np.bincount(tiny.cut(8).latents.ravel()) / 300) ** 2))
    assert found.keys() | cell.missing.keys() >= {QDRANT, "Seismic"}


def test_wrong_answers_show(cut: Cut) -> None:
    """Were a wrong hit or score not seen, a fast and wrong index would reach every bar."""
    right = ours.build(cut)[0]

    def with_answers(name: str, spoil: object) -> Measured:
        engine = replace(right, name=name, answer=lambda query: spoil(right.answer(query)))  # type: ignore[operator]
        return cells.measure(cut, [engine], 12, lambda line: None)[0]

    another_score = with_answers("ours", lambda hits: [(name, np.nextafter(score, 2)) for name, score in hits])
    assert (another_score.recall, another_score.identical) == (1, False)
    another_hit = with_answers("ours", lambda hits: hits[:9])
    assert another_hit.recall == pytest.approx(0.9)
    assert another_hit.identical is False
    cell = Cell("tiny", "", len(cut), 8, HIDDEN_DIM, 0.76, 0.25, [another_score], {})
    exact = bars.bars(Outcome("", cells=[cell]))[0]
    assert exact.reached is False


def test_levels_are_judged_by_ids_too(tiny: SearchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that found other documents with the same scores would pass for exact."""
    assert special.levels(tiny, 12).identical
    monkeypatch.setattr(ours, "names", lambda count: [f"{row + 1:08d}" for row in range(count)])
    assert not special.levels(tiny, 12).identical


def test_engines_take_turns() -> None:
    """Engines that ran one after the other would meet different neighbours on a shared machine."""
    order: list[tuple[str, int]] = []

    def engine(name: str) -> object:
        return lambda query: order.append((name, query))

    queries = range(100, 100 + 2 * TURN)
    found = take_turns({"a": engine("a"), "b": engine("b")}, queries)  # type: ignore[dict-item]
    size = UNTIMED + TURN
    turns = [order[at : at + size] for at in range(0, len(order), size)]
    asked = [[queries[at] for at in range(start - UNTIMED, start + TURN)] for start in (0, 0, TURN, TURN)]
    assert [[query for _, query in turn] for turn in turns] == asked
    assert all(len({name for name, _ in turn}) == 1 for turn in turns)
    assert [{turns[at][0][0], turns[at + 1][0][0]} for at in (0, 2)] == [{"a", "b"}] * 2
    assert [list(latencies.answers) for latencies in found.values()] == [list(queries)] * 2
    order.clear()
    found = take_turns({"a": engine("a")}, queries, {"a": True})  # type: ignore[dict-item]
    assert order == [("a", 100)]


def test_nobody_always_follows_the_same() -> None:
    """Engines that share an index find it in the caches after each other; in a rotation one of them never would."""
    order: list[str] = []
    engines = {name: lambda query, name=name: order.append(name) for name in "abc"}
    take_turns(engines, range(300 * TURN))  # type: ignore[arg-type]
    turns = order[:: UNTIMED + TURN]
    for pair in ("ab", "ba", "ac", "ca", "bc", "cb"):
        assert 50 < sum(first + second == pair for first, second in itertools.pairwise(turns)) < 250


def test_missing_packages_are_named(tiny: SearchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A competitor that is not installed must not vanish from the table."""

    def not_there(found: Cut) -> list[Engine]:
        raise NotInstalled("not installed (pip install seismic)")

    monkeypatch.setattr(cells, "ALL", {**cells.ALL, approximate.SEISMIC: not_there})
    chosen = {name: cells.ALL[name] for name in (ours.OURS, approximate.SEISMIC)}
    cell = cells.compare(tiny, 8, chosen, 5, lambda line: None)
    page = markdown(Outcome("", cells=[cell]), [])
    assert "| Seismic | – |" in page
    assert "pip install seismic" in page


def test_codes_reach_others_whole(cut: Cut, tmp_path: Path) -> None:
    """Other indexes want ascending latents and Seismic a format of its own; a shifted word would ruin its recall."""
    codes = flat(cut.latents, cut.weights)
    approximate._write_seismic(tmp_path / "codes", codes)
    words = np.fromfile(tmp_path / "codes", np.uint32)
    assert words[0] == len(cut)
    at = 1
    for row in range(len(cut)):
        count = int(words[at])
        latents = words[at + 1 : at + 1 + count]
        weights = words[at + 1 + count : at + 1 + 2 * count].view(np.float32)
        active = cut.weights[row] > 0
        order = np.argsort(cut.latents[row][active])
        assert latents.tolist() == cut.latents[row][active][order].tolist()
        assert weights.tolist() == cut.weights[row][active][order].tolist()
        at += 1 + 2 * count
    assert at == len(words)


def test_made_up_codes_cost_what_they_should() -> None:
    """Figures on made-up codes mean something only if a query touches as many postings as with those designed for."""
    few, more = made(Clustered(), 700, 20), made(Clustered(), 2 * ROWS_AT_ONCE, 20)
    assert np.array_equal(few.documents.latents, more.documents.latents[:700])
    for k, skew in ((8, 0.125), (32, 0.76), (128, 6.4)):
        assert more.cut(k).posting_skew == pytest.approx(skew, rel=0.15)
    assert more.dense is not None
    assert np.allclose(np.linalg.norm(more.dense.documents, axis=1), 1, atol=1e-5)
    unclustered = made(Unclustered(), ROWS_AT_ONCE, 1).cut(32)
    assert unclustered.posting_skew < 1.5 * 32 * 32 / 4_096


def test_a_small_run_writes_everything(tmp_path: Path) -> None:
    """The command's files: all cells, levels, searches during writes, bars and pictures."""
    plan = runs.Plan(3_000, (1_000,), queries=5, writing_seconds=0.3, graphs=False, large=0)
    outcome = runs.run(["clustered"], plan, "test", lambda line: None)
    write(outcome, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    assert [(cell["documents"], cell["k"]) for cell in record["cells"]] == [
        (1_000, 32),
        (3_000, 8),
        (3_000, 32),
        (3_000, 128),
    ]
    assert record["bars"][0]["reached"]
    assert record["levels"][0]["identical"]
    assert record["writing"]["upserts_per_second"] > 1_000
    assert record["footprint"]["codes"] > 32 * 4
    page = (tmp_path / "report.md").read_text()
    for heading in ("## Bars", "## clustered", "## Growth", "## Memory", "## Searches during writes"):
        assert heading in page
    assert (tmp_path / "index-latency.png").stat().st_size > 10_000
    assert (tmp_path / "index-growth.png").stat().st_size > 10_000


def test_the_record_says_what_was_measured_not_where_it_was_written() -> None:
    """A published record would name a folder of whoever made it."""
    assert command(["--slow", "--out", "/home/me/out"]) == "--slow"
    assert command(["--out=/home/me/out", "--sets", "debian", "--quick"]) == "--sets debian --quick"
    assert command([]) == ""


def test_a_process_of_its_own_is_judged(cut: Cut) -> None:
    """The largest index is filled block by block in another process; ids and truth must count rows alike."""
    blocks = ((cut.latents[start : start + 90], cut.weights[start : start + 90]) for start in range(0, 300, 90))
    found = ten_million(blocks, cut.query_latents[:60], cut.query_weights[:60], HIDDEN_DIM, lambda line: None)
    assert found.documents == 300
    assert found.identical
    assert found.merge_bytes >= found.start_bytes > 0
    assert found.build_rate > 0
