"""The process: ports, Redis, kernels, follower and service, from start to drain."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis

from csr.v1 import shard_pb2, shard_pb2_grpc
from services.index.core.warmup import warmup
from services.index.follower import Follower
from services.index.gauges import report_forever
from services.index.lanes import Lanes
from services.index.service import ShardService
from services.index.store.connection import connect, store_errors
from services.runtime.errors import StoreUnavailable
from services.runtime.lifecycle import GrpcHost, HostOptions, until_signalled
from services.runtime.settings import InvalidSettings, RedisSettings, Settings

log = structlog.get_logger()

START_TIMEOUTS: Final = 2
"""How long a server that starts waits for Redis, in redis.timeout_seconds. Later it outlives any loss of Redis."""
_RETRY_SECONDS: Final = 0.2


async def serve(settings: Settings) -> None:
    """Run an index server until it is asked to stop.

    Health is SERVING once everything that placement gives to this server has been loaded up to the head of its log.

    Raises:
        OSError: a port is taken.
        InvalidSettings: the address of Redis is none.
        StoreUnavailable: Redis did not answer within START_TIMEOUTS.
    """
    host = GrpcHost(
        HostOptions(
            host=settings.index.host,
            port=settings.index.port,
            metrics_port=settings.index.metrics_port,
            concurrent_requests=settings.index.concurrent_requests,
            drain_seconds=settings.index.drain_seconds,
            reflection=settings.router.reflection,
        )
    )
    running = asyncio.create_task(_run(host, settings))
    stopping = asyncio.create_task(until_signalled())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    await host.stop()  # before the follower stops: requests in flight may wait for positions
    stopping.cancel()
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


async def _run(host: GrpcHost, settings: Settings) -> None:
    name = settings.index.name
    redis = _connect(settings.redis)
    lanes = Lanes(settings.index.threads)
    with ThreadPoolExecutor(1, thread_name_prefix="apply") as applier:
        follower = Follower(redis, settings.index, applier)
        shard_pb2_grpc.add_ShardServiceServicer_to_server(ShardService(name, follower, lanes), host.server)
        try:
            await host.start([shard_pb2.DESCRIPTOR.services_by_name["ShardService"].full_name])
            log.info("listening", port=host.port, metrics_port=host.metrics_port)
            await asyncio.gather(_until_redis_answers(redis, settings.redis), asyncio.to_thread(warmup))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follower.run())
                tasks.create_task(report_forever(follower))
                await follower.caught_up.wait()
                await host.set_ready(True)
                log.info("ready", collections=len(follower.collections), term=follower.term)
        finally:
            lanes.close()
            await redis.aclose()


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
