"""What can be asked of an index server beside plain searches: filters, lists, counts, explanations, audits."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from csr.v1 import filter_pb2, shard_pb2
from services.index.store.entry import QuantisedCode
from services.index.store.keys import partition_keys, partition_of
from services.runtime.codec import codes_to_proto
from services.runtime.errors import (
    DeadlineSpent,
    InvalidRequest,
    LimitExceeded,
    PartitionUnavailable,
    WrongOwner,
)
from tests.services.index.core import oracle
from tests.services.index.world import (
    FINGERPRINT,
    K_MAX,
    World,
    as_ragged,
    ask,
    positions_in,
    positions_of,
    random_code,
    search,
)
from tests.support.index_server import IndexServerProcess

LANGUAGES = ("de", "en", "fr")


async def world_with_fields(store: Redis, rng: np.random.Generator, count: int) -> World:
    """Return a collection with two declared fields, of which some documents lack one."""
    world = await World.create(store, fields={"lang": "keyword", "year": "int"})
    payloads: dict[str, Mapping[str, Any]] = {
        f"doc-{i}": {"lang": LANGUAGES[i % 3], "other": i, **({"year": 1990 + i} if i % 4 else {})}
        for i in range(count)
    }
    await world.upsert({id: random_code(rng) for id in payloads}, payloads)
    await world.delete(f"doc-{i}" for i in range(0, count, 7))
    return world


def lang(value: str) -> filter_pb2.Filter:
    """Return a filter by language."""
    return filter_pb2.Filter(equals=filter_pb2.Equals(field="lang", value=filter_pb2.FieldValue(keyword=value)))


def since(year: int) -> filter_pb2.Filter:
    """Return a filter by year."""
    return filter_pb2.Filter(range=filter_pb2.Range(field="year", gte=year))


FILTERS: list[tuple[filter_pb2.Filter, Callable[[oracle.Document], bool]]] = [
    (lang("de"), lambda document: document.fields.get("lang") == "de"),
    (since(2_000), lambda document: document.fields.get("year", 0) >= 2_000),
    (
        filter_pb2.Filter(**{"not": since(2_000)}),
        lambda document: document.fields.get("year", 0) < 2_000,
    ),
]


@pytest.mark.parametrize(("where", "matches"), FILTERS, ids=["equals", "range", "not"])
async def test_a_filter_decides_before_the_best_are_chosen(
    shared_store: Redis,
    server: IndexServerProcess,
    rng: np.random.Generator,
    where: filter_pb2.Filter,
    matches: Callable[[oracle.Document], bool],
) -> None:
    """A filtered search would return fewer hits than there are, or documents that do not match."""
    world = await world_with_fields(shared_store, rng, 90)
    queries = [random_code(rng) for _ in range(3)]
    answer = await search(server, world.record, queries, positions=world.positions, where=where)
    assert answer.hits == world.expected(queries, world.positions, matches=matches)
    request = shard_pb2.CountPartitionsRequest(
        collection_id=world.record.collection_id,
        generation=1,
        partitions=range(4),
        where=where,
        positions=positions_of(world.positions),
    )
    counted = await ask(server, "CountPartitions", request)
    assert counted.count == sum(map(matches, world.documents(world.positions).values()))
    assert positions_in(counted) == world.positions


async def test_a_filter_sees_the_latest_payload(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A document would be found by what it said before."""
    world = await World.create(shared_store, fields={"lang": "keyword"})
    code = random_code(rng)
    await world.upsert({"a": code, "b": code}, {"a": {"lang": "de"}, "b": {"lang": "de"}})
    await world.upsert({"a": code}, {"a": {"lang": "fr"}})
    answer = await search(server, world.record, [code], positions=world.positions, where=lang("de"))
    assert [id for id, _ in answer.hits[0]] == ["b"]


async def test_a_field_that_is_not_declared_is_named(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A typo in a filter would look like a filter that nothing matches."""
    world = await World.create(shared_store)
    with pytest.raises(InvalidRequest, match=r"where\.equals.*lang"):
        await search(server, world.record, [random_code(rng)], where=lang("de"))


async def test_pages_list_every_document_once_with_its_version(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """An export would lack documents, or have them twice, in a wrong order or under a wrong version."""
    world = await world_with_fields(shared_store, rng, 80)
    versions = world.live_versions(world.positions)
    listed: list[tuple[str, int]] = []
    while True:
        request = shard_pb2.ScanPartitionsRequest(
            collection_id=world.record.collection_id,
            generation=1,
            partitions=range(4),
            after=listed[-1][0] if listed else "",
            limit=7,
            positions=positions_of(world.positions),
        )
        page = await ask(server, "ScanPartitions", request)
        assert positions_in(page) == world.positions
        listed += zip(page.ids, page.versions, strict=True)
        if len(page.ids) < 7:
            break
    assert listed == sorted(versions.items(), key=lambda item: item[0].encode())
    request = shard_pb2.ScanPartitionsRequest(
        collection_id=world.record.collection_id, generation=1, partitions=[2], limit=1_000, where=lang("en")
    )
    documents = world.documents({2: world.positions[2]})
    some = await ask(server, "ScanPartitions", request)
    assert some.ids == sorted(id for id, document in documents.items() if document.fields["lang"] == "en")


async def test_contributions_add_up_to_the_score_of_the_search(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """An explanation would explain another score than the one that was answered."""
    world = await World.create(shared_store)
    await world.fill(rng, 40)
    query = random_code(rng)
    answer = await search(server, world.record, [query], positions=world.positions)
    hits = dict(answer.hits[0])
    request = explain_request(world, [*hits, "nobody"], query)
    explained = await ask(server, "ExplainPartitions", request)
    assert [one.id for one in explained.explanations] == [*hits, "nobody"]
    assert [one.found for one in explained.explanations] == [True] * len(hits) + [False]
    for one in explained.explanations[:-1]:
        assert one.score == hits[one.id]
        assert sum(part.contribution for part in one.contributions) == pytest.approx(one.score)
        assert {part.latent for part in one.contributions} <= set(query.latents.tolist())


def explain_request(world: World, ids: list[str], *queries: QuantisedCode) -> shard_pb2.ExplainPartitionsRequest:
    """Return a question why documents have their scores."""
    return shard_pb2.ExplainPartitionsRequest(
        collection_id=world.record.collection_id,
        generation=1,
        partitions=range(4),
        codes=codes_to_proto(as_ragged(queries), FINGERPRINT),
        ids=ids,
        k_query=K_MAX,
        k_docs=K_MAX,
        positions=positions_of(world.positions),
    )


async def test_limits_of_lists_and_explanations_are_named(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A caller could not tell which field to fix, or one request could hold up all others."""
    world = await World.create(shared_store)
    scan = shard_pb2.ScanPartitionsRequest(collection_id=world.record.collection_id, generation=1, partitions=[0])
    for limit in (0, 1_001):
        scan.limit = limit
        with pytest.raises(LimitExceeded, match="limit"):
            await ask(server, "ScanPartitions", scan)
    code = random_code(rng)
    with pytest.raises(LimitExceeded, match="ids"):
        await ask(server, "ExplainPartitions", explain_request(world, [f"doc-{i}" for i in range(101)], code))
    with pytest.raises(InvalidRequest, match="ids"):
        await ask(server, "ExplainPartitions", explain_request(world, ["a", "a"], code))
    with pytest.raises(LimitExceeded, match=r"codes\.count"):
        await ask(server, "ExplainPartitions", explain_request(world, ["a"], code, code))


async def test_positions_can_be_waited_for(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A write that waits until it is visible would return before, or never."""
    world = await World.create(shared_store)
    await world.upsert({"a": random_code(rng)})
    await ask(server, "AwaitPositions", await_request(world, world.positions))
    assert (await search(server, world.record, [random_code(rng)])).positions.items() >= world.positions.items()
    [partition] = world.positions
    later = asyncio.create_task(ask(server, "AwaitPositions", await_request(world, {partition: 2})))
    await asyncio.sleep(0.2)
    assert not later.done()
    await world.upsert({"a": random_code(rng)})
    await later
    with pytest.raises(DeadlineSpent):
        await ask(server, "AwaitPositions", await_request(world, {partition: 3}), timeout=0.3)
    with pytest.raises(WrongOwner):
        await ask(server, "AwaitPositions", await_request(world, {9: 1}))


def await_request(world: World, positions: Mapping[int, int]) -> shard_pb2.AwaitPositionsRequest:
    """Return a request to wait."""
    return shard_pb2.AwaitPositionsRequest(collection_id=world.record.collection_id, positions=positions_of(positions))


async def test_less_will_do_when_the_caller_says_so(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """One damaged partition would take all of a collection away from those who can do without it."""
    world = await World.create(shared_store)
    await world.fill(rng, 60)
    queries = [random_code(rng)]
    await search(server, world.record, queries, positions=world.positions)
    damage = {"chain": "00" * 20, "documents": 10_000}  # cannot be followed, and what is loaded never adds up
    await shared_store.hset(partition_keys(world.record.collection_id, 2).meta, mapping=damage)
    last = next(f"more-{i}" for i in range(100) if partition_of(f"more-{i}", 4) == 2)
    await world.upsert({last: queries[0]})
    with pytest.raises(PartitionUnavailable, match="2"):
        await search(server, world.record, queries, positions=world.positions)
    rest = {partition: lsn for partition, lsn in world.positions.items() if partition != 2}
    answer = await search(server, world.record, queries, positions=rest, allow_partial=True)
    assert answer.positions == rest
    assert answer.hits == world.expected(queries, rest)
    started = time.monotonic()
    ahead = {**rest, 0: rest[0] + 1}
    answer = await search(server, world.record, queries, positions=ahead, allow_partial=True)
    assert answer.positions == {partition: lsn for partition, lsn in rest.items() if partition != 0}
    assert time.monotonic() - started < 5.0, "a partial answer came as late as a complete one would"
    with pytest.raises(PartitionUnavailable, match="documents"):
        await search(server, world.record, queries, [2], allow_partial=True)


async def test_an_audit_recomputes_what_the_store_says(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A server whose memory differs from the store would pass for one that equals it."""
    world = await World.create(shared_store)
    await world.fill(rng, 70)
    request = shard_pb2.AuditPartitionsRequest(
        collection_id=world.record.collection_id, partitions=[0, 1, 3], positions=positions_of(world.positions)
    )
    audit = await ask(server, "AuditPartitions", request)
    assert [audited.partition for audited in audit.partitions] == [0, 1, 3]
    for audited in audit.partitions:
        meta = await shared_store.hgetall(partition_keys(world.record.collection_id, audited.partition).meta)
        assert audited.memory.lsn == int(meta[b"lsn"])
        assert audited.memory.documents == int(meta[b"documents"])
        assert audited.memory.state_digest == meta[b"digest"].decode()
        assert not audited.HasField("snapshot")
        assert audited.snapshot_problem == ""
