import uuid
from collections.abc import Callable, Iterator

import grpc
import pytest

from csr.v1 import control_pb2_grpc, search_pb2_grpc
from services.client import Client
from services.index.store.catalog import CollectionRecord, GenerationRecord, new_collection_id
from services.runtime.channel import CHANNEL_OPTIONS
from tests.services.router.corpus import FINGERPRINT
from tests.services.router.stubs import Stubs
from tests.support.deployment import Deployment


@pytest.fixture
def new_record() -> Callable[..., CollectionRecord]:
    """Make collection records for pure functions; they exist in no store."""

    def make(
        kind: str = "dense", versioning: str = "assigned", k_max: int = 24, partitions: int = 4
    ) -> CollectionRecord:
        return CollectionRecord(
            name="docs",
            collection_id=new_collection_id(),
            kind="dense" if kind == "dense" else "codes",
            versioning="client" if versioning == "client" else "assigned",
            input_dim=4 if kind == "dense" else 0,
            k_max=k_max,
            partitions=partitions,
            generations=(GenerationRecord(1, "active", "adapter", 1, FINGERPRINT, 64),),
        )

    return make


@pytest.fixture
def stubs(deployment: Deployment) -> Iterator[Stubs]:
    """Stubs of the session's router."""
    with grpc.insecure_channel(deployment.router.address, CHANNEL_OPTIONS) as channel:
        yield Stubs(search_pb2_grpc.SearchServiceStub(channel), control_pb2_grpc.ControlServiceStub(channel))


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """A client of the session's router."""
    with deployment.client() as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name for a collection that no other test uses."""
    return f"c-{uuid.uuid4().hex[:12]}"
