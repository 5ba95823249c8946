import numpy as np
import pytest

from benchmarks.comparison.problem import final_problem, validation_problem
from csr_model.validation import held_out
from orchestration.data.sets import EmbeddedSet


def rows(embeddings: np.ndarray) -> set[bytes]:
    """Return the rows as a set."""
    return {row.tobytes() for row in embeddings}


def test_validation_uses_training_rows_only(embedded: EmbeddedSet) -> None:
    """A learning rate chosen on test queries would make every competitor look better than it is."""
    validation, test = validation_problem(embedded), final_problem(embedded)
    known = rows(test.train)
    assert rows(validation.queries) | rows(validation.documents) | rows(validation.train) <= known
    assert not rows(validation.queries) & rows(test.queries)


def test_validation_queries_are_not_learned_from(embedded: EmbeddedSet) -> None:
    """A query that trained would measure memory."""
    validation = validation_problem(embedded)
    assert len(validation.queries) >= 5
    assert not rows(validation.queries) & rows(validation.train)
    assert not rows(validation.queries) & rows(validation.documents)


def test_pairs_keep_their_rows(paired: EmbeddedSet) -> None:
    """Rows are renumbered when held-out queries leave: pairs and answers must still name the same embeddings."""
    whole, validation = final_problem(paired), validation_problem(paired)
    assert whole.pairs is not None
    assert validation.pairs is not None
    assert validation.relevant is not None
    partner = {whole.train[q].tobytes(): whole.train[d].tobytes() for q, d in zip(*whole.pairs, strict=True)}
    kept = {
        validation.train[q].tobytes(): validation.train[d].tobytes() for q, d in zip(*validation.pairs, strict=True)
    }
    answers = {
        validation.queries[q].tobytes(): validation.documents[d].tobytes() for q, d in validation.relevant.tolist()
    }
    assert kept | answers == partner
    assert len(answers) == held_out([f"query-{row}" for row in range(160)]).sum()


def test_scores_of_a_perfect_and_an_empty_ranking(embedded: EmbeddedSet) -> None:
    """Whatever a set is judged by, right documents first is 1 and nothing found is 0."""
    problem = final_problem(embedded)
    empty = np.full((60, 10), -1)
    best = empty.copy()
    if problem.relevant is not None:
        best[problem.relevant[:, 0], 0] = problem.relevant[:, 1]
    else:
        assert problem.document_labels is not None
        assert problem.query_labels is not None
        best[:, 0] = [np.flatnonzero(problem.document_labels == label)[0] for label in problem.query_labels]
    assert problem.scores(best).tolist() == [1.0] * 60
    assert problem.scores(empty).tolist() == [0.0] * 60


def test_digest_tells_data_apart(labelled: EmbeddedSet, bare: EmbeddedSet) -> None:
    """Cells of two versions of a set must not be compared: the digest is what tells."""
    assert final_problem(labelled).digest() == final_problem(labelled).digest()
    assert final_problem(labelled).digest() != validation_problem(labelled).digest()
    assert final_problem(labelled).digest() != final_problem(bare).digest()


def test_wide_embeddings_get_fewer_rows(labelled: EmbeddedSet) -> None:
    """Every competitor has the same budget, by rule: 256,000 rows up to d = 640, to choose a learning rate too."""
    assert final_problem(labelled).rows_to_see == 256_000
    assert validation_problem(labelled).rows_to_see == 256_000


@pytest.mark.parametrize("kind", ["labelled", "bare"])
def test_validation_holds_out_by_id(kind: str, request: pytest.FixtureRequest) -> None:
    """Held out by id, not by place: the same rows on every machine and in every order of the file."""
    data: EmbeddedSet = request.getfixturevalue(kind)
    held = held_out(data.train.ids)
    assert len(validation_problem(data).train) == (~held).sum()
