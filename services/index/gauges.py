"""Gauges of an index server, refreshed off the path of requests."""

import asyncio
import time
from typing import Final

from services.index.admission import Admission
from services.index.collection import CollectionIndex
from services.index.core.writer import State
from services.index.follower import Follower
from services.index.memory import MemoryGuard, resident_bytes
from services.runtime import metrics

REPORT_SECONDS: Final = 2.0

_OF_COLLECTIONS: Final = (
    metrics.INDEX_DOCUMENTS,
    metrics.INDEX_LOG_LAG,
    metrics.INDEX_STALENESS,
    metrics.INDEX_UNUSED_LATENTS,
    metrics.INDEX_USAGE_ENTROPY,
    metrics.INDEX_POSTING_SKEW,
)


async def report_forever(follower: Follower, admission: Admission, memory: MemoryGuard) -> None:
    """Refresh the gauges until cancelled; those of collections describe the active generations.

    What was merged since the last write comes into use here, too: merges end when nobody waits for them.
    """
    counted: dict[str, State] = {}
    metrics.expose("index")
    metrics.gauge(metrics.INDEX_MEMORY_LIMIT).set(memory.limit_bytes)
    metrics.gauge(metrics.INDEX_MEMORY).set_function(resident_bytes)
    metrics.gauge(metrics.INDEX_QUEUED_SECONDS).set_function(lambda: admission.wait_seconds)
    while True:
        collections = {collection.record.name: collection for collection in follower.collections.values()}
        for name in counted.keys() - collections.keys():
            del counted[name]
            for spec in _OF_COLLECTIONS:
                metrics.gauge(spec).remove(name)
        for name, collection in collections.items():
            collection.use_merged()
            _report_logs(name, collection, follower)
            counted[name] = await _report_contents(name, collection, counted.get(name))
        await asyncio.sleep(REPORT_SECONDS)


def _report_logs(name: str, collection: CollectionIndex, follower: Follower) -> None:
    held = collection.held.values()
    now = time.monotonic()
    complete = min(map(follower.complete_until, held), default=now)
    metrics.gauge(metrics.INDEX_LOG_LAG).labels(name).set(max((one.lag for one in held), default=0))
    metrics.gauge(metrics.INDEX_STALENESS).labels(name).set(max(now - complete, 0.0))


async def _report_contents(name: str, collection: CollectionIndex, counted: State | None) -> State:
    """Set the gauges of one collection and return the state that they describe; counting costs a pass over all codes,
    which a state that was counted before does not need."""
    index = collection.active
    state = index.published.state
    if state is not counted:
        statistics = await asyncio.to_thread(index.statistics)
        metrics.gauge(metrics.INDEX_DOCUMENTS).labels(name).set(statistics.documents)
        metrics.gauge(metrics.INDEX_UNUSED_LATENTS).labels(name).set(statistics.unused_share)
        metrics.gauge(metrics.INDEX_USAGE_ENTROPY).labels(name).set(statistics.usage_entropy)
        metrics.gauge(metrics.INDEX_POSTING_SKEW).labels(name).set(statistics.posting_skew)
    return state
