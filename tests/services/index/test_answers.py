"""One index server, real Redis: what it answers, and what it refuses."""

import asyncio
import time

import numpy as np
import pytest
from redis.asyncio import Redis

from csr.v1 import vector_pb2
from services.index.store.catalog import Catalog
from services.index.store.entry import QuantisedCode
from services.runtime.errors import (
    DeadlineSpent,
    FingerprintMismatch,
    InvalidRequest,
    InvalidVector,
    LimitExceeded,
    WrongOwner,
    WrongState,
)
from tests.services.index.world import FINGERPRINT, World, random_code, search, status
from tests.support.index_server import IndexServerProcess


@pytest.mark.parametrize("k", [1, 4, 8])
async def test_answers_are_those_of_brute_force(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator, k: int
) -> None:
    """Users would get wrong neighbours, wrong scores or a wrong order."""
    world = await World.create(shared_store)
    await world.fill(rng, 150)
    queries = [random_code(rng) for _ in range(9)]
    answer = await search(server, world.record, queries, positions=world.positions, k_query=k, k_docs=k)
    assert answer.positions == world.positions
    assert answer.hits == world.expected(queries, world.positions, k=k)


async def test_an_answer_covers_the_named_partitions_only(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """With several servers a document would be found twice, or by a server that is behind on it."""
    world = await World.create(shared_store)
    await world.fill(rng, 80)
    queries = [random_code(rng)]
    some = {partition: world.positions[partition] for partition in (1, 3)}
    answer = await search(server, world.record, queries, [1, 3], positions=world.positions)
    assert answer.positions == some
    assert answer.hits == world.expected(queries, some)


async def test_min_score_and_top_n_cut_the_answer(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Callers would get hits that they asked not to see."""
    world = await World.create(shared_store)
    await world.fill(rng, 60)
    queries = [random_code(rng)]
    [best] = world.expected(queries, world.positions)
    floor = best[2][1]
    answer = await search(server, world.record, queries, positions=world.positions, min_score=floor)
    assert answer.hits == [[hit for hit in best if hit[1] >= floor]]
    answer = await search(server, world.record, queries, positions=world.positions, top_n=2)
    assert answer.hits == [best[:2]]


async def test_every_answer_is_exact_at_the_positions_that_it_names(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Under writes, an answer could miss a document that its receipt covers, or show one from the future."""
    world = await World.create(shared_store)
    await world.fill(rng, 40)
    queries = [random_code(rng) for _ in range(3)]
    writing = True

    async def write() -> None:
        while writing:
            await world.upsert({f"doc-{i}": random_code(rng) for i in rng.choice(40, 5, replace=False)})
            await world.delete(f"doc-{i}" for i in rng.choice(40, 3, replace=False))

    writer = asyncio.create_task(write())
    answers, seen, patience = [], set[tuple[int, ...]](), time.monotonic() + 60
    while len(answers) < 60 or len(seen) <= 10:
        assert time.monotonic() < patience, "the writes were not seen"
        answers.append(await search(server, world.record, queries))
        seen.add(tuple(answers[-1].positions.values()))
    writing = False
    await writer
    for answer in answers:
        assert answer.hits == world.expected(queries, answer.positions)


async def test_a_position_that_never_comes_ends_with_the_deadline(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A token of lost writes would hang its caller, or be ignored."""
    world = await World.create(shared_store)
    await world.fill(rng, 10)
    started = time.monotonic()
    with pytest.raises(DeadlineSpent):
        await search(server, world.record, [random_code(rng)], positions={0: 10_000}, timeout=0.5)
    assert time.monotonic() - started < 1.0


async def test_a_collection_can_be_searched_right_after_its_creation(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """The first search after a creation would fail until the server's next look at the catalogue."""

    async def create_and_search(code: QuantisedCode) -> None:
        world = await World.create(shared_store)
        await world.upsert({"a": code})
        answer = await search(server, world.record, [code], positions=world.positions)
        assert [id for id, _ in answer.hits[0]] == ["a"]

    async with asyncio.TaskGroup() as creations:
        for _ in range(10):
            creations.create_task(create_and_search(random_code(rng)))
            await asyncio.sleep(0.01)


async def test_a_recreated_collection_has_nothing_of_the_deleted_one(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Deleted documents would come back under the same name, and their memory would never be freed."""
    old = await World.create(shared_store, "phoenix")
    await old.fill(rng, 30)
    queries = [random_code(rng)]
    await search(server, old.record, queries, positions=old.positions)
    await Catalog(shared_store).delete("phoenix")
    new = await World.create(shared_store, "phoenix")
    await new.upsert({"only": random_code(rng)})
    answer = await search(server, new.record, queries, positions=new.positions)
    assert answer.hits == new.expected(queries, answer.positions)
    with pytest.raises(WrongOwner):
        await search(server, old.record, queries)
    assert not (await status(server, old.record.collection_id)).partitions


async def test_status_tells_positions_counts_and_digests(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Operators could not tell whether a server has everything that the store has."""
    world = await World.create(shared_store)
    await world.fill(rng, 50)
    await search(server, world.record, [random_code(rng)], positions=world.positions)
    report = await status(server, world.record.collection_id)
    assert (report.name, report.term) == ("index-0", 1)
    assert [held.partition for held in report.partitions] == [0, 1, 2, 3]
    for held in report.partitions:
        meta = await shared_store.hgetall(f"csr:{{{world.record.collection_id}:{held.partition}}}:meta")
        assert held.ready
        assert held.lsn == held.head_lsn == int(meta[b"lsn"])
        assert held.documents == int(meta[b"documents"])
        assert held.state_digest == meta[b"digest"].decode()


async def test_metrics_describe_the_collection(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Dashboards and alerts on documents, lag and latent health would be blind."""
    world = await World.create(shared_store)
    applied = server.metric("csr_index_entries_applied_total")
    await search(server, world.record, [random_code(rng)])
    await world.fill(rng, 30)
    await search(server, world.record, [random_code(rng)], positions=world.positions)
    assert server.metric("csr_index_entries_applied_total") - applied == sum(world.positions.values())
    live = len(world.documents(world.positions))
    for _ in range(100):
        documents = server.metric("csr_index_documents", collection=world.record.name)
        if documents == live:
            break
        await asyncio.sleep(0.05)
    assert documents == live
    assert server.metric("csr_index_log_lag_entries", collection=world.record.name) == 0
    assert 0 < server.metric("csr_index_latent_usage_entropy_bits", collection=world.record.name) <= 6


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"top_n": 0}, LimitExceeded, "top_n"),
        ({"top_n": 1_001}, LimitExceeded, "top_n"),
        ({"k_query": 0}, LimitExceeded, "k_query"),
        ({"k_query": 257}, LimitExceeded, "k_query"),
        ({"k_docs": 3}, InvalidRequest, "k_docs"),
        ({"min_score": float("nan")}, InvalidRequest, "min_score"),
        ({"generation": 2}, WrongState, "generation"),
        ({"collection_id": "0" * 16}, WrongOwner, "index-0"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(
    shared_store: Redis,
    server: IndexServerProcess,
    rng: np.random.Generator,
    changes: dict[str, object],
    error: type[Exception],
    names: str,
) -> None:
    """A caller could not tell which field to fix, or would get an answer to another question."""
    world = await World.create(shared_store)
    with pytest.raises(error, match=names):
        await search(server, world.record, [random_code(rng)], **changes)


@pytest.mark.parametrize("partitions", [[], [1, 0], [0, 0]])
async def test_partitions_are_ascending_and_unique(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator, partitions: list[int]
) -> None:
    """A document could be counted twice in a merged answer."""
    world = await World.create(shared_store)
    with pytest.raises(InvalidRequest, match="partitions"):
        await search(server, world.record, [random_code(rng)], partitions)


async def test_a_partition_that_does_not_exist_is_refused(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A router with an old record would get an answer that lacks documents."""
    world = await World.create(shared_store)
    with pytest.raises(WrongOwner, match="4"):
        await search(server, world.record, [random_code(rng)], [3, 4])


async def test_a_code_of_another_model_is_never_scored(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """After a promotion, queries of the old encoder would get confident nonsense."""
    world = await World.create(shared_store)
    await world.fill(rng, 10)
    code = random_code(rng)
    other = vector_pb2.CodeBatch(
        count=1,
        lengths=np.uint16([8]).tobytes(),
        latents=code.latents.tobytes(),
        weights=code.weights.astype(np.float32).tobytes(),
        fingerprint="cd" * 16,
    )
    with pytest.raises(FingerprintMismatch, match=FINGERPRINT):
        await search(server, world.record, [code], codes=other)


async def test_a_code_that_no_model_could_have_made_is_refused(shared_store: Redis, server: IndexServerProcess) -> None:
    """A latent out of range would read beyond the arrays of the engine."""
    world = await World.create(shared_store)
    codes = vector_pb2.CodeBatch(
        count=1,
        lengths=np.uint16([1]).tobytes(),
        latents=np.uint16([64]).tobytes(),
        weights=np.float32([1]).tobytes(),
        fingerprint=FINGERPRINT,
    )
    with pytest.raises(InvalidVector, match="latent 64"):
        await search(server, world.record, [], codes=codes)
