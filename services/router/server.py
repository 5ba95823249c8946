"""The router as one object: its connections, its servicers, its background work."""

import asyncio

from csr.v1 import control_pb2, control_pb2_grpc, search_pb2, search_pb2_grpc
from services.index.core import code
from services.index.store.connection import connect
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter
from services.router.chunk_writer import ChunkWriter
from services.router.control import ControlServicer
from services.router.counts import Counts
from services.router.delete_by_filter import DeleteByFilter
from services.router.directory import Directory
from services.router.document_encoder import DocumentEncoder
from services.router.documents import Documents
from services.router.encoder_client import EncoderClient
from services.router.explain import Explain
from services.router.fan_out import FanOut
from services.router.hit_documents import HitDocuments
from services.router.index_servers import IndexServers
from services.router.log_writes import LogWrites
from services.router.query_vectors import QuerySource
from services.router.scan import Scan
from services.router.scroll import Scroll
from services.router.search_path import SearchPath
from services.router.service import Features, SearchServicer
from services.router.status import StatusReport
from services.router.upsert_stream import UpsertStream
from services.router.visibility import Visibility
from services.router.write_path import WritePath
from services.runtime import metrics
from services.runtime.lifecycle import GrpcHost, HostOptions
from services.runtime.settings import Settings
from services.runtime.stopping import cancelled, stage

SERVICE_NAMES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in ((search_pb2, "SearchService"), (control_pb2, "ControlService"))
)


class Router:
    """One router process; `start`, then `stop`. Ready once collections and placement were read from the store."""

    def __init__(self, settings: Settings) -> None:
        """Create the router; must be called inside the event loop that will run it."""
        router = settings.router
        self._redis = connect(settings.redis, "csr-router")
        self._directory = Directory(self._redis, router.refresh_seconds)
        self._encoder = EncoderClient(settings.encoder.address)
        self._servers = IndexServers()
        self.host = GrpcHost(
            HostOptions(
                host=router.host,
                port=router.port,
                metrics_port=router.metrics_port,
                concurrent_requests=router.concurrent_requests,
                drain_seconds=router.drain_seconds,
                reflection=router.reflection,
            )
        )
        reader = DocumentReader(self._redis)
        search = SearchServicer(self._features(settings, reader), router.default_deadline_seconds)
        status = StatusReport(self._directory, self._redis, settings.redis.url, self._encoder, self._servers)
        control = ControlServicer(self._directory, self._encoder, reader, status, router.default_deadline_seconds)
        search_pb2_grpc.add_SearchServiceServicer_to_server(search, self.host.server)
        control_pb2_grpc.add_ControlServiceServicer_to_server(control, self.host.server)
        self._refreshing: asyncio.Task[None] | None = None

    def _features(self, settings: Settings, reader: DocumentReader) -> Features:
        directory, servers = self._directory, self._servers
        queries, documents = QuerySource(self._encoder, reader), HitDocuments(reader)
        encoder, log = DocumentEncoder(self._encoder), LogWrites(directory, LogWriter(self._redis, settings.log))
        visibility, scan = Visibility(directory, servers), Scan(directory, servers)
        chunks = ChunkWriter(encoder, log, settings.router.default_deadline_seconds)
        return Features(
            writes=WritePath(directory, encoder, log, visibility),
            streams=UpsertStream(directory, chunks, self._redis),
            deletions=DeleteByFilter(directory, scan, log, visibility),
            documents=Documents(directory, reader),
            counts=Counts(directory, reader, servers),
            scroll=Scroll(directory, scan, documents),
            searches=SearchPath(directory, queries, FanOut(servers), documents),
            explanations=Explain(directory, queries, servers),
        )

    async def start(self) -> None:
        """Bind the ports and begin to answer.

        Raises:
            OSError: a port is taken.
        """
        metrics.expose("router")
        await self.host.start(SERVICE_NAMES)
        self._refreshing = asyncio.create_task(self._become_ready())

    async def _become_ready(self) -> None:
        await asyncio.to_thread(code.compile_quantise)
        await self._directory.keep_fresh(lambda: self.host.set_ready(True))

    async def stop(self) -> None:
        """Let requests in flight finish, then close all connections."""
        if self._refreshing is not None:
            await stage("directory", cancelled(self._refreshing), 1)
        await stage("requests", self.host.stop(), self.host.options.drain_seconds + 1)
        await stage("encoder", self._encoder.close(), 1)
        await stage("index servers", self._servers.close(), 1)
        await stage("redis", self._redis.aclose(), 1)
