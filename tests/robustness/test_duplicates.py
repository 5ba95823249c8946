"""Every write arrives one to five times, in any order, some of them after their documents were deleted."""

import asyncio
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.index.store.entry import combine_digests, document_digest
from services.index.store.keys import partition_of
from services.runtime.redis_binary import find_redis_server
from tests.robustness.checker import check
from tests.robustness.corpus import Corpus
from tests.robustness.history import DELETED, Operation, Recording
from tests.robustness.load import PARTITIONS, create_collection, read_documents, write_until_acknowledged
from tests.services.index.world import status
from tests.support.deployment import Deployment, eventually
from tests.support.measured import Measured
from tests.support.proxy import TcpProxy
from tests.support.redis_server import RedisServer

IDS = 250
VERSIONS = 6
BATCH = 16
SENDERS = 4

Sent = tuple[str, int, int]
"""Id, version, code."""


def storm(rng: random.Random, corpus: Corpus) -> tuple[list[list[Sent]], dict[str, tuple[int, int]]]:
    """Return batches to send, each of writes or of deletions of different ids, and what must live in the end."""
    writes: list[Sent] = []
    for number in range(IDS):
        for version in range(1, VERSIONS + 1):
            code = DELETED if rng.random() < 0.3 else rng.randrange(len(corpus.stored))
            writes.append((f"dok-ü{number}", version, code))
    expected = {id: (version, code) for id, version, code in writes if version == VERSIONS and code != DELETED}
    copies = [write for write in writes for _ in range(rng.randint(1, 5))]
    rng.shuffle(copies)
    batches: list[list[Sent]] = [[], []]
    full: list[list[Sent]] = []
    for write in copies:
        kind = int(write[2] == DELETED)
        if len(batches[kind]) == BATCH or write[0] in {id for id, _, _ in batches[kind]}:
            full.append(batches[kind])
            batches[kind] = []
        batches[kind].append(write)
    return [*full, *filter(None, batches)], expected


def test_the_highest_version_wins_however_often_and_late_it_comes(tmp_path: Path, measured: Measured) -> None:
    """Queues that deliver twice or late would bring back old versions and deleted documents."""
    corpus = Corpus(seed=31)
    batches, expected = storm(random.Random(31), corpus)
    redis = RedisServer(find_redis_server(), tmp_path / "redis")
    proxy = TcpProxy(redis.port)
    deployment = Deployment(tmp_path, redis=redis, REDIS_URL=proxy.redis_url)
    name = f"c-{uuid.uuid4().hex[:12]}"
    operations: list[Operation] = []

    def send(share: list[list[Sent]]) -> None:
        with deployment.client(timeout_seconds=2.0) as client:
            for batch in share:
                ids, versions, codes = map(list, zip(*batch, strict=True))
                write_id = uuid.uuid4().hex
                told = [
                    write_until_acknowledged(client, name, corpus, ids, codes, versions, write_id)[0]
                    for _ in range(1 + batch[0][1] % 2)  # many are sent again under their write id, too
                ]
                assert all(write.outcomes == told[0].outcomes for write in told)
                operations.append(told[0])

    proxy.start()
    try:
        deployment.start()
        with deployment.client(timeout_seconds=60.0) as client:
            create_collection(client, name, versioning="client")
            proxy.lost_replies = 0.03
            with ThreadPoolExecutor(SENDERS) as senders:
                list(senders.map(send, (batches[first::SENDERS] for first in range(SENDERS))))
            proxy.lost_replies = 0.0
            final = read_documents(client, name, corpus, [f"dok-ü{number}" for number in range(IDS)])
            collection_id = client.describe_collection(name).collection.collection_id
            count = client.count(name).count
        digests = expected_digests(expected)
        eventually(lambda: held_digests(deployment, collection_id) == digests, seconds=30)
    finally:
        deployment.stop()
        proxy.stop()
    sent = sum(len(batch) for batch in batches)
    measured(f"{IDS * VERSIONS} writes sent as {sent} copies, {proxy.lost} replies of Redis lost; digests identical")
    assert proxy.lost > 10, "void: too few replies were lost"
    assert final == expected
    assert count == len(expected)
    assert check(Recording(PARTITIONS, operations, final), corpus.scores)[:10] == []


def expected_digests(expected: dict[str, tuple[int, int]]) -> dict[int, str]:
    """Return the state digest of every partition."""
    of_partition: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    for id, (version, _) in expected.items():
        of_partition[partition_of(id, PARTITIONS)].append(document_digest(id, version))
    return {partition: combine_digests(digests).hex() for partition, digests in of_partition.items()}


def held_digests(deployment: Deployment, collection_id: str) -> dict[int, str]:
    """Return the state digest of every partition as the index servers compute it."""
    replies = [asyncio.run(status(server, collection_id)) for server in deployment.index_servers]
    return {held.partition: held.state_digest for reply in replies for held in reply.partitions}
