"""The memtable's table of ids."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.index.core import ids
from services.index.core.memtable import Memtable
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows

NAMES = st.text(min_size=1, max_size=3) | st.sampled_from(["a", "aa", "a\x00", "\x00", "ä", "日本"])


def rows(names: list[str]) -> tuple[Ragged, Rows]:
    """Return packed names, and documents of these names without content."""
    packed, count = ids.pack(names), len(names)
    empty = np.zeros((count, 1), np.uint16)
    return packed, Rows(empty, empty, packed, np.zeros(count, np.uint16), {})


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.tuples(st.lists(NAMES, unique=True, max_size=8), st.booleans()), max_size=8),
    wanted=st.lists(NAMES, unique=True, max_size=8),
)
def test_the_newest_published_row_of_an_id_is_found(batches: list[tuple[list[str], bool]], wanted: list[str]) -> None:
    """An upsert would leave the old version alive beside the new one, or hide another document."""
    memtable, expected, length = Memtable(64, 1, {}), {}, 0
    for names, published in batches:
        packed, added = rows(names)
        memtable.write(length, added)
        if published:
            expected |= {name: length + row for row, name in enumerate(names)}
            length += len(names)
        assert memtable.find(packed, length).tolist() == [expected.get(name, -1) for name in names]
    assert memtable.find(ids.pack(wanted), length).tolist() == [expected.get(name, -1) for name in wanted]


def test_a_view_keeps_its_ids_when_later_ones_need_more_room() -> None:
    """A search would read another document's id, or garbage."""
    memtable = Memtable(8, 1, {})
    memtable.write(0, rows(["first"])[1])
    view = memtable.view(1)
    memtable.write(1, rows(["x" * 128, "y" * 128])[1])
    assert view.ids.row(0).tobytes() == b"first"
    assert memtable.view(3).ids.row(2).tobytes() == b"y" * 128
    assert memtable.find(ids.pack(["y" * 128, "first", "z"]), 3).tolist() == [2, 0, -1]
