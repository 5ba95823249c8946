"""The memtable: its table of ids, and how it grows."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.index.core import ids, writer
from services.index.core.index import SparseIndex
from services.index.core.memtable import Memtable
from services.index.core.ragged import Ragged
from services.index.core.rows import Rows
from services.index.core.where import Eq
from tests.services.index.core.data import held

NAMES = st.text(min_size=1, max_size=3) | st.sampled_from(["a", "aa", "a\x00", "\x00", "ä", "日本"])


def rows(names: list[str]) -> tuple[Ragged, Rows]:
    """Return packed names, and documents of these names without content."""
    packed, count = ids.pack_ids(names), len(names)
    empty = np.zeros((count, 1), np.uint16)
    return packed, Rows(empty, empty, packed, np.zeros(count, np.uint16), np.zeros(count, np.uint64), {})


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
    assert memtable.find(ids.pack_ids(wanted), length).tolist() == [expected.get(name, -1) for name in wanted]


def test_a_view_keeps_its_ids_when_later_ones_need_more_room() -> None:
    """A search would read another document's id, or garbage."""
    memtable = Memtable(8, 1, {})
    memtable.write(0, rows(["first"])[1])
    view = memtable.view(1)
    memtable.write(1, rows(["x" * 128, "y" * 128])[1])
    assert view.ids.row(0).tobytes() == b"first"
    assert memtable.view(3).ids.row(2).tobytes() == b"y" * 128
    assert memtable.find(ids.pack_ids(["y" * 128, "first", "z"]), 3).tolist() == [2, 0, -1]


def test_a_growing_memtable_keeps_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents would lose fields or versions, come back after a delete, or change under a search that began before."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 100)
    index, moments = SparseIndex(4, 1, {"number": "int", "word": "keyword", "tags": "keywords"}), []
    query = np.array([[1]]), np.ones((1, 1), np.float32)
    for row in range(100):
        fields = [{"number": row, "word": f"w{row % 7}", "tags": [f"t{row}", "all"]}]
        index.upsert([f"{row:03d}"], *query, fields, [row % 5], [row << 40])
        if row % 3 == 2:
            assert index.delete([f"{row - 1:03d}"]) == 1
        moments.append((index.state, index.ids()))
    assert (len(index.state.parts), len(index.state.recent)) == (0, 100)
    assert held(index) == {name: (int(name) << 40, int(name) % 5) for name in index.ids()}
    for state, names in moments:
        assert [name for name, _ in index.search(*query, 1000, at=state)[0]] == names
    names = moments[-1][1]
    for where, expected in (
        (Eq("number", 65), ["065"]),
        (Eq("word", "w3"), [name for name in names if int(name) % 7 == 3]),
        (Eq("tags", "t8"), ["008"]),
        (Eq("tags", "all"), names),
    ):
        assert [name for name, _ in index.search(*query, 1000, where=where)[0]] == expected
    index.upsert(["more"], *query)
    assert (len(index.state.parts), index.ids()) == (1, [*names, "more"])


def test_an_empty_index_takes_next_to_nothing() -> None:
    """A server with a thousand small collections would need half a gigabyte for nothing."""
    fields = {"language": "keyword", "year": "int"}
    SparseIndex(4096, 32, fields)
    tracemalloc.start()
    try:
        indexes = [SparseIndex(4096, 32, fields) for _ in range(100)]
        taken = tracemalloc.get_traced_memory()[0] / 100
    finally:
        tracemalloc.stop()
    assert indexes[0].statistics().bytes < taken < 20_000
