import numpy as np
import pytest

from benchmarks.comparison import official, ours
from benchmarks.comparison import sentence_transformers_loss as library
from benchmarks.comparison.problem import Problem, final_problem
from benchmarks.comparison.settings import Settings
from orchestration.data.sets import EmbeddedSet


@pytest.fixture
def short(embedded: EmbeddedSet, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """A problem whose competitors see 5,120 rows."""
    monkeypatch.setattr("benchmarks.comparison.problem._ROWS_TO_SEE", 5_120)
    return final_problem(embedded)


def test_sentence_transformers_learns_from_what_the_set_has(short: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package, with pairs, labels or neither: a newer release that changed its forward pass fails here."""
    monkeypatch.setattr(library, "KS", (4, 8))
    monkeypatch.setattr(library, "PAIRS_PER_BATCH", 128)
    outcome = library.run(short, Settings(None, 1e-3, 0))
    assert outcome.rows_seen == 5_120
    assert (outcome.rankings["k8"] >= 0).mean() > 0.9
    if short.labels is not None:
        assert short.scores(outcome.rankings["k8"]).mean() > 0.8


def test_official_code_learns(short: Problem) -> None:
    """One model for one k; the plain autoencoder and the contrast differ, or γ would not arrive."""
    settings = Settings(8, 3e-3, 0)
    sae, csr = official.run_sae(short, settings), official.run_csr(short, settings)
    assert list(sae.rankings) == ["k8"]
    assert sae.rows_seen == 5_120
    assert not np.array_equal(sae.rankings["k8"], csr.rankings["k8"])
    if short.labels is not None:
        assert short.scores(sae.rankings["k8"]).mean() > 0.8


def test_partners_have_the_label_and_are_others() -> None:
    """A pair of a row with itself teaches nothing; only a label that occurs once has no other choice."""
    labels = np.array([3, 1, 3, 2, 3, 1])
    random = np.random.default_rng(0)
    for _ in range(30):
        rows = np.arange(6)
        partners = library._same_label(labels, rows, random)
        assert (labels[partners] == labels).all()
        assert (partners != rows)[[0, 1, 2, 4, 5]].all()
        assert partners[3] == 3


def test_untrained_atoms_serve_every_k(labelled: EmbeddedSet) -> None:
    """The line that training starts from, on clear clusters far above chance already."""
    outcome = ours.run_random_atoms(final_problem(labelled), Settings(None, None, 0))
    problem = final_problem(labelled)
    assert set(outcome.rankings) == {"k4", "k8", "k16", "k32", "k64"}
    assert problem.scores(outcome.rankings["k8"]).mean() > 0.8
