import numpy as np
import pytest

from csr_model.neighbours import mine_neighbours


@pytest.mark.parametrize("chunk", [7, 512])
def test_finds_the_nearest(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Codes are taught to keep these neighbours; wrong ones would teach noise."""
    monkeypatch.setattr("csr_model.neighbours._ANCHORS_PER_CHUNK", chunk)
    found = mine_neighbours(embeddings, seed=0)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    assert found.anchors.tolist() == list(range(320))
    assert found.neighbours.shape == (320, 32)
    nearest = np.sort(cosines, axis=1)[:, ::-1][:, :32]
    np.testing.assert_allclose(np.take_along_axis(cosines, found.neighbours, axis=1), nearest, atol=1e-6)


def test_samples_of_a_large_set(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more rows than fit, anchors and neighbours are sampled, still rows of the whole set and near each other."""
    monkeypatch.setattr("csr_model.neighbours._CANDIDATES_MAX", 100)
    monkeypatch.setattr("csr_model.neighbours._ANCHORS_MAX", 20)
    found = mine_neighbours(embeddings, seed=3)
    assert len(np.unique(found.anchors)) == 20
    assert len(np.union1d(found.anchors, found.neighbours)) <= 100
    assert found.neighbours.max() > 200
    assert not (found.neighbours == found.anchors[:, None]).any()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first = (unit[found.anchors] * unit[found.neighbours[:, 0]]).sum(1)
    last = (unit[found.anchors] * unit[found.neighbours[:, -1]]).sum(1)
    assert (first > last).all()


def test_repeatable_and_decided_by_the_seed(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank, and a resumed run, mines for itself and must find the same."""
    monkeypatch.setattr("csr_model.neighbours._CANDIDATES_MAX", 100)
    one, same, other = (mine_neighbours(embeddings, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.anchors, same.anchors)
    np.testing.assert_array_equal(one.neighbours, same.neighbours)
    assert one.anchors.tolist() != other.anchors.tolist()


def test_two_rows_are_neighbours() -> None:
    """The smallest set that can be learned from must not ask for more neighbours than there are."""
    found = mine_neighbours(np.eye(2, 4, dtype=np.float32), seed=0)
    assert found.neighbours.tolist() == [[1], [0]]
