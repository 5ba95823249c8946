from dataclasses import replace

import pytest

from orchestration.data.texts import LabelledTexts

TEN = LabelledTexts(
    ids=tuple(f"train-{row:05d}" for row in range(10)),
    texts=tuple(f"text {row}" for row in range(10)),
    labels=tuple(row % 2 for row in range(10)),
    label_names=("even", "odd"),
)


def test_sample_is_the_same_everywhere() -> None:
    """Published numbers could not be reproduced on another machine or version."""
    assert [text_id[-1] for text_id in TEN.sample(10, seed=0).ids] == list("1384027596")


def test_columns_stay_together() -> None:
    """Texts would get the labels of others."""
    sample = TEN.sample(7, seed=3)
    assert sample.labels is not None
    for text_id, text, label in zip(sample.ids, sample.texts, sample.labels, strict=True):
        assert text == f"text {int(text_id[-5:])}"
        assert label == int(text_id[-5:]) % 2


def test_smaller_sample_begins_the_larger_one() -> None:
    """A run on fewer rows would not be comparable with a run on more."""
    assert TEN.sample(4, seed=1) == TEN.sample(9, seed=1).keep(range(4))
    assert TEN.sample(10, seed=1) != TEN.sample(10, seed=2)


def test_unlabelled_texts_stay_unlabelled() -> None:
    """Sets without labels could not be sampled."""
    assert replace(TEN, labels=None).sample(4, seed=0).labels is None


@pytest.mark.parametrize(
    "other",
    [
        TEN.keep(range(9)),
        TEN.keep([1, 0, *range(2, 10)]),
        replace(TEN, labels=None),
        replace(TEN, labels=(1,) * 10),
        replace(TEN, texts=("text O", *TEN.texts[1:])),
    ],
    ids=["fewer", "order", "no labels", "label", "text"],
)
def test_digest_sees_every_change(other: LabelledTexts) -> None:
    """Embeddings of other texts would be taken from the cache."""
    assert other.digest() != TEN.digest()
