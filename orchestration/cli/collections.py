"""csr collection, index, search: documents."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from orchestration.cli.app import Json, app, err, out, print_json, settings
from orchestration.data.split import EmbeddedSplit
from services.client.blocking import Client
from services.client.types import Collection, Payload, SearchResult, Token

BATCH = 500
TEXT_CHARACTERS = 4_000
"""Of a text kept as payload."""

collection_app = typer.Typer(help="Create, describe, list and delete collections.", no_args_is_help=True)
app.add_typer(collection_app, name="collection")

Name = Annotated[str, typer.Argument(help="Name of the collection.")]


def client() -> Client:
    """Connect to the router of the settings."""
    router = settings().router
    return Client(f"{router.host}:{router.port}")


def payloads_of(rows: EmbeddedSplit) -> list[Payload]:
    """Texts (their beginning, when they are long) and label names as payloads."""
    labels = [""] * len(rows.ids) if rows.labels is None else [rows.label_names[label] for label in rows.labels]
    return [{"text": text[:TEXT_CHARACTERS], "label": label} for text, label in zip(rows.texts, labels, strict=True)]


def upload(router: Client, collection: str, rows: EmbeddedSplit) -> Token:
    """Store embeddings with their texts as payloads, drawing a progress bar on standard error.

    A repeat continues where an interrupted one stopped: write ids follow from the data.

    Returns:
        What a search must carry to see all of it.
    """
    payloads = payloads_of(rows)
    positions: dict[int, int] = {}
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("indexing", total=len(rows.ids))
        for start in range(0, len(rows.ids), BATCH):
            part = slice(start, start + BATCH)
            written = router.upsert(
                collection,
                rows.ids[part],
                embeddings=rows.embeddings[part],
                payloads=payloads[part],
                write_id=f"{rows.digest[:32]}-{start}",
            )
            positions |= written.token.positions
            bar.advance(task, len(rows.ids[part]))
    return Token(written.token.collection_id, positions)


def print_hits(queries: Sequence[str], found: SearchResult) -> None:
    """Print each query with its hits below: score, id, label, beginning of the text."""
    for query, hits in zip(queries, found.hits, strict=True):
        out.print(Text(query), style="bold", no_wrap=True, overflow="ellipsis")
        rows = Table(box=None, show_header=False, padding=(0, 1), expand=True)
        rows.add_column(justify="right", width=6)
        rows.add_column(no_wrap=True, ratio=1)
        rows.add_column(no_wrap=True, ratio=2, style="cyan")
        rows.add_column(no_wrap=True, ratio=6)
        for hit in hits:
            payload = hit.payload or {}
            text = Text(str(payload.get("text", "")))
            rows.add_row(f"{hit.score:.3f}", hit.id, str(payload.get("label", "")), text)
        out.print(rows if hits else "  no hits")


@collection_app.command()
def create(
    name: Name,
    model: Annotated[str | None, typer.Option(help="Registered model; default: setting registry.model.")] = None,
    version: Annotated[int, typer.Option(min=0, help="Version of the model; 0: the champion.")] = 0,
    k_max: Annotated[int, typer.Option(min=0, help="Active latents kept per document; 0: the model's.")] = 0,
    versioning: Annotated[str, typer.Option(help="Who versions documents: assigned or client.")] = "assigned",
    json: Json = False,
) -> None:
    """Create a collection for texts and embeddings, encoded by the champion."""
    chosen: Literal["assigned", "client"] = "client" if versioning == "client" else "assigned"
    if versioning not in ("assigned", "client"):
        raise typer.BadParameter("assigned or client", param_hint="--versioning")
    with client() as router:
        made = router.create_collection(
            name, model or settings().registry.model, model_version=version, k_max=k_max, versioning=chosen
        )
    _show([made], json)


@collection_app.command("list")
def list_(json: Json = False) -> None:
    """List collections."""
    with client() as router:
        _show(router.list_collections(), json)


@collection_app.command()
def describe(name: Name, json: Json = False) -> None:
    """Show a collection, its documents, and how far the index servers have read its logs."""
    with client() as router:
        found = router.describe_collection(name)
    if json:
        print_json(asdict(found))
        return
    _show([found.collection], False)
    table = Table("partition", "documents", "log head", "visible", "index server", "ready")
    for part in found.partitions:
        numbers = (part.partition, part.documents, part.lsn, part.visible_lsn)
        table.add_row(*(str(number) for number in numbers), part.index_server, "yes" if part.ready else "no")
    out.print(table)
    out.print(f"{found.documents:,} documents; the store fsyncs: {found.appendfsync}", highlight=False)


@collection_app.command()
def delete(name: Name) -> None:
    """Delete a collection and all its documents."""
    with client() as router:
        identity = router.delete_collection(name)
    out.print(f"Deleted {name} ({identity}).")


@app.command()
def index(
    collection: Name,
    data: Annotated[str, typer.Option("--data", help="Data set, see `csr data`.")] = "newsgroups20-sample",
) -> None:
    """Bulk-load the documents of a data set into a collection; safe to repeat."""
    from orchestration.data.catalog import load  # imports torch

    loaded = settings()
    rows = load(data, loaded.cache_dir, err).documents
    with client() as router:
        upload(router, collection, rows)
        out.print(f"{router.count(collection).count:,} documents in {collection}.")


@app.command()
def search(
    collection: Name,
    text: Annotated[list[str], typer.Argument(help="Texts to search for.")],
    top_n: Annotated[int, typer.Option(min=1, max=1000, help="Hits per text.")] = 5,
    k: Annotated[int, typer.Option(min=0, help="Active latents in use; 0: the collection's k_max.")] = 0,
    rerank: Annotated[int, typer.Option(min=0, max=1000, help="Re-score this many hits with embeddings; 0: none.")] = 0,
    json: Json = False,
) -> None:
    """Find the documents nearest to texts."""
    with client() as router:
        found = router.search(
            collection, texts=text, top_n=top_n, k=k, rerank=rerank, include_payloads=True, allow_truncation=True
        )
    if json:
        print_json(asdict(found))
        return
    print_hits(text, found)
    receipt = found.receipt
    out.print(
        f"generation {receipt.generation}, {receipt.model.name} version {receipt.model.version}, "
        f"k {receipt.k_query}/{receipt.k_docs}, coverage {receipt.coverage:.0%}",
        highlight=False,
    )


def _show(collections: list[Collection], json: bool) -> None:
    if json:
        print_json([asdict(collection) for collection in collections])
        return
    table = Table("collection", "kind", "model", "version", "fingerprint", "k_max", "partitions")
    for each in collections:
        model = each.active.model
        table.add_row(
            each.name,
            each.kind,
            model.name,
            str(model.version),
            model.fingerprint[:12],
            str(each.k_max),
            str(each.partitions),
        )
    out.print(table)
