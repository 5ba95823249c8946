from dataclasses import replace

import numpy as np

from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit

TRAIN = EmbeddedSplit.of(["a", "b"], np.eye(2, dtype=np.float32), None, [], ["", ""])
SET = EmbeddedSet("set", TRAIN, None, TRAIN, TRAIN, np.array([[0, 1]]))


def test_digest_sees_rows_pairs_and_answers() -> None:
    """Models trained or judged on different data would be recorded as equals."""
    other = replace(TRAIN, digest="0" * 64)
    rows = np.array([[0, 1]])
    sets = [
        SET,
        replace(SET, train=other),
        replace(SET, documents=other),
        replace(SET, queries=other),
        replace(SET, pairs=rows),
        replace(SET, relevant=None),
        replace(SET, relevant=None, pairs=rows),
        replace(SET, relevant=rows[:, ::-1]),
    ]
    assert len({each.digest for each in sets}) == len(sets)
    assert replace(SET, name="renamed").digest == SET.digest
