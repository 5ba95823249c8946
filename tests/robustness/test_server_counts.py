"""The same collection on one, two, three and five index servers."""

import uuid
from pathlib import Path

from services.client import Client, Token
from tests.robustness.corpus import Corpus
from tests.robustness.load import create_collection
from tests.services.index.core import oracle
from tests.support.deployment import Deployment, eventually
from tests.support.measured import Measured

PARTITIONS = 16
DOCUMENTS = 1_500
LEVELS = (1, 2, 4, 8)

Answers = dict[tuple[int, int], list[list[tuple[str, str]]]]


def answers(client: Client, collection: str, corpus: Corpus, token: Token) -> Answers:
    """Return ids and all bits of the scores, by level and number of results."""
    queries = corpus.queries(range(len(corpus.asked)))
    found: Answers = {}
    for k in LEVELS:
        for top_n in (1, 10, 1_000):
            hits = client.search(collection, codes=queries, top_n=top_n, k=k, token=token).hits
            found[k, top_n] = [[(hit.id, hit.score.hex()) for hit in of_query] for of_query in hits]
    return found


def test_any_number_of_servers_gives_the_same_bits(tmp_path: Path, measured: Measured) -> None:
    """Users would see other results after servers were added, and could never tell a wrong answer from a right one."""
    corpus = Corpus(seed=21, queries=12)
    deployment = Deployment(tmp_path, index_servers=5)
    name = f"c-{uuid.uuid4().hex[:12]}"
    ids = [f"dok-ü{number}" for number in range(DOCUMENTS)]
    codes = [number % len(corpus.stored) for number in range(DOCUMENTS)]
    by_servers: dict[int, Answers] = {}
    try:
        deployment.start()
        with deployment.client(timeout_seconds=60.0) as client:
            create_collection(client, name, PARTITIONS)
            client.upsert(name, ids, codes=corpus.codes(codes))
            token = client.delete(name, ids[::9]).token
            for count in (5, 1, 2, 3):
                servers = deployment.index_servers[:count]
                deployment.place(servers)

                def held_by_all(names: set[str] = {server.name for server in servers}) -> bool:  # noqa: B006
                    states = client.describe_collection(name).partitions
                    return all(state.ready for state in states) and {state.index_server for state in states} == names

                eventually(held_by_all, seconds=60)
                by_servers[count] = answers(client, name, corpus, token)
    finally:
        deployment.stop()
    live = {id: oracle.Document(corpus.stored[code]) for id, code in zip(ids, codes, strict=True)}
    for id in ids[::9]:
        del live[id]
    for (k, top_n), found in by_servers[1].items():
        right = [oracle.search(live, query, top_n, k, k) for query in corpus.asked]
        assert found == [[(id, score.hex()) for id, score in hits] for hits in right]
    assert all(found == by_servers[1] for found in by_servers.values())
    compared = sum(len(hits) for found in by_servers[1].values() for hits in found)
    measured(f"{compared} hits identical in every bit on 1, 2, 3 and 5 servers, and to brute force")
