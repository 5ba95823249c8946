from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestration.data.cache import DataUnavailable
from orchestration.data.split import data_digest, load_split, save_split
from orchestration.data.texts import LabelledTexts

TEXTS = LabelledTexts(("a", "b", "ü"), ("first", "second\n", "dritter Täxt"), (1, 0, 1), ("no", "yes"))


def _embeddings() -> NDArray[np.float16]:
    return np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)


@pytest.mark.parametrize("texts", [TEXTS, replace(TEXTS, labels=None)], ids=["labels", "no labels"])
def test_round_trip(tmp_path: Path, texts: LabelledTexts) -> None:
    """A second run would train on something else than the first."""
    save_split(tmp_path, texts, _embeddings(), {})
    split = load_split(tmp_path)
    assert (tuple(split.ids), tuple(split.texts), tuple(split.label_names)) == (
        texts.ids,
        texts.texts,
        texts.label_names,
    )
    assert (None if split.labels is None else tuple(split.labels)) == texts.labels
    assert split.embeddings.dtype == np.float32
    np.testing.assert_array_equal(split.embeddings, _embeddings())
    assert split.digest == data_digest(split.ids, split.embeddings, split.labels)


def test_data_digest_sees_every_column() -> None:
    """Runs on different data would be recorded as runs on the same."""
    x, labels = _embeddings().astype(np.float32), np.array([1, 0, 1])
    known = data_digest(["a", "b", "c"], x, labels)
    others = [
        data_digest(["a", "b", "d"], x, labels),
        data_digest(["a", "b", "c"], x[::-1], labels),
        data_digest(["a", "b", "c"], x, labels[::-1] + 1),
        data_digest(["a", "b", "c"], x, None),
    ]
    assert known not in others


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_unusable_embedding_is_named(tmp_path: Path, value: float) -> None:
    """Training would fail later with a loss that is not a number."""
    embeddings = _embeddings()
    embeddings[1] = value
    with pytest.raises(DataUnavailable, match="the embedding of b is zero or not finite"):
        save_split(tmp_path, TEXTS, embeddings, {})


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A flipped bit on disk would change results without a word."""
    save_split(tmp_path, TEXTS, _embeddings(), {})
    path = tmp_path / "embeddings.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataUnavailable, match=r"is damaged .* delete it and run again"):
        load_split(tmp_path)
    path.unlink()
    with pytest.raises(DataUnavailable, match=r"cannot be read .* delete it and run again"):
        load_split(tmp_path)
    for description in ("", "{}", "[]", "no JSON"):
        save_split(tmp_path, TEXTS, _embeddings(), {})
        (tmp_path / "split.json").write_text(description)
        with pytest.raises(DataUnavailable, match=r"cannot be read .* delete it and run again"):
            load_split(tmp_path)
