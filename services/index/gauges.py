"""Gauges of an index server: documents, lag and latent usage per collection, refreshed off the path of requests."""

import asyncio
from typing import Final

from services.index.collection import CollectionIndex
from services.index.core.writer import State
from services.index.follower import Follower
from services.runtime import metrics

REPORT_SECONDS: Final = 2.0

_GAUGES: Final = (
    metrics.INDEX_DOCUMENTS,
    metrics.INDEX_LOG_LAG,
    metrics.INDEX_UNUSED_LATENTS,
    metrics.INDEX_USAGE_ENTROPY,
    metrics.INDEX_POSTING_SKEW,
)


async def report_forever(follower: Follower) -> None:
    """Refresh the gauges of all collections until cancelled; they describe the active generations.

    What was merged since the last write comes into use here, too: merges end when nobody waits for them.
    """
    counted: dict[str, State] = {}
    for spec in (metrics.INDEX_ENTRIES_APPLIED, metrics.INDEX_RELOADS, metrics.INDEX_REFUSED_ENTRIES):
        metrics.counter(spec)  # a counter that is still 0 must be there, or its first increase goes unseen
    while True:
        collections = {collection.record.name: collection for collection in follower.collections.values()}
        for name in counted.keys() - collections.keys():
            del counted[name]
            for spec in _GAUGES:
                metrics.gauge(spec).remove(name)
        for name, collection in collections.items():
            collection.use_merged()
            counted[name] = await _report(name, collection, counted.get(name))
        await asyncio.sleep(REPORT_SECONDS)


async def _report(name: str, collection: CollectionIndex, counted: State | None) -> State:
    """Set the gauges of one collection and return the state that they describe; counting costs a pass over all codes,
    which a state that was counted before does not need."""
    index = collection.generations[collection.record.active.generation]
    state = index.published.state
    metrics.gauge(metrics.INDEX_LOG_LAG).labels(name).set(
        max((held.lag for held in collection.held.values()), default=0)
    )
    if state is not counted:
        statistics = await asyncio.to_thread(index.statistics)
        metrics.gauge(metrics.INDEX_DOCUMENTS).labels(name).set(statistics.documents)
        metrics.gauge(metrics.INDEX_UNUSED_LATENTS).labels(name).set(statistics.unused_share)
        metrics.gauge(metrics.INDEX_USAGE_ENTROPY).labels(name).set(statistics.usage_entropy)
        metrics.gauge(metrics.INDEX_POSTING_SKEW).labels(name).set(statistics.posting_skew)
    return state
