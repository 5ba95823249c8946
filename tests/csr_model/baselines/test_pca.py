import numpy as np
import pytest
from sklearn import decomposition

from csr_model.baselines.pca import PCA
from csr_model.baselines.truncation import truncate
from csr_model.errors import InvalidTrainingData, InvalidVector


def rows(n: int) -> np.ndarray:
    """Return rows [n, 12] whose directions differ in variance, away from the origin, of different lengths."""
    random = np.random.default_rng(n)
    return ((random.normal(size=(n, 12)) * np.arange(1, 13) + 3) * random.uniform(0.1, 9, (n, 1))).astype(np.float32)


def test_pca_is_that_of_scikit_learn_on_unit_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that codes have to beat would be drawn too low; chunks must not show."""
    monkeypatch.setattr("csr_model.baselines.pca._ROWS_PER_CHUNK", 70)
    train, queries = rows(300), rows(20)
    unit_train, unit_queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, queries))
    theirs = decomposition.PCA(5, svd_solver="full").fit(unit_train)
    ours = PCA.fit(train, 5)
    signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components, theirs.components_ * signs[:, None], atol=1e-5)
    np.testing.assert_allclose(ours.transform(queries), theirs.transform(unit_queries) * signs, atol=1e-5)


def test_fewer_dimensions_are_the_first_ones() -> None:
    """One fit could not serve the whole curve over k."""
    train, queries = rows(100), rows(9)
    few, many = PCA.fit(train, 3), PCA.fit(train, 12)
    np.testing.assert_allclose(truncate(many.transform(queries), 3), few.transform(queries), atol=1e-6)


def test_what_cannot_be_reduced_is_refused() -> None:
    """A curve would silently hold fewer dimensions than it says, or NaN."""
    with pytest.raises(InvalidTrainingData, match="dims is 13"):
        PCA.fit(rows(20), 13)
    with pytest.raises(InvalidTrainingData, match="dims is 0"):
        truncate(rows(20), 0)
    with pytest.raises(InvalidTrainingData, match="no rows"):
        PCA.fit(rows(20)[:0], 2)
    bad = rows(20)
    bad[7] = 0
    with pytest.raises(InvalidVector, match=r"embeddings\[7\]"):
        PCA.fit(bad, 2)
