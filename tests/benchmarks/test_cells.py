import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.comparison.cells import (
    Phase,
    Results,
    chosen_learning_rate,
    compute,
    planned,
    validation_cells,
)
from benchmarks.comparison.findings import difference, findings
from benchmarks.comparison.methods import Method
from benchmarks.comparison.outcome import Outcome
from benchmarks.comparison.problem import Problem, final_problem, validation_problem
from benchmarks.comparison.report import as_json, markdown
from benchmarks.comparison.settings import Settings
from orchestration.data.sets import EmbeddedSet


class Trials:
    """Methods that rank the right document first for a share of the queries, and remember what they were asked."""

    def __init__(self, data: EmbeddedSet) -> None:
        self.data = data
        self.asked: list[tuple[str, Settings]] = []
        self.fails = False

    def method(self, name: str, right: float, rates: tuple[float, ...] = (), per_k: bool = False) -> Method:
        """Return a method that is best at a learning rate of 0.01."""

        def run(problem: Problem, settings: Settings) -> Outcome:
            if self.fails:
                raise KeyboardInterrupt
            self.asked.append(("test" if len(problem.train) == len(self.data.train.ids) else "validation", settings))
            share = right if settings.learning_rate in (None, 0.01) else right / 2
            k = settings.k or 8
            ranking = np.full((len(problem.queries), 10), -1)
            assert problem.document_labels is not None
            assert problem.query_labels is not None
            for query in range(round(share * len(ranking))):
                ranking[query, 0] = np.flatnonzero(problem.document_labels == problem.query_labels[query])[0]
            return Outcome({f"k{k}": ranking, f"{4 * k}B": ranking}, {}, 1.5, 100)

        return Method(name, name.title(), run, rates, per_k)

    def problem(self, set_name: str, phase: Phase) -> Problem:
        """Load a set."""
        return final_problem(self.data) if phase == "test" else validation_problem(self.data)


@pytest.fixture
def trials(labelled: EmbeddedSet) -> Trials:
    """Over the labelled set."""
    return Trials(labelled)


def run(trials: Trials, methods: tuple[Method, ...], results: Results) -> None:
    """Compute all cells without a word."""
    compute(["labelled"], methods, results, trials.problem, lambda line: None)


def test_interrupted_run_continues(trials: Trials, tmp_path: Path) -> None:
    """Trainings take minutes: what is finished is neither lost nor done again, and half a cell is not a cell."""
    results = Results(tmp_path)
    first, second = trials.method("first", 0.5), trials.method("second", 0.7)
    run(trials, (first,), results)
    trials.fails = True
    with pytest.raises(KeyboardInterrupt):
        run(trials, (first, second), results)
    trials.fails = False
    run(trials, (first, second), results)
    assert len(trials.asked) == 2
    run(trials, (first, second), results)
    assert len(trials.asked) == 2


def test_a_claimed_cell_is_left_to_its_owner(trials: Trials, tmp_path: Path) -> None:
    """Two processes on one folder must share the work, not repeat it."""
    results = Results(tmp_path)
    first, second = trials.method("first", 0.5), trials.method("second", 0.7)
    (cell,) = planned(["labelled"], (first,), results)
    done: list[str] = []
    with results.lock(cell), pytest.raises(KeyboardInterrupt):
        compute(["labelled"], (first, second), results, trials.problem, StopAfter(1, done))
    assert [line.split(":")[0] for line in done] == ["labelled_second_test_seed0"]


class StopAfter:
    """Ends a run after so many lines of progress."""

    def __init__(self, lines: int, said: list[str]) -> None:
        self.lines = lines
        self.said = said

    def __call__(self, line: str) -> None:
        """Take a line."""
        self.said.append(line)
        if len(self.said) == self.lines:
            raise KeyboardInterrupt


def test_learning_rate_is_the_best_of_validation(trials: Trials, tmp_path: Path) -> None:
    """Competitors get their best rate, found without the test split, at three k where each k has a model."""
    results = Results(tmp_path)
    method = trials.method("sae", 0.8, rates=(0.001, 0.01, 0.1), per_k=True)
    run(trials, (method,), results)
    assert [chosen_learning_rate("labelled", method, results, k) for k in (4, 64)] == [0.01, 0.01]
    assert [(phase, settings.k, settings.learning_rate) for phase, settings in trials.asked] == [
        *(("validation", k, rate) for k in (16, 32, 64) for rate in (0.001, 0.01, 0.1)),
        *(("test", k, 0.01) for k in (4, 8, 16, 32, 64)),
    ]
    assert len({cell.name for cell in planned(["labelled"], (method,), results)}) == 5
    assert [cell.settings.learning_rate for cell in validation_cells("labelled", method)] == 3 * [0.001, 0.01, 0.1]


def test_report_says_who_is_above(trials: Trials, tmp_path: Path) -> None:
    """The page is published: it must show losses as well as wins, and the numbers behind them."""
    results = Results(tmp_path)
    methods = tuple(
        trials.method(name, right) for name, right in (("weak", 0.2), ("strong", 0.9), ("equal", 0.5), ("ours", 0.5))
    )
    run(trials, methods, results)
    found = findings("labelled", methods, results)
    verdicts = {}
    for name in ("weak", "strong", "equal"):
        gap = difference(found["ours"], found[name], "k8")
        assert gap is not None
        verdicts[name] = gap.verdict
    assert verdicts == {"weak": "above", "strong": "below", "equal": "tie"}
    page = markdown({"labelled": found})
    assert "**below**" in page
    assert "| **Ours** | – | 50.0 |" in page
    numbers = json.loads(json.dumps(as_json({"labelled": found})))["labelled"]["strong"]
    assert numbers["quality"]["k8"] == pytest.approx(90)
    assert numbers["ours_minus_this"]["k8"]["mean"] == pytest.approx(-40)


def test_data_that_changed_is_noticed(trials: Trials, bare: EmbeddedSet, tmp_path: Path) -> None:
    """Old cells of a set that was rebuilt meanwhile must not be compared with new ones."""
    results = Results(tmp_path)
    old, new = trials.method("old", 0.5), trials.method("new", 0.5)
    run(trials, (old,), results)
    trials.data.train.embeddings[0] += 1
    run(trials, (new,), results)
    with pytest.raises(ValueError, match="2 versions of the data"):
        findings("labelled", (old, new), results)


def test_unfinished_methods_are_left_out(trials: Trials, tmp_path: Path) -> None:
    """A report of a running comparison shows what there is."""
    results = Results(tmp_path)
    done, waiting = trials.method("done", 0.5), trials.method("waiting", 0.5, rates=(0.01,))
    run(trials, (done,), results)
    assert list(findings("labelled", (done, waiting), results)) == ["done"]
