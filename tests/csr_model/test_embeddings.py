import numpy as np
import pytest
import torch

from csr_model import InvalidTrainingData, InvalidVector
from csr_model.embeddings import checked_rows, spread_rows, summarize

GOOD = np.ones((3, 4), np.float32)


def changed(row: int, value: float, dtype: type = np.float32) -> np.ndarray:
    """Return good rows with one value replaced."""
    rows = GOOD.astype(dtype)
    rows[row, 2] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (changed(1, np.nan), r"embeddings\[11\] holds NaN or Inf"),
        (changed(2, np.inf), r"embeddings\[12\] holds NaN or Inf"),
        (changed(0, -np.inf), r"embeddings\[10\] holds NaN or Inf"),
        (changed(0, 1e300, np.float64), r"embeddings\[10\] holds NaN or Inf; every value must be finite in float32"),
        (GOOD * np.array([[1], [0], [1]], np.float32), r"embeddings\[11\] has an L2 norm below 1e-12"),
        (np.full((1, 4), 3e38, np.float32), r"embeddings\[10\] has an L2 norm beyond float32"),
        (GOOD[:, :3], "embeddings have 3 values a row; the adapter takes 4"),
        (GOOD[0], r"embeddings have shape \(4,\); they must be \[n, 4\]"),
        (GOOD.astype(complex), "dtype complex128"),
        (np.array([["a"] * 4]), "dtype <U1"),
        (torch.ones(1, 4, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.ones(1, 4, dtype=torch.bool), "dtype torch.bool"),
        (torch.ones(1, 4).to_sparse(), "must be dense"),
        (torch.ones(1, 4, device="meta"), "must be dense"),
        (torch.quantize_per_tensor(torch.ones(1, 4), 0.1, 0, torch.qint8), "must be dense"),
        ([[1.0, 2.0, 3.0, 4.0], [1.0]], r"no array \[n, 4\]"),
        (None, "dtype object"),
    ],
)
def test_bad_rows_are_named(rows: np.ndarray, says: str) -> None:
    """A caller with one bad row in a million must learn which one and why."""
    with pytest.raises(InvalidVector, match=says):
        checked_rows(rows, 4, first_row=10)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ">f4"])
def test_other_dtypes_keep_their_values(dtype: str) -> None:
    """Half-precision and foreign-endian files must be read as numbers, not as bytes."""
    rows = np.array([[1, 2, 3, 4]]).astype(dtype)
    assert checked_rows(rows, 4).tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_caller_keeps_a_read_only_array(recwarn: pytest.WarningsRecorder) -> None:
    """Memory-mapped and wire buffers are read-only; they must be taken without a warning."""
    rows = GOOD.copy()
    rows.flags.writeable = False
    assert checked_rows(rows, 4).shape == (3, 4)
    assert not recwarn.list


@pytest.mark.parametrize("normalize", [True, False])
def test_summary_matches_numpy(embeddings: np.ndarray, normalize: bool) -> None:
    """The stored mean and variance define every code; chunked sums must give what numpy gives."""
    x = embeddings.astype(np.float64)
    if normalize:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    summary = summarize(embeddings, normalize)
    np.testing.assert_allclose(summary.mean.numpy(), x.mean(axis=0), atol=1e-6)
    assert summary.variance == pytest.approx(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean(), rel=1e-6)


def test_chunks_do_not_show(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file read in pieces is the same data set: same digest, or resuming would be refused."""
    whole = summarize(embeddings, normalize=True)
    monkeypatch.setattr("csr_model.embeddings._ROWS_PER_CHUNK", 7)
    pieces = summarize(embeddings, normalize=True)
    assert pieces.digest == whole.digest
    torch.testing.assert_close(pieces.mean, whole.mean)


def test_digest_sees_one_changed_value(embeddings: np.ndarray) -> None:
    """The digest ties an adapter to its data; a changed set must not pass for the old one."""
    other = embeddings.copy()
    other[5, 3] += 1e-3
    assert summarize(other, normalize=True).digest != summarize(embeddings, normalize=True).digest


@pytest.mark.parametrize("rows", [np.ones((50, 4), np.float32), np.ones((1, 4), np.float32), np.ones(4, np.float32)])
def test_nothing_to_learn_is_an_error(rows: np.ndarray) -> None:
    """Equal rows have variance 0; dividing by it would fill the adapter with NaN."""
    with pytest.raises(InvalidTrainingData):
        summarize(rows, normalize=True)


def test_bad_training_row_is_named_across_chunks(embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row numbers must be those of the file, not of the chunk."""
    monkeypatch.setattr("csr_model.embeddings._ROWS_PER_CHUNK", 100)
    bad = embeddings.copy()
    bad[217] = 0
    with pytest.raises(InvalidVector, match=r"embeddings\[217\]"):
        summarize(bad, normalize=True)


@pytest.mark.parametrize(("rows", "count", "expected"), [(0, 3, []), (1, 3, [0]), (3, 3, [0, 1, 2]), (9, 3, [0, 4, 8])])
def test_a_sample_reaches_both_ends(rows: int, count: int, expected: list[int]) -> None:
    """Data sets come ordered by class: a sample of the first rows would stand for the first classes only."""
    assert spread_rows(rows, count).tolist() == expected
