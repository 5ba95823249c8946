"""Clients in processes of their own, each of which sends its next request when it has the answer to the last one."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import grpc

from benchmarks.index_search.engines import THREADS
from csr.v1 import search_pb2, search_pb2_grpc
from services.runtime.channel import CHANNEL_OPTIONS

_OF_ITS_OWN: Final = ("grpc.use_local_subchannel_pool", 1)
"""A connection for every client, as if they were on different machines."""


class Turn(NamedTuple):
    """What a process does next: so many clients ask one server for some seconds."""

    address: str
    clients: int
    seconds: float


class Clients:
    """Some clients, spread over processes; made by `clients_of`."""

    def __init__(self, count: int, processes: Sequence[Connection]) -> None:
        self._shares = [len(range(number, count, len(processes))) for number in range(len(processes))]
        self._processes = processes

    def ask(self, address: str, seconds: float) -> list[int]:
        """Let all clients search one server at the same time, and return the nanoseconds of each request.

        Raises:
            RuntimeError: a search failed, or found less than it should.
        """
        for process, share in zip(self._processes, self._shares, strict=True):
            process.send(Turn(address, share, seconds))
        found: list[int] = []
        for process in self._processes:
            answer = process.recv()
            if isinstance(answer, str):
                raise RuntimeError(answer)
            found += answer
        return found


@contextmanager
def clients_of(requests: Sequence[search_pb2.SearchRequest], count: int) -> Iterator[Clients]:
    """Start the processes of so many clients, no more than there are processors, until the block ends."""
    context = multiprocessing.get_context("spawn")
    encoded = [request.SerializeToString() for request in requests]
    with ExitStack() as running:
        ends = []
        for number in range(min(count, THREADS)):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, encoded[number:] + encoded[:number]), daemon=True)
            process.start()
            there.close()
            running.callback(process.join)
            running.callback(here.close)  # before the join: the process ends when nobody can tell it anything
            here.recv()
            ends.append(here)
        yield Clients(count, ends)


def _work(orders: Connection, encoded: Sequence[bytes]) -> None:
    requests = [search_pb2.SearchRequest.FromString(message) for message in encoded]
    orders.send("ready")
    while True:
        try:
            turn = orders.recv()
        except EOFError:
            return
        try:
            orders.send(asyncio.run(_turn(turn, requests)))
        except Exception as error:
            orders.send(f"{turn.address}: {error}")


async def _turn(turn: Turn, requests: list[search_pb2.SearchRequest]) -> list[int]:
    starts = [number * len(requests) // turn.clients for number in range(turn.clients)]
    found = await asyncio.gather(*(_client(turn, requests[start:] + requests[:start]) for start in starts))
    return [nanoseconds for of_client in found for nanoseconds in of_client]


async def _client(turn: Turn, requests: list[search_pb2.SearchRequest]) -> list[int]:
    found = []
    async with grpc.aio.insecure_channel(turn.address, options=(*CHANNEL_OPTIONS, _OF_ITS_OWN)) as channel:
        await channel.channel_ready()
        search = search_pb2_grpc.SearchServiceStub(channel).Search
        end = time.perf_counter() + turn.seconds
        at = 0
        while time.perf_counter() < end:
            request = requests[at % len(requests)]
            at += 1
            started = time.perf_counter_ns()
            response = await search(request, timeout=30.0)
            found.append(time.perf_counter_ns() - started)
            if len(response.results[0].hits) != request.top_n or response.receipt.coverage != 1:
                raise RuntimeError(f"{len(response.results[0].hits)} hits where {request.top_n} were asked for")
    return found
