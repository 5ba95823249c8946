"""Streams of upserts against a real router, message by message."""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import pytest

from csr.v1 import search_pb2, vector_pb2
from services.client import Client
from services.client.vectors import with_vectors
from services.runtime.codec import embeddings_to_proto
from services.runtime.errors import CsrError, InvalidRequest, LimitExceeded, UnknownCollection, error_from_rpc
from tests.services.router.corpus import create_codes_collection, random_codes
from tests.services.router.stubs import Stubs
from tests.support.deployment import MODEL
from tests.support.encoder_server import clustered

Message = search_pb2.UpsertStreamRequest


def opening(name: str, stream_id: str = "s") -> Message:
    """Return the first message of a stream."""
    return Message(open=search_pb2.UpsertStreamOpen(collection=name, stream_id=stream_id))


def chunk(sequence: int, ids: Sequence[str], seed: int, **changes: Any) -> Message:
    """Return a chunk of random codes."""
    message = search_pb2.UpsertChunk(sequence=sequence, ids=ids, **changes)
    with_vectors(message, random_codes(len(ids), seed), slice(None))
    return Message(chunk=message)


def sent(stubs: Stubs, messages: Iterable[Message]) -> list[search_pb2.UpsertStreamResponse]:
    """Send messages and return all answers.

    Raises:
        CsrError: what ended the stream.
    """
    answers, error = answered(stubs, messages)
    if error is not None:
        raise error
    return answers


def answered(
    stubs: Stubs, messages: Iterable[Message]
) -> tuple[list[search_pb2.UpsertStreamResponse], CsrError | None]:
    """Send messages; return the answers, and what ended the stream."""
    answers: list[search_pb2.UpsertStreamResponse] = []
    try:
        answers.extend(stubs.search.UpsertStream(iter(messages), timeout=60))
    except grpc.RpcError as error:
        return answers, error_from_rpc(error)
    return answers, None


def statuses(answer: search_pb2.UpsertStreamResponse) -> list[str]:
    """Return what became of each document of a chunk."""
    prefix = "WRITE_STATUS_"
    return [search_pb2.WriteStatus.Name(result.status).removeprefix(prefix).lower() for result in answer.results]


def test_chunks_are_stored_and_answered_in_order(stubs: Stubs, client: Client, name: str) -> None:
    """A bulk load would lose chunks, or report the results of one as those of another."""
    create_codes_collection(client, name)
    chunks = [[f"c{number}-{row}" for row in range(number)] for number in range(1, 13)]
    answers = sent(stubs, [opening(name), *(chunk(n, ids, seed=n) for n, ids in enumerate(chunks, 1))])
    assert [answer.sequence for answer in answers] == list(range(13))
    assert not answers[0].results
    assert [statuses(answer) for answer in answers[1:]] == [["applied"] * len(ids) for ids in chunks]
    assert client.count(name).count == sum(map(len, chunks))
    positions = {position.partition: position.lsn for answer in answers for position in answer.token.positions}
    assert positions == dict(client.count(name).token.positions)


def test_a_stream_is_resumed_where_it_was(stubs: Stubs, client: Client, name: str) -> None:
    """A load that broke would begin again, or leave a gap."""
    create_codes_collection(client, name)
    sent(stubs, [opening(name), *(chunk(n, [f"d{n}"], seed=n) for n in (1, 2, 3))])
    assert [answer.sequence for answer in sent(stubs, [opening(name)])] == [3]
    assert sent(stubs, [opening(name, "another")])[0].sequence == 0
    again = sent(stubs, [opening(name), chunk(4, ["d4"], seed=4)])
    assert [answer.sequence for answer in again] == [3, 4]
    assert client.count(name).count == 4


def test_a_repeated_chunk_has_its_first_results(stubs: Stubs, client: Client, name: str) -> None:
    """A chunk whose answer was lost would be stored again, over what was written since."""
    create_codes_collection(client, name)
    first = sent(stubs, [opening(name), chunk(1, ["a", "b"], seed=1)])[1]
    newer = client.upsert(name, ["a"], codes=random_codes(1, seed=9))
    repeated = sent(stubs, [opening(name), chunk(1, ["a", "b"], seed=1), chunk(1, ["a", "b"], seed=1)])
    assert [answer.sequence for answer in repeated] == [1, 1, 1]
    assert [list(answer.results) for answer in repeated[1:]] == [list(first.results)] * 2
    assert client.get(name, ["a"]).documents[0].version == newer.results[0].version


def test_a_later_chunk_wins(stubs: Stubs, client: Client, name: str) -> None:
    """Chunks are encoded at the same time; of two versions of a document the earlier one would stay."""
    create_codes_collection(client, name, partitions=1)
    rounds = [chunk(n, ["same"], seed=n, payloads_json=[f'{{"round":{n}}}']) for n in range(1, 30)]
    sent(stubs, [opening(name), *rounds])
    assert client.get(name, ["same"]).documents[0].payload == {"round": 29}


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([], InvalidRequest, "open: the first message"),
        ([chunk(1, ["a"], seed=1)], InvalidRequest, "open: the first message"),
        ([opening("{}", "x" * 49)], LimitExceeded, "open.stream_id: 49 bytes, at most 48"),
        ([opening("{}", "")], InvalidRequest, "open.stream_id: empty"),
        ([opening("nowhere")], UnknownCollection, "nowhere"),
        ([opening("{}"), opening("{}")], InvalidRequest, "chunk: every message"),
        ([opening("{}"), chunk(2, ["a"], seed=1)], InvalidRequest, "chunk.sequence: 2, 1 comes next"),
        ([opening("{}"), chunk(0, ["a"], seed=1)], InvalidRequest, "chunk.sequence: 0, 1 comes next"),
        ([opening("{}"), chunk(1, ["a", "b"], seed=1, versions=[1])], InvalidRequest, "versions: "),
        ([opening("{}"), chunk(1, ["x" * (5 << 20)], seed=1)], LimitExceeded, "request: "),
    ],
)
def test_a_wrong_stream_is_explained(
    stubs: Stubs, client: Client, name: str, messages: list[Message], error: type[CsrError], text: str
) -> None:
    """A client that numbers chunks wrongly would lose some of them without a word."""
    create_codes_collection(client, name)
    for message in messages:
        if message.open.collection == "{}":
            message.open.collection = name
    _, raised = answered(stubs, messages)
    assert type(raised) is error
    assert text in str(raised)
    assert client.count(name).count == 0


def test_what_came_before_an_error_is_stored_and_answered(stubs: Stubs, client: Client, name: str) -> None:
    """A client would not know from where to go on."""
    create_codes_collection(client, name)
    answers, error = answered(stubs, [opening(name), *(chunk(n, [f"d{n}"], seed=n) for n in (1, 2, 3, 9))])
    assert [answer.sequence for answer in answers] == [0, 1, 2, 3]
    assert isinstance(error, InvalidRequest)
    assert client.count(name).count == 3


def test_one_bad_document_concerns_only_itself(stubs: Stubs, client: Client, name: str) -> None:
    """One bad document among millions would end a bulk load."""
    create_codes_collection(client, name, fields={"year": "int"})
    bad = chunk(1, ["a", "", "c", "a"], seed=1, payloads_json=["{}", "{}", '{"year":"x"}', "{}"])
    answers = sent(stubs, [opening(name), bad, chunk(2, ["e"], seed=2)])
    assert [statuses(answer) for answer in answers[1:]] == [["applied", "invalid", "invalid", "invalid"], ["applied"]]
    errors = [result.error for result in answers[1].results]
    assert [error.split(":")[0] for error in errors] == ["", "ids[1]", "payloads_json[2].year", "ids[3]"]
    assert client.count(name).count == 2


def test_a_text_that_the_encoder_refuses_concerns_only_itself(stubs: Stubs, client: Client, name: str) -> None:
    """Only the encoder knows how many tokens a text has; its refusal would end the stream."""
    client.create_collection(name, MODEL)
    texts = [f"text number {row}" for row in range(40)]
    texts[17] = "long " * 17
    message = search_pb2.UpsertChunk(
        sequence=1, ids=[f"d{row}" for row in range(40)], texts=vector_pb2.TextBatch(texts=texts)
    )
    answer = sent(stubs, [opening(name), Message(chunk=message)])[1]
    assert [row for row, status in enumerate(statuses(answer)) if status == "invalid"] == [17]
    assert answer.results[17].error.startswith("texts[17] has 17 tokens")
    assert client.count(name).count == 39


def test_a_deleted_collection_ends_its_streams(stubs: Stubs, client: Client, name: str) -> None:
    """A load would go on into another collection of the same name, or end without a reason."""

    def messages(recreate: bool) -> Iterable[Message]:
        yield opening(name)
        yield chunk(1, ["a"], seed=1)
        while client.count(name).count == 0:
            pass
        client.delete_collection(name)
        if recreate:
            create_codes_collection(client, name)
        yield from (chunk(number, [f"d{number}"], seed=number) for number in range(2, 8))

    for recreate in (False, True):
        create_codes_collection(client, name)
        answers, error = answered(stubs, messages(recreate))
        assert [answer.sequence for answer in answers] == [0, 1]
        assert isinstance(error, UnknownCollection)
        assert "it was deleted while the stream wrote to it" in str(error)
    assert client.count(name).count == 0


def test_a_stream_is_read_no_faster_than_it_is_stored(stubs: Stubs, client: Client, name: str) -> None:
    """The router would take all of a data set into its memory while the store is slow."""
    create_codes_collection(client, name, partitions=1)
    taken: list[int] = []

    def messages() -> Iterable[Message]:
        yield opening(name)
        payload = '{"x":"' + "x" * 60_000 + '"}'
        for number in range(1, 40):
            taken.append(number)
            yield chunk(number, [f"{number}-{row}" for row in range(50)], seed=1, payloads_json=[payload] * 50)

    ahead = []
    for answer in stubs.search.UpsertStream(messages(), timeout=120):
        ahead.append(len(taken) - answer.sequence)
    assert len(taken) == 39
    assert max(ahead) < 20


def test_embeddings_stream_too(stubs: Stubs, client: Client, name: str) -> None:
    """Dense collections could not be loaded in bulk."""
    client.create_collection(name, MODEL)
    embeddings = clustered(300, seed=5)
    messages = [
        Message(
            chunk=search_pb2.UpsertChunk(
                sequence=number + 1,
                ids=[f"d{row}" for row in range(100 * number, 100 * number + 100)],
                embeddings=embeddings_to_proto(embeddings[100 * number : 100 * number + 100]),
            )
        )
        for number in range(3)
    ]
    answers = sent(stubs, [opening(name), *messages])
    token_positions = {position.partition: position.lsn for answer in answers for position in answer.token.positions}
    token = client.count(name).token
    assert token.positions == token_positions
    hits = client.search(name, embeddings=embeddings[:5], top_n=1, rerank=50, token=token).hits
    assert [hit[0].score for hit in hits] == pytest.approx([1.0] * 5)
