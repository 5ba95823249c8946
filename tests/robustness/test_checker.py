"""The checker of histories: it accepts what a correct service answers, and finds every planted violation.

A checker that overlooks a violation would let every proof of this folder pass on a service that loses data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from services.index.store.keys import partition_of
from tests.robustness.checker import Kind, check
from tests.robustness.corpus import K_MAX, Corpus
from tests.robustness.history import DELETED, Count, History, Operation, Outcome, Read, Recording, Search, Write
from tests.robustness.planted import PLANTED
from tests.services.index.core import oracle

PARTITIONS = 3
CORPUS = Corpus(seed=11, codes=60, queries=5)


@dataclass
class Service:
    """A correct service in a few lines: one thing after the other, searches by plain brute force."""

    operations: list[Operation] = field(default_factory=list)
    documents: dict[str, tuple[int, int]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    clock: float = 0.0

    def write(self, ids: Sequence[str], codes: Sequence[int], versions: Sequence[int] = ()) -> None:
        """Apply what has a higher version than what is stored."""
        outcomes = []
        for row, (id, code) in enumerate(zip(ids, codes, strict=True)):
            last, known = self.stored.get(id, (0, DELETED))
            version = versions[row] if versions else last + 1
            if version > last:
                self.stored[id] = version, code
                self.positions[partition_of(id, PARTITIONS)] += 1
                outcomes.append(Outcome("applied", version))
            elif version < last:
                outcomes.append(Outcome("stale", last))
            else:
                outcomes.append(Outcome("unchanged" if code == known else "conflict", last))
        began = self._tick()
        self.operations.append(
            Write(began, self._tick(), ids, codes, versions, outcomes, dict(self.positions)),
        )

    def search(self, queries: Sequence[int], top_n: int) -> None:
        """Answer by brute force over the codes as lists."""
        live = {id: oracle.Document(CORPUS.stored[code]) for id, (_, code) in self.live.items()}
        hits = [oracle.search(live, CORPUS.asked[query], top_n, K_MAX, K_MAX) for query in queries]
        self.operations.append(Search(queries, top_n, dict(self.positions), dict(self.positions), hits))

    def read(self, ids: Sequence[str]) -> None:
        """Return what lives."""
        found = {id: self.live[id] for id in ids if id in self.live}
        self.operations.append(Read(self._tick(), self._tick(), ids, found))

    def count(self) -> None:
        """Count what lives."""
        self.operations.append(Count(len(self.live), dict(self.positions)))

    @property
    def live(self) -> dict[str, tuple[int, int]]:
        """Version and code of what is not deleted, by id."""
        return {id: state for id, state in self.stored.items() if state[1] != DELETED}

    @property
    def recording(self) -> Recording:
        """All of it, with what lives now."""
        return Recording(PARTITIONS, list(self.operations), dict(self.live))

    def _tick(self) -> float:
        self.clock += 1.0
        return self.clock


def run(seed: int, operations: int = 400, client_versions: bool = False) -> Service:
    """Return a service that has answered all kinds of requests."""
    rng = np.random.default_rng(seed)
    service = Service()
    ids = [f"dok-ü{number}" for number in range(40)]
    for _ in range(operations):
        chosen = [str(id) for id in rng.choice(ids, size=4, replace=False)]
        match rng.integers(6):
            case 0 | 1 | 2:
                codes = rng.integers(len(CORPUS.stored), size=4).tolist()
                versions = rng.integers(1, 30, size=4).tolist() if client_versions else []
                service.write(chosen, [DELETED] * 4 if rng.random() < 0.3 else codes, versions)
            case 3:
                service.search(rng.integers(len(CORPUS.asked), size=2).tolist(), int(rng.integers(1, 12)))
            case 4:
                service.read(chosen)
            case _:
                service.count()
    return service


@pytest.mark.parametrize("client_versions", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_correct_service_is_accepted(seed: int, client_versions: bool) -> None:
    """Every proof would fail, whatever the service does."""
    assert check(run(seed, client_versions=client_versions).recording, CORPUS.scores) == []


def test_the_oracle_over_blocks_equals_brute_force() -> None:
    """Answers after a few hundred writes to a partition would be compared with a wrong oracle."""
    service = run(seed=1, operations=3_000)
    history = History([o for o in service.operations if isinstance(o, Write)], PARTITIONS, CORPUS.scores)
    searches = [o for o in service.operations if isinstance(o, Search)]
    assert min(history.heads.values()) > 512
    for search in searches[::7]:
        assert history.answer(search.queries, search.top_n, search.positions) == search.hits


def test_a_partial_answer_must_be_right_for_the_partitions_that_it_names() -> None:
    """Partial answers would be taken for wrong ones, or wrong ones for partial ones."""
    recording = run(seed=4).recording
    history = History([o for o in recording.operations if isinstance(o, Write)], PARTITIONS, CORPUS.scores)
    some = {partition: lsn for partition, lsn in history.heads.items() if partition}
    right = history.answer([0, 1], 5, some)
    partial = Search([0, 1], 5, {}, some, right, partial=True)
    recording.operations.append(partial)
    assert check(recording, CORPUS.scores) == []
    for spoilt in (replace(partial, partial=False), replace(partial, hits=[right[0][1:], right[1]])):
        recording.operations[-1] = spoilt
        assert [violation.kind for violation in check(recording, CORPUS.scores)] == [Kind.WRONG_ANSWER]


@pytest.mark.parametrize("ended", [3.0, 9.0])
def test_a_read_may_show_either_side_of_a_write_at_the_same_time(ended: float) -> None:
    """Right answers to reads that overlap with writes would count as violations."""
    old = Write(1.0, 2.0, ["a"], [7], [], [Outcome("applied", 1)], {0: 1})
    new = Write(2.5, 8.0, ["a"], [8], [], [Outcome("applied", 2)], {0: 2})
    for found in ({"a": (1, 7)}, {"a": (2, 8)}):
        read = Read(2.8, ended, ["a"], found)
        assert check(Recording(1, [old, new, read], {"a": (2, 8)}), CORPUS.scores) == []


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_violation_is_found(plant: Callable[[Recording], None], kind: Kind) -> None:
    """A service that does this would pass every proof."""
    recording = run(seed=3, operations=600).recording
    assert check(recording, CORPUS.scores) == []
    plant(recording)
    assert kind in {violation.kind for violation in check(recording, CORPUS.scores)}


@pytest.mark.parametrize(("sent", "code", "status"), [(5, 2, "unchanged"), (9, 1, "stale"), (9, 2, "unchanged")])
def test_an_outcome_must_fit_what_was_sent(sent: int, code: int, status: str) -> None:
    """A client would be told that its document is stored although another one is, or the other way round."""
    service = Service()
    service.write(["y"], [1], [9])
    told = Write(5.0, 6.0, ["y"], [code], [sent], [Outcome(status, 9)], dict(service.positions))
    service.operations.append(told)
    assert [violation.kind for violation in check(service.recording, CORPUS.scores)] == [Kind.WRONG_OUTCOME]
