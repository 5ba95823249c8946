"""The Python client of CSR search: numpy in, numpy and dataclasses out.

    with Client("127.0.0.1:7000") as client:
        client.create_collection("articles", model="csr-adapter", fields={"lang": "keyword"})
        written = client.upsert("articles", ids, embeddings=embeddings, payloads=payloads)
        result = client.search("articles", embeddings=queries, where=Eq("lang", "de"), token=written.token)
        result.hits[0][0].id, result.receipt.generation

`AsyncClient` has the same methods for asyncio.
"""

from services.client.asynchronous import AsyncClient
from services.client.blocking import Client
from services.client.filters import And, Eq, In, Not, Or, Range, Where
from services.client.types import (
    Batch,
    BatchResult,
    Codes,
    Collection,
    CollectionDescription,
    Contribution,
    CountResult,
    DeploymentStatus,
    Document,
    Documents,
    DocumentWrite,
    Explanation,
    Explanations,
    FilterDeletion,
    Generation,
    Hit,
    Model,
    Page,
    PartitionState,
    ProcessStatus,
    Receipt,
    SearchResult,
    Token,
    WriteResult,
)

__all__ = [
    "And",
    "AsyncClient",
    "Batch",
    "BatchResult",
    "Client",
    "Codes",
    "Collection",
    "CollectionDescription",
    "Contribution",
    "CountResult",
    "DeploymentStatus",
    "Document",
    "DocumentWrite",
    "Documents",
    "Eq",
    "Explanation",
    "Explanations",
    "FilterDeletion",
    "Generation",
    "Hit",
    "In",
    "Model",
    "Not",
    "Or",
    "Page",
    "PartitionState",
    "ProcessStatus",
    "Range",
    "Receipt",
    "SearchResult",
    "Token",
    "Where",
    "WriteResult",
]
