import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from csr_model import CSRAdapter, CSRConfig, InvalidK, InvalidVector, fit, read_codes


def test_shapes_dtypes_and_norms(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """Services copy these arrays to the wire as they are."""
    codes = adapter.encode(embeddings, k=8)
    assert codes.latents.shape == codes.weights.shape == (320, 8)
    assert codes.latents.dtype == np.uint16
    assert codes.weights.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(codes.weights, axis=1), 1, rtol=1e-6)
    assert (np.diff(codes.weights, axis=1) <= 0).all()
    assert all(len(set(row)) == 8 for row in codes.latents.tolist())
    assert codes.latents.max() < adapter.hidden_dim


def test_torch_stays_torch(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """Training code passes tensors and expects tensors, with the same codes."""
    codes, arrays = adapter.encode(torch.from_numpy(embeddings), 4), adapter.encode(embeddings, 4)
    assert codes.latents.dtype == torch.uint16
    np.testing.assert_array_equal(codes.latents.numpy(), arrays.latents)
    np.testing.assert_array_equal(codes.weights.numpy(), arrays.weights)


def test_default_k_is_32(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """32 is the documented default."""
    assert adapter.encode(embeddings[:1]).latents.shape == (1, 32)


def test_prefix_is_the_smaller_k(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """One index serves every k: the cut code must be the code."""
    cut, small = adapter.encode(embeddings, 8).prefix(3), adapter.encode(embeddings, 3)
    np.testing.assert_array_equal(cut.latents, small.latents)
    np.testing.assert_allclose(cut.weights, small.weights, rtol=1e-6)
    with pytest.raises(InvalidK, match="k is 4; these codes hold 1 … 3"):
        small.prefix(4)


def test_a_row_encodes_alike_in_any_batch(
    adapter: CSRAdapter, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query encoded alone must match the document encoded among thousands."""
    together = adapter.encode(embeddings, 8)
    order = np.random.default_rng(0).permutation(320)
    shuffled = adapter.encode(embeddings[order], 8)
    np.testing.assert_array_equal(shuffled.latents, together.latents[order])
    np.testing.assert_allclose(shuffled.weights, together.weights[order], atol=1e-6)
    monkeypatch.setattr("csr_model.encoding._VALUES_PER_CHUNK", 7 * 48)
    chunked = adapter.encode(embeddings, 8)
    np.testing.assert_array_equal(chunked.latents, together.latents)
    np.testing.assert_allclose(chunked.weights, together.weights, atol=1e-6)


def test_scale_of_the_input_does_not_matter(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """The metric is cosine: a scaled embedding, even a tiny or huge one, is the same point."""
    expected = adapter.encode(embeddings[:20], 8)
    for scale in (1e-8, 1e8):
        codes = adapter.encode(embeddings[:20] * np.float32(scale), 8)
        np.testing.assert_array_equal(codes.latents, expected.latents)
        np.testing.assert_allclose(codes.weights, expected.weights, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"linear_map": "labels", "gamma_labels": 1.0, "map_examples": 200}], ids=str)
def test_encoding_changes_nothing(
    config: Callable[..., CSRConfig], embeddings: np.ndarray, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Elsewhere inference advances dead-latent counters; here weights, buffers and input stay as they are."""
    adapter = fit(embeddings, np.arange(320) % 4, config=config(epochs=1, **changes)).adapter
    x = embeddings.copy()
    before = {name: tensor.clone() for name, tensor in adapter._autoencoder.state_dict().items()}
    usage = adapter.usage.clone()
    adapter.encode(x, 8)
    adapter.encode_to(tmp_path / "codes.npy", [x], 8)
    adapter.verify_parity()
    adapter.reconstruction_nmse(x)
    after = adapter._autoencoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(adapter.usage, usage)
    np.testing.assert_array_equal(x, embeddings)


def test_no_rows_give_no_codes(adapter: CSRAdapter) -> None:
    """An empty shard is not an error."""
    codes = adapter.encode(np.empty((0, 16), np.float32), 4)
    assert codes.latents.shape == codes.weights.shape == (0, 4)


def test_embedding_that_activates_nothing(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """Such a document is stored and never hit; its code must be zeros, not NaN."""
    import copy

    silent = copy.deepcopy(adapter)
    silent._autoencoder.latent_bias.fill_(-100)
    silent._autoencoder.freeze()
    codes = silent.encode(embeddings[:2], 4)
    assert codes.latents.tolist() == [[0] * 4] * 2
    assert codes.weights.tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("k", [0, -1, 33, 1.0, 2.5, True, "4", None, np.float32(4), np.array([1, 2])], ids=repr)
def test_k_is_a_bounded_whole_number(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path, k: Any) -> None:
    """Beyond 4·k_max no latent was trained for the code, and what is no count must not be taken for one."""
    with pytest.raises(InvalidK, match="this adapter encodes 1 … 32"):
        adapter.encode(embeddings, k)
    with pytest.raises(InvalidK):
        adapter.encode_to(tmp_path / "codes.npy", [embeddings], k)
    with pytest.raises(InvalidK, match="these codes hold 1 … 8"):
        adapter.encode(embeddings, 8).prefix(k)


def test_k_may_be_of_any_whole_type(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """A k that was computed with numpy is as good as any."""
    codes = adapter.encode(embeddings, np.int64(4)).prefix(np.uint8(2))
    np.testing.assert_array_equal(codes.latents, adapter.encode(embeddings, 2).latents)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_bad_rows_are_refused(adapter: CSRAdapter, embeddings: np.ndarray, bad: float) -> None:
    """A NaN that got into an index would be a document that no query finds."""
    x = embeddings.copy()
    x[3] = bad
    with pytest.raises(InvalidVector, match=r"embeddings\[3\]"):
        adapter.encode(x, 4)


def test_streaming_gives_what_encode_gives(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path) -> None:
    """Bulk loads read this file; uneven batches, empty ones included, must not show."""
    parts = np.split(embeddings, [1, 1, 120])
    assert adapter.encode_to(tmp_path / "codes.npy", iter(parts), 6) == 320
    codes, expected = read_codes(tmp_path / "codes.npy"), adapter.encode(embeddings, 6)
    np.testing.assert_array_equal(codes.latents, expected.latents)
    np.testing.assert_allclose(codes.weights, expected.weights, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["codes.npy"]


def test_streaming_of_a_bad_row_leaves_the_old_file(
    adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path
) -> None:
    """Half a file under the final name would be loaded as if it were whole."""
    path = tmp_path / "codes.npy"
    adapter.encode_to(path, [embeddings[:5]], 4)
    with pytest.raises(InvalidVector, match=r"embeddings\[320\]"):
        adapter.encode_to(path, [embeddings, np.zeros((1, 16))], 4)
    assert len(read_codes(path).latents) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes.npy"]


def test_streaming_holds_one_batch(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path) -> None:
    """Ten million rows must stream: no batch may be asked for before the last one was let go."""
    import gc
    import weakref

    alive: list[Any] = []

    def batches() -> Any:
        for _ in range(6):
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 1
            batch = embeddings.copy()
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    assert adapter.encode_to(tmp_path / "codes.npy", batches(), 4) == 6 * 320


def test_streaming_needs_no_memory_for_rows_done(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path) -> None:
    """Between 100,000 and 400,000 rows codes take 14 MB: a stream that kept them would outgrow its machine."""
    process, sizes = psutil.Process(), {}

    def batches() -> Iterator[np.ndarray]:
        for done in range(0, 400_001, 10_000):
            sizes[done] = process.memory_info().rss
            yield np.resize(embeddings, (10_000, 16))

    assert adapter.encode_to(tmp_path / "codes.npy", batches(), 8) == 410_000
    assert sizes[400_000] - sizes[100_000] < 6_000_000


def test_usage_counts_the_training_rows(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """Drift is measured against this histogram."""
    codes = adapter.encode(embeddings, adapter.k_max)
    expected = np.bincount(codes.latents[codes.weights > 0], minlength=48)
    assert adapter.usage.tolist() == expected.tolist()
    assert adapter.manifest.usage_rows == 320


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_bad_rows_are_named_across_chunks(
    adapter: CSRAdapter, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Rows are checked chunk by chunk; the number must still be that of the caller's array."""
    monkeypatch.setattr("csr_model.encoding._VALUES_PER_CHUNK", 7 * 48)
    x = embeddings.copy()
    x[217] = np.nan
    for measure in (adapter.encode, adapter.reconstruction_nmse):
        with pytest.raises(InvalidVector, match=r"embeddings\[217\]"):
            measure(kind(x))


@pytest.mark.parametrize("measure", ["encode", "reconstruction_nmse"])
def test_needs_little_memory_beyond_input_and_output(
    adapter: CSRAdapter, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    """Half-precision files are read as float32 only piece by piece: a whole copy would be twice their size."""
    monkeypatch.setattr("csr_model.encoding._VALUES_PER_CHUNK", 100_000)
    x = np.resize(embeddings.astype(np.float16), (600_000, 16))
    getattr(adapter, measure)(x[:20_000])
    process, largest, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.002):
            largest = max(largest, process.memory_info().rss)

    before, watcher = process.memory_info().rss, threading.Thread(target=watch)
    watcher.start()
    result = adapter.encode(x, 4) if measure == "encode" else adapter.reconstruction_nmse(x)
    done.set()
    watcher.join()
    output = result.latents.nbytes + result.weights.nbytes if measure == "encode" else 0
    assert largest - before < output + 12_000_000


def test_reconstruction_error_is_the_share_of_variance(
    adapter: CSRAdapter, embeddings: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is compared with other methods': it must be the usual one, whatever the chunks."""
    model = adapter.autoencoder
    x = model.preprocess(torch.from_numpy(embeddings))
    restored = model.reconstruct(model.encode(torch.from_numpy(embeddings), 8), adapter.levels)
    expected = [float((x - level).square().sum() / (x - x.mean(0)).square().sum()) for level in restored]
    for values in (4_194_304, 7 * 48):
        monkeypatch.setattr("csr_model.encoding._VALUES_PER_CHUNK", values)
        assert list(adapter.reconstruction_nmse(embeddings).values()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [[], [0], [3, 3, 3]], ids=str)
def test_reconstruction_error_of_rows_alike_is_refused(
    adapter: CSRAdapter, embeddings: np.ndarray, rows: list[int]
) -> None:
    """Without variance there is no share of it; Inf would be logged as if it were a quality."""
    with pytest.raises(InvalidVector, match=f"the {len(rows)} embeddings are alike"):
        adapter.reconstruction_nmse(embeddings[np.array(rows, int)])


def test_reconstruction_error_falls_with_k(adapter: CSRAdapter, embeddings: np.ndarray) -> None:
    """NMSE is logged for each level: more latents explain more, and 1 would mean nothing was learned."""
    errors = adapter.reconstruction_nmse(embeddings)
    assert list(errors) == [2, 4, 8]
    assert 1 > errors[2] > errors[4] > errors[8] > 0
