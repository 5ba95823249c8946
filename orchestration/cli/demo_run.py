"""What the demo does, in the order in which a team would do it. It leaves the stack stopped, whatever happens."""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from rich.rule import Rule
from rich.table import Table

from orchestration.cli.app import err, out, step
from orchestration.cli.collections import client
from orchestration.cli.documents import print_hits
from orchestration.cli.model_views import evaluate_version, promotion_table, verdict
from orchestration.cli.stack import backbone_folder
from orchestration.cli.train_view import choice_text, train_with_progress
from orchestration.cli.upload import upload
from orchestration.data.catalog import SETS, load
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit
from orchestration.evaluation import Evaluation
from orchestration.promote import Promotion, promote
from orchestration.registry import CHAMPION, ModelVersionInfo, Registry
from orchestration.stack.processes import interrupts_deferred
from orchestration.stack.stack import Stack
from orchestration.stack.state import StackError
from orchestration.timing import QueryTime, time_queries
from services.client.blocking import Client
from services.client.types import Token
from services.runtime.errors import UnknownCollection
from services.runtime.settings import Settings

DATA = "newsgroups20-sample"
COLLECTION = "newsgroups"
QUERIES = 10
HITS = 3
LEVELS = (8, 16, 32)
SERVED_QUERIES = 256


def run_demo(settings: Settings, ray_address: str) -> None:
    """Run the demo; Ctrl-C or SIGTERM at any point stops everything that it started.

    Args:
        settings: Of the stack and the training job.
        ray_address: Of the Ray cluster to train on, which the stack starts unless it is another one's.

    Raises:
        StackError: a stack runs already.
    """
    stack = Stack(settings)
    if stack.running():
        raise StackError("a stack is running here; end it with `csr down`, the demo starts one of its own")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        _run(settings, stack, ray_address)
    finally:
        with interrupts_deferred():
            ray.shutdown()
            stack.down(step)
    out.print(f"\nDone in {time.monotonic() - began:.0f} s; everything is stopped.", highlight=False)


def _run(settings: Settings, stack: Stack, ray_address: str) -> None:
    with _chapter("1. Real text, embedded"):
        data = load(DATA, settings.cache_dir, err)
        _show_data(data)
    with _chapter("2. An adapter, trained by Ray Train and tracked in MLflow"):
        stack.up(step, only=("ray",))
        ray.init(address=ray_address, log_to_driver=False, logging_level=logging.ERROR)
        trained = train_with_progress(settings, data)
        ray.shutdown()
        if trained.choice is not None:
            out.print(choice_text(trained.choice), highlight=False)
        out.print(f"registered {trained.name} version {trained.version}, fingerprint {trained.fingerprint}")
    with _chapter("3. Gates, measured on held-out documents"):
        registry = Registry.open(settings)
        trial = promote(registry, trained.name, lambda version: evaluate_version(registry, data, version))
        out.print(promotion_table(trial))
        out.print(verdict(trial))
    with _chapter("4. The stack: Redis, encoder replicas, index servers, router"):
        stack.up(step, backbone=lambda: backbone_folder(settings))
    with _chapter("5. Documents in, over gRPC"), client() as router:
        token = _index(router, settings, data.documents)
    with _chapter("6. Searches, over gRPC"), client() as router:
        _search_texts(router, data.queries, token)
        _search_served(router, data.queries, token)
    with _chapter("7. Codes against dense vectors, side by side"):
        _compare(registry, data, trial)
    _say_what_next(settings)


@contextmanager
def _chapter(title: str) -> Iterator[None]:
    out.print(Rule(title, align="left"))
    began = time.monotonic()
    yield
    out.print(f"[dim]({time.monotonic() - began:.1f} s)[/dim]\n", highlight=False)


def _show_data(data: EmbeddedSet) -> None:
    for name, split in (("documents", data.documents), ("queries", data.queries)):
        rows, dim = split.embeddings.shape
        out.print(f"{name}: {rows:,} texts as embeddings of {dim} dimensions, digest {split.digest[:12]}")
    out.print(f"licence: {SETS[DATA].licence}")


def _index(router: Client, settings: Settings, documents: EmbeddedSplit) -> Token:
    with suppress(UnknownCollection):
        router.delete_collection(COLLECTION)  # of an earlier demo
    made = router.create_collection(COLLECTION, settings.registry.model)
    model = made.active.model
    out.print(f"collection {COLLECTION}: encoded by {model.name} version {model.version}, k_max {made.k_max}")
    token = upload(router, COLLECTION, documents).token
    out.print(f"{router.count(COLLECTION).count:,} documents in the log, all acknowledged after fsync")
    return token


def _search_texts(router: Client, queries: EmbeddedSplit, token: Token) -> None:
    texts = queries.texts[:QUERIES]
    found = router.search(
        COLLECTION, texts=texts, top_n=HITS, k=32, include_payloads=True, token=token, allow_truncation=True
    )
    assert queries.labels is not None
    names = [queries.label_names[label] for label in queries.labels[:QUERIES]]
    shown = [f"[{name}] {text}" for name, text in zip(names, texts, strict=True)]
    print_hits(shown, found)


def _search_served(router: Client, queries: EmbeddedSplit, token: Token) -> None:
    found = router.search(
        COLLECTION, embeddings=queries.embeddings[:SERVED_QUERIES], top_n=1, k=32, include_payloads=True, token=token
    )
    assert queries.labels is not None
    labels = [queries.label_names[label] for label in queries.labels[:SERVED_QUERIES]]
    best = [hits[0].payload or {} if hits else {} for hits in found.hits]
    right = sum(payload.get("label") == label for payload, label in zip(best, labels, strict=True))
    receipt = found.receipt
    out.print(
        f"{SERVED_QUERIES} held-out documents as queries: the best hit has their label in "
        f"{100 * right / SERVED_QUERIES:.1f} % (receipt: generation {receipt.generation}, "
        f"version {receipt.model.version}, k {receipt.k_query}, coverage {receipt.coverage:.0%})",
        highlight=False,
    )


def _compare(registry: Registry, data: EmbeddedSet, trial: Promotion) -> None:
    champion = registry.resolve(trial.version.name, CHAMPION)
    evaluation = _evaluation_of(champion, registry, data, trial)
    documents, queries = data.documents.embeddings, data.queries.embeddings
    times = time_queries(registry.load(champion), documents, queries, LEVELS)
    out.print(comparison_table(evaluation, times))
    exactness = min(level.search.exactness for level in evaluation.levels if level.k in LEVELS)
    out.print(f"recall@10 of the index against brute force over the same codes: {exactness:.4f}", highlight=False)
    out.print(
        "At a few thousand documents both are quick; dense search grows with dimensions x documents, "
        "the index with the postings that a query meets.",
        highlight=False,
    )


def _evaluation_of(champion: ModelVersionInfo, registry: Registry, data: EmbeddedSet, trial: Promotion) -> Evaluation:
    if champion.version == trial.version.version:
        return trial.evaluation
    return evaluate_version(registry, data, champion)


def comparison_table(evaluation: Evaluation, times: list[QueryTime]) -> Table:
    """Codes at each k beside the dense vectors that they stand for."""
    table = Table("", "1-NN %", "recall@10 %", "re-ranked 50 %", "bytes/vector", "ms, single", "ms, batched", "x dense")
    by_k = {level.k: level for level in evaluation.levels}
    dense = next(timed for timed in times if timed.k is None)
    table.add_row(
        "dense, numpy",
        _percent(evaluation.dense.one_nn),
        "100.0",
        "",
        str(evaluation.dense_bytes_per_vector),
        f"{1e3 * dense.single:.3f}",
        f"{1e3 * dense.batched:.3f}",
        "1.0 / 1.0",
    )
    for timed in times:
        if timed.k is None:
            continue
        level = by_k[timed.k]
        table.add_row(
            f"CSR, k = {timed.k}",
            _percent(level.search.hits.one_nn),
            _percent(level.search.hits.recall),
            _percent(level.search.reranked.recall),
            f"{level.bytes_per_vector:.0f}",
            f"{1e3 * timed.single:.3f}",
            f"{1e3 * timed.batched:.3f}",
            f"{dense.single / timed.single:.1f} / {dense.batched / timed.batched:.1f}",
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _mlflow_ui(uri: str) -> str:
    """Return what shows runs and versions: a server has pages of its own."""
    return f"{uri}        # MLflow" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def _say_what_next(settings: Settings) -> None:
    router, index = settings.router, settings.index
    out.print(Rule("What to look at next", align="left"))
    query = f'{{"collection": "{COLLECTION}", "texts": {{"texts": ["space shuttle"]}}, "top_n": 3}}'
    lines = [
        "csr up                                        # the same stack again, to stay; `csr down` ends it",
        f'csr search {COLLECTION} "which graphics card should I buy?"',
        _mlflow_ui(settings.registry_uri),
        f"curl http://127.0.0.1:{router.metrics_port}/metrics        # router",
        f"curl http://127.0.0.1:{index.metrics_port}/metrics        # index-0; index-1 one port further",
        f"curl http://127.0.0.1:{settings.stack.ray_metrics_port}/metrics        # Ray: encoder replicas",
        f"grpcurl -plaintext -d '{query}' 127.0.0.1:{router.port} csr.v1.SearchService/Search",
    ]
    for line in lines:
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
