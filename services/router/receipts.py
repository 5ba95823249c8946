"""What an answer is an answer from. Pure."""

from collections.abc import Mapping

from csr.v1 import search_pb2, vector_pb2
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.router.tokens import token_message


def receipt_message(
    record: CollectionRecord,
    generation: GenerationRecord,
    positions: Mapping[int, int],
    staleness_seconds: float,
    k_query: int = 0,
    k_docs: int = 0,
) -> search_pb2.Receipt:
    """Return the receipt of an answer from all partitions that were asked, at these positions."""
    return search_pb2.Receipt(
        collection_id=record.collection_id,
        generation=generation.generation,
        model=vector_pb2.ModelVersion(
            name=generation.model_name, version=generation.model_version, fingerprint=generation.fingerprint
        ),
        k_query=k_query,
        k_docs=k_docs,
        coverage=1.0,
        token=token_message(record.collection_id, positions),
        staleness_seconds=staleness_seconds,
    )
