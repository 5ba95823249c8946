"""Every write that the index refuses: the error names what is wrong, and nothing has changed."""

from typing import Any

import numpy as np
import pytest

from services.index.core import errors
from services.index.core.index import SparseIndex
from tests.services.index.core.conftest import everything
from tests.services.index.core.data import single

CODE = single([1, 2], [1.0, 0.5])
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([""], r"ids\[0\] must have 1\.\.128 bytes of UTF-8, not 0"),
        (["é" * 65], r"ids\[0\] must have 1\.\.128 bytes of UTF-8, not 130"),
        ([7], r"ids\[0\] must be str, not int"),
        (["\ud800"], r"ids\[0\] is not valid Unicode text"),
        (["a", "a"], "'a' is given 2 times"),
        ("a", "ids must be a sequence of str, not str"),
        (None, "ids must be a sequence of str, not NoneType"),
        (7, "ids must be a sequence of str, not int"),
        ({"a": 1}, "ids must be a sequence of str, not dict"),
    ],
)
def test_impossible_ids(untouched: SparseIndex, ids: Any, message: str) -> None:
    """Documents would be stored under ids that no one can name."""
    count = 2 if ids == ["a", "a"] else 1
    with pytest.raises(errors.InvalidId, match=message):
        untouched.upsert(ids, np.tile([1], (count, 1)), np.ones((count, 1), np.float32))
    with pytest.raises(errors.InvalidId, match=message):
        untouched.delete(ids)
    with pytest.raises(errors.InvalidId, match=message):
        untouched.explain(**CODE, ids=ids)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": ["a", "b"]}, errors.InvalidRows, "ids must be one for each of 1 codes, not 2"),
        ({"fields": []}, errors.InvalidRows, "fields must have one record for each of 1 ids, not 0"),
        ({"partitions": [1, 2]}, errors.InvalidRows, r"partitions must be integers \[1\]"),
        ({"partitions": [0.5]}, errors.InvalidRows, r"partitions must be integers \[1\], not float64"),
        ({"partitions": [[1], [2, 3]]}, errors.InvalidRows, "partitions must be an array: .* inhomogeneous"),
        ({"partitions": [65_536]}, errors.InvalidRows, r"partitions must lie in 0\.\.65535"),
        ({"partitions": [-1]}, errors.InvalidRows, r"partitions must lie in 0\.\.65535"),
        ({"versions": [1, 2]}, errors.InvalidRows, r"versions must be integers \[1\], not int64 \[2\]"),
        ({"versions": [0.5]}, errors.InvalidRows, r"versions must be integers \[1\], not float64"),
        ({"versions": [-1]}, errors.InvalidRows, r"versions must lie in 0\.\.9223372036854775807, not -1"),
        ({"versions": [1 << 63]}, errors.InvalidRows, r"versions must lie in 0\.\.9223372036854775807"),
        ({"versions": [1 << 64]}, errors.InvalidRows, r"versions must be integers \[1\], not object"),
        ({"fields": 5}, errors.InvalidRows, "fields must be a sequence of records, not int"),
        ({"fields": {"year": 1}}, errors.InvalidRows, "fields must be a sequence of records, not dict"),
        ({"fields": ["year"]}, errors.InvalidField, r"fields\[0\] must be a mapping from name to value, not str"),
        ({"fields": [[]]}, errors.InvalidField, r"fields\[0\] must be a mapping from name to value, not list"),
        ({"fields": [{"colour": 1}]}, errors.UnknownField, r"fields\[0\]: 'colour' is not declared"),
        ({"fields": [{"language": 1}]}, errors.InvalidField, r"fields\[0\]: 'language' must be keyword, not 1"),
        ({"fields": [{"language": "\ud800"}]}, errors.InvalidField, "'language' must be keyword"),
        ({"fields": [{"year": 1.0}]}, errors.InvalidField, "'year' must be int, not 1.0"),
        ({"fields": [{"year": True}]}, errors.InvalidField, "'year' must be int, not True"),
        ({"fields": [{"year": 1 << 63}]}, errors.InvalidField, "'year' must be int"),
        ({"fields": [{"price": float("nan")}]}, errors.InvalidField, "'price' must be float, not nan"),
        ({"fields": [{"year": np.float64(1.0)}]}, errors.InvalidField, r"'year' must be int, not np.float64\(1.0\)"),
        ({"fields": [{"year": np.True_}]}, errors.InvalidField, "'year' must be int, not np.True_"),
        ({"fields": [{"year": np.uint64(1 << 63)}]}, errors.InvalidField, "'year' must be int"),
        ({"fields": [{"year": np.timedelta64(1)}]}, errors.InvalidField, "'year' must be int"),
        ({"fields": [{"price": np.float32("inf")}]}, errors.InvalidField, "'price' must be float"),
        ({"fields": [{"public": np.int64(1)}]}, errors.InvalidField, "'public' must be bool"),
        ({"fields": [{"public": 1}]}, errors.InvalidField, "'public' must be bool, not 1"),
        ({"fields": [{"tags": "x"}]}, errors.InvalidField, "'tags' must be keywords, not 'x'"),
        ({"fields": [{"tags": ["x", 1]}]}, errors.InvalidField, "'tags' must be keywords"),
        (single([0, 1, 2, 3, 4], [1.0] * 5), errors.InvalidCode, "latents of row 0 must be at most 4"),
        (single([8], [1.0]), errors.InvalidCode, r"latents of row 0 must lie in 0\.\.7"),
    ],
)
def test_impossible_upserts(
    untouched: SparseIndex, arguments: dict[str, Any], error: type[errors.CoreError], message: str
) -> None:
    """Part of a wrong batch would be stored, or a document replaced by nothing."""
    with pytest.raises(error, match=message):
        untouched.upsert(**{"ids": ["kept"], **CODE, **arguments})


@pytest.mark.parametrize(
    ("latents", "weights", "message"),
    [
        ([[1, 2], [1, 2], [3, 3]], [[1.0, 0.5]] * 3, "latents of row 2 must not repeat"),
        ([[1, 2], [8, 2]], [[1.0, 0.5]] * 2, r"latents of row 1 must lie in 0\.\.7"),
        ([[1, 2], [1, -1]], [[1.0, 0.5]] * 2, r"latents of row 1 must lie in 0\.\.7"),
        ([[1, 2], [1, 2]], [[1.0, 0.5], [NAN, 0.5]], "weights of row 1 must be finite"),
        ([[1, 2], [1, 2]], [[1.0, 0.5], [1.0, -INF]], "weights of row 1 must be finite"),
        ([[1, 2], [1, 2]], [[1.0, 0.5], [1.0, -0.5]], "weights of row 1 must not be negative"),
        ([[1, 2], [1, 2]], [[1.0, 0.5], [0.0, 0.5]], "weights of row 1 must not have a zero before a positive weight"),
        ([[1, 2], [1, 2]], [[1.0, 0.5], [0.5, 1.0]], "weights of row 1 must descend"),
        ([[1.0, 2.0]], [[1.0, 0.5]], r"latents must be integers \[n, k\], not float64 \[1, 2\]"),
        ([["1", "2"]], [[1.0, 0.5]], r"latents must be integers \[n, k\], not <U1 \[1, 2\]"),
        ([1, 2], [1.0, 0.5], r"latents must be integers \[n, k\], not int64 \[2\]"),
        ([[[1, 2]]], [[[1.0, 0.5]]], r"latents must be integers \[n, k\], not int64 \[1, 1, 2\]"),
        ([[1, 2]], [[2, 1]], r"weights must be float32 \[1, 2\], not int64 \[1, 2\]"),
        ([[1, 2]], [[1.0]], r"weights must be float32 \[1, 2\], not float64 \[1, 1\]"),
    ],
)
def test_impossible_codes(untouched: SparseIndex, latents: Any, weights: Any, message: str) -> None:
    """A broken encoder's codes would be stored beside good ones, or searched for without a word."""
    names = ["kept", "new", "newer"][: len(latents)]
    with pytest.raises(errors.InvalidCode, match=message):
        untouched.upsert(names, np.array(latents), np.array(weights))
    with pytest.raises(errors.InvalidCode, match=message):
        untouched.search(np.array(latents), np.array(weights), top_n=5)


@pytest.mark.parametrize(
    ("lengths", "latents", "weights", "message"),
    [
        ([1, 2], [1, 3, 3], [9, 9, 8], "latents of row 1 must not repeat"),
        ([1, 1], [1, 8], [9, 9], r"latents of row 1 must lie in 0\.\.7"),
        ([1, 2], [1, 2, 3], [9, 8, 9], "weights of row 1 must descend"),
        ([1, 2], [1, 2, 3], [9, 8, 0], "weights of row 1 must not be 0"),
        ([0, 5], [0, 1, 2, 3, 4], [9] * 5, r"lengths must lie in 0\.\.4, not 0\.\.5"),
        ([1, 1], [1], [9, 9], r"latents must be integers \[2\], not int64 \[1\]"),
        ([1, 1], [1, 2], [9], r"weights must be uint16 \[2\], not uint16 \[1\]"),
    ],
)
def test_impossible_stored_codes(
    untouched: SparseIndex, lengths: list[int], latents: list[int], weights: list[int], message: str
) -> None:
    """A damaged entry of the log would be stored."""
    with pytest.raises(errors.InvalidCode, match=message):
        untouched.upsert_quantised(["kept", "new"], lengths, latents, np.array(weights, np.uint16))


@pytest.mark.parametrize("partitions", [3, [65_536], [-1], ["3"], [3.0], [True], None])
def test_impossible_drops(untouched: SparseIndex, partitions: Any) -> None:
    """Documents of a partition that nobody named would be removed."""
    with pytest.raises(errors.InvalidRows, match=r"partitions must be .*0\.\.65535, not "):
        untouched.drop_partitions(partitions)


RAGGED = [[1, 2], [3]]


def test_ragged_lists(untouched: SparseIndex) -> None:
    """A client with a bug would get an error that speaks of numpy instead of its argument."""
    names = ["kept", "new"]
    calls = [
        ("latents", lambda: untouched.upsert(names, RAGGED, np.ones((2, 2), np.float32))),
        ("weights", lambda: untouched.upsert(names, np.ones((2, 2), np.int64), RAGGED)),
        ("latents", lambda: untouched.search(RAGGED, np.ones((2, 2), np.float32), 5)),
        ("lengths", lambda: untouched.upsert_quantised(names, RAGGED, [1, 2], np.ones(2, np.uint16))),
        ("latents", lambda: untouched.upsert_quantised(names, [1, 1], RAGGED, np.ones(2, np.uint16))),
        ("weights", lambda: untouched.upsert_quantised(names, [1, 1], [1, 2], RAGGED)),
    ]
    for name, call in calls:
        with pytest.raises(errors.InvalidCode, match=f"{name} must be an array: .* inhomogeneous"):
            call()


@pytest.mark.parametrize("failing", ["segment.build", "ids.find_rows"])
def test_a_failure_inside_a_write_changes_nothing(
    index: SparseIndex, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Running out of memory in a write would lose documents that were there before."""

    def fail(*_: Any) -> None:
        raise MemoryError

    def write(begin: int) -> None:
        names = [f"{row}" for row in range(begin, begin + 8_192)]
        index.upsert(names, np.tile([1], (8_192, 1)), np.ones((8_192, 1), np.float32))

    write(0)
    index.settle()
    before = everything(index)
    with monkeypatch.context() as patched:
        patched.setattr(f"services.index.core.{failing}", fail)
        with pytest.raises(MemoryError):
            write(4_096)
    assert everything(index) == before
    write(4_096)
    assert len(index) == 12_288 + 1
