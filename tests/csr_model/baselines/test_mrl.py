import numpy as np
import pytest

from csr_model import InvalidTrainingData, metrics
from csr_model.baselines.mrl import fit_mrl
from csr_model.baselines.pca import PCA
from csr_model.batches import Pairs

DIMS = (2, 4, 8)


def noisy(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose class is in small dimensions beneath larger noise, which PCA keeps instead; and classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=rows)
    signal = np.eye(4)[labels] * 0.8 + 0.1 * random.normal(size=(rows, 4))
    noise = 2 * random.normal(size=(rows, 12))
    return np.concatenate([signal, noise], axis=1).astype(np.float32), labels


def accuracy(documents: np.ndarray, queries: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> float:
    """Return 1-NN accuracy by cosine."""
    return metrics.one_nn_accuracy(metrics.dense_neighbours(documents, queries, 1), labels, asked)


@pytest.mark.parametrize("supervision", ["labels", "pairs"])
def test_learns_what_pca_cannot_see(supervision: str) -> None:
    """The baseline must be a real opponent: with labels or pairs it finds the classes that PCA throws away."""
    x, labels = noisy(600, 0)
    queries, asked = noisy(200, 1)
    partner = np.array(
        [np.flatnonzero((labels == label) & (np.arange(600) != row))[row % 100] for row, label in enumerate(labels)]
    )
    known = {"labels": labels} if supervision == "labels" else {"pairs": Pairs(np.arange(600), partner)}
    head = fit_mrl(x, dims=DIMS, learning_rate=0.03, rows_to_see=20_000, batch_size=64, **known)
    pca = PCA.fit(x, 8)
    of_pca = accuracy(pca.transform(x)[:, :4], pca.transform(queries)[:, :4], labels, asked)
    of_mrl = accuracy(head.transform(x)[:, :4], head.transform(queries)[:, :4], labels, asked)
    assert of_pca < 0.5
    assert of_mrl > 0.8


def test_keeps_dense_neighbours_without_supervision(embeddings: np.ndarray) -> None:
    """With neither labels nor pairs the target is the dense order, which a few dimensions then keep better."""
    documents, queries = embeddings[:260], embeddings[260:]
    expected = metrics.dense_neighbours(documents, queries, 10)
    head = fit_mrl(documents, dims=DIMS, learning_rate=0.01, rows_to_see=30_000, batch_size=64)
    pca = PCA.fit(documents, 8)

    def kept(transform: object, dim: int) -> float:
        short = (transform(rows)[:, :dim] for rows in (documents, queries))  # type: ignore[operator]
        return metrics.recall(metrics.dense_neighbours(*short, 10), expected)

    assert kept(head.transform, 4) > kept(pca.transform, 4)


def test_seed_decides_everything(embeddings: np.ndarray) -> None:
    """A baseline that cannot be repeated is none."""
    first, again = (fit_mrl(embeddings, dims=DIMS, rows_to_see=512, batch_size=64, seed=3) for _ in range(2))
    assert (first.weight == again.weight).all()


def test_dims_beyond_the_embedding_are_refused(embeddings: np.ndarray) -> None:
    """The message must name dims, not fail inside a matrix product."""
    with pytest.raises(InvalidTrainingData, match="dims"):
        fit_mrl(embeddings, dims=(4, 32))
