"""What the functions must do to one partition, in plain Python: an oracle for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.index.store.entry import DocumentBody, combine_digests, document_digest
from services.index.store.writer import DocumentWrite, PayloadWrite, Write, WriteOutcome, WriteStatus


@dataclass(frozen=True)
class Stored:
    """A document or, without a body, its tombstone."""

    version: int
    digest: bytes
    body: DocumentBody | None


@dataclass
class Model:
    """One partition.

    Attributes:
        generations: Those that are live.
        forgets: Whether deletions of earlier calls are forgotten with every call.
        stored: Documents and tombstones by id.
        repairs: Version by (generation, id).
        log: What was appended: (id, version, version that was live before or 0, deleted).
    """

    generations: tuple[int, ...] = (1,)
    forgets: bool = False
    stored: dict[str, Stored] = field(default_factory=dict)
    repairs: dict[tuple[int, str], int] = field(default_factory=dict)
    log: list[tuple[str, int, int, bool]] = field(default_factory=list)
    last_version: int = 0

    def write(self, writes: Sequence[Write], assigned: Sequence[int]) -> list[WriteOutcome]:
        """Carry out one call; `assigned` has the versions that writes without one were given."""
        old = {id for id, stored in self.stored.items() if stored.body is None}
        outcomes = [self._write(write, given) for write, given in zip(writes, assigned, strict=True)]
        deleted_now = {write.id for write, outcome in zip(writes, outcomes, strict=True) if _deletes(write, outcome)}
        if self.forgets:
            for id in old - deleted_now:
                if self.stored[id].body is None:
                    del self.stored[id]
        return outcomes

    @property
    def live(self) -> dict[str, int]:
        """Versions of live documents."""
        return {id: stored.version for id, stored in self.stored.items() if stored.body is not None}

    @property
    def digest(self) -> bytes:
        """The state digest."""
        return combine_digests(document_digest(id, version) for id, version in self.live.items())

    def _write(self, write: Write, assigned: int) -> WriteOutcome:
        before = self.stored.get(write.id)
        version = write.version or assigned
        status = self._status(write, before, version)
        if status is WriteStatus.APPLIED:
            self._apply(write, before, version)
        now = self.stored.get(write.id)
        return WriteOutcome(status, now.version if now else 0)

    def _status(self, write: Write, before: Stored | None, version: int) -> WriteStatus:
        live = self.live.get(write.id)
        if isinstance(write, DocumentWrite) and write.if_version and write.if_version != live:
            return WriteStatus.CHANGED
        if isinstance(write, PayloadWrite) and live is None:
            return WriteStatus.MISSING
        if before is None or version > before.version:
            return WriteStatus.APPLIED
        if version < before.version:
            return WriteStatus.STALE
        return WriteStatus.UNCHANGED if write.input_digest == before.digest else WriteStatus.CONFLICT

    def _apply(self, write: Write, before: Stored | None, version: int) -> None:
        if isinstance(write, DocumentWrite):
            body = write.body
        else:
            assert before is not None
            assert before.body is not None
            body = replace(before.body, payload=write.payload)
        self.log.append((write.id, version, self.live.get(write.id, 0), body is None))
        self.stored[write.id] = Stored(version, write.input_digest, body)
        self.last_version = max(self.last_version, version)
        for generation in self.generations:
            self.repairs.pop((generation, write.id), None)
            if body is not None and generation not in body.codes:
                self.repairs[generation, write.id] = version


def _deletes(write: Write, outcome: WriteOutcome) -> bool:
    return isinstance(write, DocumentWrite) and write.deleted and outcome.status is WriteStatus.APPLIED
