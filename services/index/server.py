"""The process: ports, Redis, kernels, follower and service, from start to drain."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis

from csr.v1 import shard_pb2, shard_pb2_grpc
from services.index.core.warmup import warmup
from services.index.follower import Follower
from services.index.gauges import report_forever
from services.index.lanes import Lanes
from services.index.memory import MemoryGuard
from services.index.self_report import report_self_forever
from services.index.service import ShardService
from services.index.snapshots import Snapshots
from services.index.store.connection import connect, store_errors
from services.runtime.errors import StoreUnavailable
from services.runtime.lifecycle import GrpcHost, HostOptions, until_signalled
from services.runtime.settings import InvalidSettings, RedisSettings, Settings
from services.runtime.stopping import EXIT_SECONDS, cancelled, end_within, stage

log = structlog.get_logger()

START_TIMEOUTS: Final = 2
"""How long a server that starts waits for Redis, in redis.timeout_seconds. Later it outlives any loss of Redis."""
_RETRY_SECONDS: Final = 0.2


async def serve(settings: Settings) -> None:
    """Run an index server until it is asked to stop.

    Health is SERVING once everything that placement gives to this server has been loaded up to the head of its log.
    A stop takes at most EXIT_SECONDS longer than the grace of requests in flight, whatever hangs; it ends in the
    process with exit code 1 then.

    Raises:
        OSError: a port is taken.
        InvalidSettings: the address of Redis is none.
        StoreUnavailable: Redis did not answer within START_TIMEOUTS.
    """
    grace = settings.index.drain_seconds
    host = GrpcHost(
        HostOptions(
            host=settings.index.host,
            port=settings.index.port,
            metrics_port=settings.index.metrics_port,
            concurrent_requests=settings.index.concurrent_requests,
            drain_seconds=grace,
            reflection=settings.router.reflection,
        )
    )
    parts = _Parts.of(host, settings)
    running = asyncio.create_task(_run(parts, settings))
    signalled = asyncio.create_task(until_signalled())
    await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    await _stop(parts, running, grace)
    if running.done() and not running.cancelled():
        running.result()


@dataclass(frozen=True)
class _Parts:
    host: GrpcHost
    redis: Redis
    lanes: Lanes
    memory: MemoryGuard
    snapshots: Snapshots
    follower: Follower

    @classmethod
    def of(cls, host: GrpcHost, settings: Settings) -> "_Parts":
        index, redis = settings.index, _connect(settings.redis)
        memory = MemoryGuard(index.memory_bytes)
        snapshots = Snapshots(index, settings.log.tombstone_seconds)
        applier = ThreadPoolExecutor(1, thread_name_prefix="apply")
        follower = Follower(redis, index, applier, memory, snapshots)
        return cls(host, redis, Lanes(index.threads, index.queue_seconds), memory, snapshots, follower)


async def _run(parts: _Parts, settings: Settings) -> None:
    name, host, follower = settings.index.name, parts.host, parts.follower
    service = ShardService(name, follower, parts.lanes, parts.memory, parts.snapshots)
    shard_pb2_grpc.add_ShardServiceServicer_to_server(service, host.server)
    await host.start([shard_pb2.DESCRIPTOR.services_by_name["ShardService"].full_name])
    log.info("listening", port=host.port, metrics_port=host.metrics_port)
    await _until_redis_answers(parts.redis, settings.redis)
    async with asyncio.TaskGroup() as tasks:
        compiled = tasks.create_task(asyncio.to_thread(warmup))  # while partitions are loaded
        tasks.create_task(follower.run())
        tasks.create_task(report_forever(follower, parts.lanes.admission, parts.memory))
        tasks.create_task(report_self_forever(parts.redis, name, follower, parts.memory))
        await follower.caught_up.wait()
        await compiled
        tasks.create_task(parts.snapshots.run(follower.collections))
        await host.set_ready(True)
        log.info("ready", collections=len(follower.collections), term=follower.term)


async def _stop(parts: _Parts, running: asyncio.Task[None], grace: float) -> None:
    """End all that runs, in an order in which nothing is missed that comes later."""
    log.info("stopping")
    end_within(grace + EXIT_SECONDS)
    begun = time.monotonic()
    # Before the follower: requests in flight may wait for positions.
    await stage("requests", parts.host.stop(), grace + 1)
    await stage("follower", cancelled(running), 1)
    rest = grace - (time.monotonic() - begun)
    if rest > 0:
        await stage("snapshots", parts.snapshots.take_all(parts.follower.collections), rest)
    parts.lanes.close()
    await stage("redis", parts.redis.aclose(), 1)
    log.info("stopped", seconds=round(time.monotonic() - begun, 3))


def _connect(settings: RedisSettings) -> Redis:
    try:
        return connect(settings, "csr-index")
    except ValueError as error:
        raise InvalidSettings(f"redis.url: {error}") from None


async def _until_redis_answers(redis: Redis, settings: RedisSettings) -> None:
    patience = START_TIMEOUTS * settings.timeout_seconds
    deadline = time.monotonic() + patience
    while True:
        try:
            with store_errors("ping"):
                await redis.ping()
                return
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                address = urlsplit(settings.url).netloc.rpartition("@")[2]  # never the password
                raise StoreUnavailable(
                    f"Redis at {address} did not answer for {patience:g} s; start it or set REDIS_URL ({error})"
                ) from None
        await asyncio.sleep(_RETRY_SECONDS)
