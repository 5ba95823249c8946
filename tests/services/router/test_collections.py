"""Collections through a real router."""

import threading

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.client import Client
from services.runtime.errors import CollectionExists, UnknownCollection
from tests.services.router.corpus import FINGERPRINT, create_codes_collection, random_codes
from tests.support.deployment import MODEL, Deployment, eventually
from tests.support.encoder_server import HIDDEN_DIM, INPUT_DIM


def test_a_dense_collection_takes_the_champion(client: Client, deployment: Deployment, name: str) -> None:
    """A collection would be pinned to another model than the promoted one."""
    created = client.create_collection(name, MODEL)
    assert (created.kind, created.versioning, created.partitions) == ("dense", "assigned", 16)
    assert (created.input_dim, created.hidden_dim, created.k_max) == (INPUT_DIM, HIDDEN_DIM, 8)
    assert [(generation.generation, generation.state) for generation in created.generations] == [(1, "active")]
    model = created.active.model
    assert (model.name, model.version) == (MODEL, 2)
    assert model.fingerprint == deployment.encoder.adapters[MODEL, 2].fingerprint


def test_a_version_may_be_named(client: Client, deployment: Deployment, name: str) -> None:
    """Users could not create a collection for a version that is not promoted yet."""
    fingerprint = deployment.encoder.adapters[MODEL, 1].fingerprint
    created = client.create_collection(name, MODEL, model_version=1, fingerprint=fingerprint, k_max=4, partitions=1)
    assert (created.active.model.version, created.k_max, created.partitions) == (1, 4, 1)


def test_a_codes_collection_is_as_asked(client: Client, name: str) -> None:
    """Codes of a model unknown to the registry could not be served."""
    created = client.create_collection(
        name, "elsewhere", kind="codes", fingerprint=FINGERPRINT, hidden_dim=65_536, k_max=256, versioning="client"
    )
    assert (created.kind, created.versioning, created.input_dim) == ("codes", "client", 0)
    assert (created.hidden_dim, created.k_max) == (65_536, 256)
    assert (created.active.model.name, created.active.model.fingerprint) == ("elsewhere", FINGERPRINT)


def test_description_shows_store_and_index_side_by_side(client: Client, name: str) -> None:
    """Operators could not see that an index server is behind, or what an acknowledgement is worth."""
    create_codes_collection(client, name)
    ids = [f"d{row}" for row in range(40)]
    token = client.upsert(name, ids, codes=random_codes(40, seed=1)).token
    client.search(name, codes=random_codes(1, seed=2), token=token)
    described = client.describe_collection(name)
    assert described.documents == 40
    assert described.appendfsync == "always"
    assert [state.partition for state in described.partitions] == [0, 1, 2, 3]
    assert {state.partition: state.lsn for state in described.partitions} == token.positions
    assert sum(state.documents for state in described.partitions) == 40
    assert all(state.ready and state.visible_lsn == state.lsn for state in described.partitions)
    assert {state.index_server for state in described.partitions} <= {"index-0", "index-1"}


def test_collections_are_listed_by_name(client: Client, name: str) -> None:
    """A collection would be missing from the list, or stay in it after its deletion."""
    for suffix in ("-b", "-a"):
        create_codes_collection(client, name + suffix)
    listed = [collection.name for collection in client.list_collections()]
    assert listed == sorted(listed)
    assert {name + "-a", name + "-b"} <= set(listed)
    client.delete_collection(name + "-a")
    assert name + "-a" not in [collection.name for collection in client.list_collections()]


def test_of_many_creations_one_succeeds(deployment: Deployment, name: str) -> None:
    """Two applications would each believe that the collection is theirs."""
    outcomes: list[str] = []

    def create() -> None:
        with deployment.client() as client:
            try:
                outcomes.append(client.create_collection(name, MODEL).collection_id)
            except CollectionExists:
                outcomes.append("exists")

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("exists") == 5


def test_a_deleted_collection_is_gone_at_once(client: Client, name: str) -> None:
    """Searches and writes would still reach documents that were deleted for good."""
    create_codes_collection(client, name)
    client.upsert(name, ["a"], codes=random_codes(1, seed=1))
    first = client.describe_collection(name).collection.collection_id
    assert client.delete_collection(name) == first
    for call in (
        lambda: client.search(name, codes=random_codes(1, seed=1)),
        lambda: client.upsert(name, ["b"], codes=random_codes(1, seed=1)),
        lambda: client.get(name, ["a"]),
        lambda: client.count(name),
        lambda: client.describe_collection(name),
        lambda: client.delete_collection(name),
    ):
        with pytest.raises(UnknownCollection):
            call()
    create_codes_collection(client, name)
    assert client.describe_collection(name).collection.collection_id != first
    assert client.get(name, ["a"]).missing == ["a"]


def test_status_names_every_process(client: Client, name: str) -> None:
    """Operators could not tell what is down."""
    create_codes_collection(client, name)
    eventually(lambda: all(process.ready for process in client.status().processes))
    status = client.status()
    assert [process.name for process in status.processes] == ["encoder", "index-0", "index-1", "redis"]
    assert all(process.address.startswith("127.0.0.1:") for process in status.processes)
    assert status.processes[3].detail == "appendfsync always"
    assert "partitions ready" in status.processes[1].detail


def test_the_api_can_be_explored(deployment: Deployment) -> None:
    """grpcurl would not find the services that the README shows."""

    with grpc.insecure_channel(deployment.router.address) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"csr.v1.SearchService", "csr.v1.ControlService", "grpc.health.v1.Health"} <= set(services)
