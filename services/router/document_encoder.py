"""Checked documents become what the store keeps: encoded for every live generation."""

from collections.abc import Mapping

import numpy as np
import structlog
from numpy.typing import NDArray

from csr.v1.vector_pb2 import TextBatch
from services.index.store.catalog import CollectionRecord
from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.writer import DocumentWrite
from services.router.deadline import Deadline
from services.router.encoder_client import Encoded, EncoderClient
from services.router.write_request import CheckedUpsert, stored_codes
from services.runtime.errors import CsrError

log = structlog.get_logger()


class DocumentEncoder:
    """Encodes documents; holds no state of its own."""

    def __init__(self, encoder: EncoderClient) -> None:
        self._encoder = encoder

    async def writes(
        self, record: CollectionRecord, upsert: CheckedUpsert, allow_truncation: bool, deadline: Deadline
    ) -> list[DocumentWrite]:
        """Return the documents of an upsert as they are stored, in order.

        Raises:
            CsrError: as the encoder answers for the active generation.
        """
        inputs, embeddings, codes = await self._encoded(record, upsert, allow_truncation, deadline)
        return [
            DocumentWrite(
                id,
                upsert.versions[row],
                deleted=False,
                body=DocumentBody(
                    None if embeddings is None else embeddings[row],
                    upsert.payloads[row],
                    {generation: of_generation[row] for generation, of_generation in codes.items()},
                ),
                input_digest=input_digest(inputs[row], upsert.payloads[row]),
            )
            for row, id in enumerate(upsert.ids)
        ]

    async def _encoded(
        self, record: CollectionRecord, upsert: CheckedUpsert, allow_truncation: bool, deadline: Deadline
    ) -> tuple[list[bytes], NDArray[np.float16] | None, Mapping[int, list[QuantisedCode]]]:
        """Return the bytes that tell one input from another, embeddings, and codes by generation."""
        vectors, active, k = upsert.vectors, record.active, record.k_max
        if isinstance(vectors, np.ndarray):
            inputs = [row.tobytes() for row in vectors]
            encoded = await self._encoder.encode_embeddings(active, vectors, k, deadline.remaining())
            embeddings = vectors
        elif isinstance(vectors, TextBatch):
            # A text's embedding may differ in its last bit from batch to batch; the text is what the client sent.
            inputs = [text.encode() for text in vectors.texts]
            encoded = await self._encoder.encode_texts(active, vectors, k, allow_truncation, deadline.remaining())
            embeddings = encoded.embeddings.astype(np.float16)
        else:
            return (
                [code.latents.tobytes() + code.weights.tobytes() for code in vectors],
                None,
                {active.generation: vectors},
            )
        return inputs, embeddings, await self._all_generations(record, embeddings, encoded, deadline)

    async def _all_generations(
        self, record: CollectionRecord, embeddings: NDArray[np.float16], active: Encoded, deadline: Deadline
    ) -> dict[int, list[QuantisedCode]]:
        """Return the codes by generation; a generation that is not active may be missing."""
        codes = {record.active.generation: stored_codes(active.codes, "encoder", record.active, record.k_max)}
        for generation in record.generations:
            if generation.state == "active":
                continue
            try:
                encoded = await self._encoder.encode_embeddings(
                    generation, embeddings, record.k_max, deadline.remaining()
                )
                codes[generation.generation] = stored_codes(encoded.codes, "encoder", generation, record.k_max)
            except CsrError as error:
                log.warning("documents lack a generation", generation=generation.generation, reason=str(error))
        return codes
