"""What the Redis function that writes costs, for documents with one and with three live generations."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from redis.asyncio import Redis

from benchmarks.index_search.codes import prefix_of
from benchmarks.index_search.synthetic import HIDDEN_DIM, INPUT_DIM, ROWS_AT_ONCE, Clustered
from benchmarks.service_load.deployment import redis_server
from benchmarks.service_load.messages import Form, K
from benchmarks.service_load.outcome import FunctionCost
from services.index.core.code import quantise, to_ragged
from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord, new_collection_id
from services.index.store.connection import connect
from services.index.store.entry import DocumentBody, QuantisedCode, encode_body, input_digest
from services.index.store.functions import ensure_functions
from services.index.store.writer import DocumentWrite, LogWriter
from services.runtime.limits import WRITE_BATCH_DOCUMENTS_MAX
from services.runtime.settings import LogSettings, RedisSettings

CASES: Final[Sequence[tuple[Form, int]]] = (("codes", 1), ("embeddings", 1), ("embeddings", 3))
_FINGERPRINT: Final = "0" * 32


def function_costs(folder: Path, maker: Clustered, rounds: int) -> list[FunctionCost]:
    """Write as many full batches as there are rounds for each case in turn, to a Redis of its own.

    Args:
        folder: For the files of Redis.
        maker: Of embeddings and codes; a document has the same code in all generations.
        rounds: Batches of each case.
    """
    with redis_server(folder / "function-cost") as settings:
        return asyncio.run(_costs(settings, maker, rounds))


async def _costs(settings: RedisSettings, maker: Clustered, rounds: int) -> list[FunctionCost]:
    async with connect(settings) as redis:
        await ensure_functions(redis)
        records = [_record(form, generations) for form, generations in CASES]
        for record in records:
            await Catalog(redis).create(record)
        writer = LogWriter(redis, LogSettings())
        microseconds = np.zeros((rounds, len(CASES)))
        body_bytes = [0] * len(CASES)
        codes, embeddings = _codes(maker)
        for turn in range(rounds):
            for case, ((form, generations), record) in enumerate(zip(CASES, records, strict=True)):
                writes = list(_writes(turn, codes, embeddings if form == "embeddings" else None, generations))
                body_bytes[case] = len(encode_body(writes[0].body or DocumentBody()))
                before = await _function_microseconds(redis)
                await writer.write(record, 0, writes, f"{case}-{turn}")
                microseconds[turn, case] = (await _function_microseconds(redis) - before) / len(writes)
    return [
        FunctionCost(form, generations, body_bytes[case], float(np.median(microseconds[:, case])))
        for case, (form, generations) in enumerate(CASES)
    ]


def _record(form: Form, generations: int) -> CollectionRecord:
    states: Sequence[Literal["active", "retained", "building"]] = ("active", "retained", "building")
    return CollectionRecord(
        name=f"{form}-{generations}",
        collection_id=new_collection_id(),
        kind="codes" if form == "codes" else "dense",
        versioning="assigned",
        input_dim=0 if form == "codes" else INPUT_DIM,
        k_max=K,
        partitions=1,
        generations=tuple(
            GenerationRecord(number + 1, states[number], "clustered", number + 1, _FINGERPRINT, HIDDEN_DIM)
            for number in range(generations)
        ),
    )


def _codes(maker: Clustered) -> tuple[list[QuantisedCode], np.ndarray]:
    found = maker.block(0)
    quantised = quantise(*prefix_of(*found.codes, K), hidden_dim=HIDDEN_DIM, active_max=K)
    lengths, latents, weights = to_ragged(quantised)
    ends = np.cumsum(lengths)[:-1]
    codes = [QuantisedCode(*code) for code in zip(np.split(latents, ends), np.split(weights, ends), strict=True)]
    assert found.embeddings is not None, "clustered codes are made of embeddings"
    return codes, found.embeddings.astype(np.float16)


def _writes(
    turn: int, codes: Sequence[QuantisedCode], embeddings: np.ndarray | None, generations: int
) -> Iterator[DocumentWrite]:
    for number in range(WRITE_BATCH_DOCUMENTS_MAX):
        document = turn * WRITE_BATCH_DOCUMENTS_MAX + number
        row = document % ROWS_AT_ONCE
        body = DocumentBody(
            None if embeddings is None else embeddings[row],
            b"",
            {generation + 1: codes[row] for generation in range(generations)},
        )
        id = f"{document:08d}"
        yield DocumentWrite(id, 0, deleted=False, body=body, input_digest=input_digest(id.encode()))


async def _function_microseconds(redis: Redis) -> int:
    """Return the time that Redis has spent in function calls since its start, fsync and network aside."""
    statistics = await redis.info("commandstats")
    return int(statistics["cmdstat_fcall"]["usec"])
