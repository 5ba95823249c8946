"""A TCP proxy that makes a good connection a bad one."""

import asyncio
import random
import threading
import time
from typing import Final

from tests.support.redis_server import free_port

_CHUNK_BYTES: Final = 1 << 16


class TcpProxy:
    """Stands between clients and a server on this machine, in a thread of its own.

    Attributes:
        port: Where clients connect to.
        delay_seconds: Added to everything that the server answers; changed at any time.
        lost_replies: Share of the server's answers in whose place the connection is reset.
        lost: How many were.
    """

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self.port = free_port()
        self.delay_seconds = 0.0
        self.lost_replies = 0.0
        self.lost = 0
        self._target_port = target_port
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def redis_url(self) -> str:
        """Address for REDIS_URL, when the server is a Redis."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Take connections."""
        self._thread.start()
        serving = asyncio.start_server(self._connected, "127.0.0.1", self.port)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def stop(self) -> None:
        """Take no more connections and reset those that there are."""
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def reset(self) -> None:
        """Reset all connections; new ones are taken."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, to_server))
                    both.create_task(self._answer(from_server, writer))
            finally:
                to_server.transport.abort()
        except (OSError, ExceptionGroup):
            pass  # either side is gone; the other one is told by the end of its connection
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("the client is gone")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what the server says, each part the delay after it came."""
        parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1_000)

        async def hand_on() -> None:
            while True:
                due, chunk = await parts.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(hand_on())
            while chunk := await reader.read(_CHUNK_BYTES):
                if self._random.random() < self.lost_replies:
                    self.lost += 1
                    raise ConnectionResetError("the reply is lost")
                await parts.put((time.monotonic() + self.delay_seconds, chunk))
            raise ConnectionResetError("the server is gone")
