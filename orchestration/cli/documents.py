"""csr index, search: documents in and out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestration.cli.app import Json, app, err, out, print_json, settings
from orchestration.cli.collections import Name, client
from orchestration.cli.fields import Condition, parse_condition, where_of
from orchestration.cli.upload import Uploaded, upload
from services.client.types import SearchResult

WHERE_HELP = "Only documents for which it holds: a declared field, =, >=, >, <= or <, a value. Several: all of them."


@app.command()
def index(
    collection: Name,
    data: Annotated[str, typer.Option("--data", help="Data set, see `csr data`.")] = "newsgroups20-sample",
    again: Annotated[bool, typer.Option("--again", help="Send also what an earlier run stored.")] = False,
) -> None:
    """Bulk-load the documents of a data set into a collection; a repeat goes on where an interrupted run stopped."""
    from orchestration.data.catalog import load  # imports torch

    rows = load(data, settings().cache_dir, err).documents
    with client() as router:
        try:
            done = upload(router, collection, rows, again)
        except KeyboardInterrupt:
            err.print("Stopped; the same command goes on from here.")
            raise
        count = router.count(collection).count
    _report(done)
    out.print(f"{count:,} documents in {collection}.", highlight=False)
    if done.failed:
        raise typer.Exit(1)


@app.command()
def search(
    collection: Name,
    text: Annotated[list[str], typer.Argument(help="Texts to search for.")],
    top_n: Annotated[int, typer.Option(min=1, max=1000, help="Hits per text.")] = 5,
    k: Annotated[int, typer.Option(min=0, help="Active latents in use; 0: the collection's k_max.")] = 0,
    rerank: Annotated[int, typer.Option(min=0, max=1000, help="Re-score this many hits with embeddings; 0: none.")] = 0,
    where: Annotated[
        list[Condition] | None, typer.Option(parser=parse_condition, metavar="FIELD=VALUE", help=WHERE_HELP)
    ] = None,
    json: Json = False,
) -> None:
    """Find the documents nearest to texts."""
    with client() as router:
        declared = router.describe_collection(collection).collection.fields if where else {}
        found = router.search(
            collection,
            texts=text,
            top_n=top_n,
            k=k,
            rerank=rerank,
            where=where_of(where or [], declared),
            include_payloads=True,
            allow_truncation=True,
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


def _report(done: Uploaded) -> None:
    if done.resumed == done.total:
        out.print(f"An earlier run stored all {done.total:,} documents; --again sends them again.", highlight=False)
    elif done.resumed:
        out.print(f"Went on after {done.resumed:,} documents that an earlier run had stored.", highlight=False)
    if done.failed:
        err.print(f"{done.failed:,} documents were not stored, such as", style="red", highlight=False)
        for example in done.examples:
            err.print(" ", Text(example), highlight=False, soft_wrap=True)
