"""The Python client of CSR search: numpy in, numpy and dataclasses out.

    with Client("127.0.0.1:7000") as client:
        client.create_collection("articles", model="csr-adapter")
        written = client.upsert("articles", ids, embeddings=embeddings, payloads=payloads)
        result = client.search("articles", embeddings=queries, top_n=10, k=32, token=written.token)
        result.hits[0][0].id, result.receipt.generation

`AsyncClient` has the same methods for asyncio.
"""

from services.client.asynchronous import AsyncClient
from services.client.blocking import Client
from services.client.types import (
    Codes,
    Collection,
    CollectionDescription,
    CountResult,
    DeploymentStatus,
    Document,
    Documents,
    DocumentWrite,
    Generation,
    Hit,
    Model,
    PartitionState,
    ProcessStatus,
    Receipt,
    SearchResult,
    Token,
    WriteResult,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Codes",
    "Collection",
    "CollectionDescription",
    "CountResult",
    "DeploymentStatus",
    "Document",
    "DocumentWrite",
    "Documents",
    "Generation",
    "Hit",
    "Model",
    "PartitionState",
    "ProcessStatus",
    "Receipt",
    "SearchResult",
    "Token",
    "WriteResult",
]
