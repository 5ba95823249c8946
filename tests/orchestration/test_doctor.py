"""Comparisons of what a partition holds in different places, at different positions."""

from hypothesis import given
from hypothesis import strategies as st

from orchestration.doctor import IDS_MAX, Content, difference, differing_ids, moved
from services.index.store.entry import LogEntry, combine_digests, document_digest


def history(changes: list[tuple[str, bool]]) -> tuple[list[LogEntry], list[Content]]:
    """Return the log of upserts and deletions, and the content at every position, each computed from all documents."""
    live: dict[str, int] = {}
    entries, contents = [], [content_of(0, live)]
    for lsn, (id, deleted) in enumerate(changes, 1):
        previous, version = live.get(id, 0), 1000 + lsn
        entries.append(LogEntry(lsn, id, version, deleted, bytes(8), b"", bytes(8), bytes(20), previous))
        if deleted:
            live.pop(id, None)
        else:
            live[id] = version
        contents.append(content_of(lsn, live))
    return entries, contents


def content_of(lsn: int, live: dict[str, int]) -> Content:
    """Return the content that these documents make."""
    digest = combine_digests(document_digest(id, version) for id, version in live.items())
    return Content(lsn, len(live), digest.hex())


changes = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=20)


@given(changes, st.data())
def test_a_content_is_known_at_every_position(changed: list[tuple[str, bool]], data: st.DataObject) -> None:
    """A doctor would raise false alarms while documents are written, or compare nothing."""
    entries, contents = history(changed)
    begin = data.draw(st.integers(0, len(changed)))
    end = data.draw(st.integers(0, len(changed)))
    assert moved(contents[begin], entries, end) == contents[end]


def test_what_is_the_same_has_no_difference() -> None:
    """Healthy deployments would be reported as broken."""
    assert difference(content_of(7, {"a": 1}), content_of(7, {"a": 1})) is None


def test_a_difference_says_what_it_is() -> None:
    """An operator could not tell lost documents from outdated ones."""
    whole = content_of(7, {"a": 1, "b": 2})
    assert difference(whole, content_of(7, {"a": 1})) == "1 documents at 7, the log says 2"
    other = difference(whole, content_of(7, {"a": 1, "b": 3}))
    assert other == "other documents or versions than the log says, at 7 (2 documents)"


def test_documents_are_named_with_what_is_wrong() -> None:
    """An operator would have to search for the documents that differ."""
    expected = {"a": 1, "b": 2, "c": 3, "moving": 1}
    assert differing_ids(expected, {"b": 2, "c": 9, "d": 4, "moving": 1}) == (
        "a: missing",
        "c: version 9, should be 3",
        "d: should not be there (version 4)",
    )


def test_only_some_documents_are_named() -> None:
    """A lost partition would fill the screen."""
    assert differing_ids({f"{row:04}": 1 for row in range(1000)}, {}) == tuple(
        f"{row:04}: missing" for row in range(IDS_MAX)
    )
