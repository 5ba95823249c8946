"""The real MiniLM, from the packages' cache."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestration.data.catalog import fetch_backbone
from services.encoder.backbone import BackboneUnusable, Precision, TextBackbone, weights_sha256
from services.runtime.errors import InvalidRequest, LimitExceeded
from services.runtime.settings import load_settings

TEXTS = [
    "a cat sat on the mat",
    "Quarterly revenue grew by four percent.",
    "ein deutscher Satz über Bäume und Straßen",
    "x",
    "the space shuttle was launched into a low orbit on a clear morning " * 3,
    "日本語の文",
    "GPUs, TPUs & CPUs: what's the difference?!",
    "🙂 emoji and\ttabs\nand lines",
] * 3


@pytest.fixture(scope="module")
def minilm() -> Path:
    """Folder of the packaged backbone."""
    return fetch_backbone(load_settings().cache_dir)


@pytest.fixture(scope="module")
def backbone(minilm: Path) -> TextBackbone:
    """The backbone in full precision."""
    return TextBackbone.load(minilm, max_tokens=64, device="cpu", precision="float32")


@pytest.fixture
def changed(minilm: Path, tmp_path: Path) -> Callable[[str, object], Path]:
    """Return a copy of the backbone with one JSON file replaced, or left out where that is None."""

    def copy(name: str, content: object) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in minilm.iterdir():
            if path.name != name:
                (folder / path.name).symlink_to(path)
        if content is not None:
            (folder / name).write_text(json.dumps(content))
        return folder

    return copy


def test_equals_sentence_transformers(backbone: TextBackbone, minilm: Path) -> None:
    """Embeddings made by other tools from the same model would not match ours."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    reference.max_seq_length = 64
    expected = reference.encode(TEXTS, batch_size=7, show_progress_bar=False)
    np.testing.assert_allclose(backbone.embed(TEXTS).embeddings, expected, atol=1e-6)


def test_bfloat16_stays_close(backbone: TextBackbone, minilm: Path) -> None:
    """Machines with and without fast bfloat16 would give different search results."""
    reduced = TextBackbone.load(minilm, max_tokens=64, device="cpu", precision="bfloat16").embed(TEXTS).embeddings
    assert reduced.dtype == np.float32
    assert (reduced * backbone.embed(TEXTS).embeddings).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_text_embeds_alike_in_any_batch(minilm: Path, precision: Precision) -> None:
    """The same query would find different documents depending on who else is searching."""
    backbone = TextBackbone.load(minilm, max_tokens=64, device="cpu", precision=precision)
    together = backbone.embed(TEXTS).embeddings
    for position, text in enumerate(TEXTS[:8]):
        alone = backbone.embed([text]).embeddings[0]
        assert together[position] @ alone >= 0.9999
        if precision == "float32":
            np.testing.assert_allclose(together[position], alone, atol=1e-6)


def test_measured_precision_is_one_of_the_two(minilm: Path) -> None:
    """A backbone loaded without choosing would not work."""
    backbone = TextBackbone.load(minilm, max_tokens=16)
    assert backbone.precision in ("float32", "bfloat16")
    np.testing.assert_allclose(np.linalg.norm(backbone.embed(["a text"]).embeddings, axis=1), 1, atol=1e-3)


def test_describes_itself(backbone: TextBackbone, minilm: Path) -> None:
    """Replies and caches would not say which backbone made an embedding."""
    assert (backbone.name, backbone.dim, backbone.max_tokens) == ("all-MiniLM-L6-v2", 384, 64)
    assert backbone.sha256 == weights_sha256(minilm)
    assert backbone.sha256.startswith("53aa51172d142c89")


def test_token_counts_include_special_tokens(backbone: TextBackbone) -> None:
    """Users could not tell how close their texts are to the limit."""
    result = backbone.embed(["cat", "cat dog", "cat " * 62])
    assert result.token_counts.tolist() == [3, 4, 64]
    assert not result.truncated.any()


def test_long_text_is_refused_by_position(backbone: TextBackbone) -> None:
    """Long documents would lose their end without anybody noticing."""
    with pytest.raises(LimitExceeded, match=r"^texts\[1\] has 65 tokens, the limit is 64$"):
        backbone.embed(["cat", "cat " * 63, "cat " * 500])


def test_truncation_is_reported_and_exact(backbone: TextBackbone) -> None:
    """A truncated text would embed as something else than its beginning, or be reported wrongly."""
    result = backbone.embed(["cat", "cat " * 1000, "cat " * 62], allow_truncation=True)
    assert result.token_counts.tolist() == [3, 1002, 64]
    assert result.truncated.tolist() == [False, True, False]
    np.testing.assert_allclose(result.embeddings[1], result.embeddings[2], atol=1e-6)


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b\x00"])
def test_empty_text_is_refused_by_position(backbone: TextBackbone, text: str) -> None:
    """Empty documents would all be neighbours of each other."""
    with pytest.raises(InvalidRequest, match=r"^texts\[2\] is empty"):
        backbone.embed(["a", "b", text], allow_truncation=True)


def test_no_texts_no_embeddings(backbone: TextBackbone) -> None:
    """An empty chunk would be a crash."""
    result = backbone.embed([])
    assert result.embeddings.shape == (0, 384)
    assert result.token_counts.shape == result.truncated.shape == (0,)


def test_threads_share_a_backbone(backbone: TextBackbone) -> None:
    """Concurrent requests to one replica would get each other's embeddings or fail."""
    expected = backbone.embed(TEXTS).embeddings
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: backbone.embed(TEXTS).embeddings, range(8)):
            np.testing.assert_allclose(result, expected, atol=1e-6)


def test_folder_that_is_no_backbone(tmp_path: Path, changed: Callable[[str, object], Path]) -> None:
    """A wrong path would be looked up on the internet, or pickled weights would be loaded."""
    with pytest.raises(BackboneUnusable, match="is not a sentence-transformers folder"):
        TextBackbone.load(tmp_path, 64)
    with pytest.raises(BackboneUnusable, match="cannot be loaded"):
        TextBackbone.load(changed("model.safetensors", None), 64)


def test_folder_without_weights_has_no_hash(tmp_path: Path) -> None:
    """Embeddings would be cached under the hash of nothing."""
    with pytest.raises(BackboneUnusable, match="has no safetensors weights"):
        weights_sha256(tmp_path)


def test_backbone_with_a_prompt_is_refused(changed: Callable[[str, object], Path]) -> None:
    """Texts would be embedded without the prompt that the model was trained with."""
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    with pytest.raises(BackboneUnusable, match="puts a prompt before every text"):
        TextBackbone.load(changed("config_sentence_transformers.json", prompts), 64)


@pytest.mark.parametrize("max_tokens", [2, 257])
def test_token_limit_out_of_range(minilm: Path, max_tokens: int) -> None:
    """Positions that the model has never seen would be embedded badly."""
    with pytest.raises(BackboneUnusable, match=f"max_tokens: all-MiniLM-L6-v2 takes 3 to 256, not {max_tokens}"):
        TextBackbone.load(minilm, max_tokens)


def test_the_hub_stays_off(backbone: TextBackbone) -> None:
    """A server without internet access would hang at start, and one with it would phone home."""
    from huggingface_hub import constants

    assert backbone.name
    assert constants.HF_HUB_OFFLINE
