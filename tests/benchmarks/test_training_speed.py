import json

import pytest

from benchmarks.encoding_memory import encoding_memory
from benchmarks.training_speed import THEIRS, Workload, compare, memory_text, timed


def test_every_task_is_timed_on_both_sides() -> None:
    """The published ratios must come from runs of both, on each objective and on encoding."""
    found = compare(Workload(16, 256, batch_size=32, steps=2, rounds=2), "cpu")
    assert [line.task.split(",")[0] for line in found] == ["train", "train", "train", "encode"]
    for line in found:
        assert line.rows_per_second > 0
        assert line.their_rows_per_second == pytest.approx(line.rows_per_second / line.ratio_of_medians)


def test_runs_alternate_after_one_that_does_not_count() -> None:
    """Runs one after another would give whoever runs in a quiet moment the better figure."""
    order: list[str] = []
    seconds = timed({"ours": lambda: order.append("o"), THEIRS: lambda: order.append("t")}, Workload(1, 1), "cpu")
    assert "".join(order) == "ot" * 6
    assert [len(rounds) for rounds in seconds.values()] == [5, 5]


def test_memory_is_sampled_along_the_stream() -> None:
    """Flat memory is shown by its points; the text must say what is extrapolated."""
    held = encoding_memory(encoded_rows=5_000, streamed_rows=5_000, batch_rows=500)
    assert list(held.streamed) == list(range(500, 5_001, 500))
    assert held.encode_output == 5_000 * 32 * 6
    assert held.file > held.encode_output
    assert "extrapolated" in memory_text(held)
    assert json.dumps(held.streamed)
