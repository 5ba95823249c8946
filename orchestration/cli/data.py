"""csr data: public data sets and users' files, as embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from orchestration.cli.app import Json, app, err, out, print_json, settings

if TYPE_CHECKING:
    from orchestration.data.sets import EmbeddedSet

QUERIES_HELP = "Test queries for a file, .npy or .parquet; default: rows of the file itself."
PAIRS_HELP = "Rows of a file that belong together, .npy of row numbers or .parquet of ids."


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Data set, or path of a .npy or .parquet; default: list.")] = None,
    queries: Annotated[Path | None, typer.Option(help=QUERIES_HELP)] = None,
    pairs: Annotated[Path | None, typer.Option(help=PAIRS_HELP)] = None,
    json: Json = False,
) -> None:
    """Fetch a public data set and embed it into the cache; check embeddings of your own; or list the public sets."""
    from orchestration.data.catalog import SETS, load  # imports torch

    if name is None:
        if json:
            print_json({known: {"about": each.about, "licence": each.licence} for known, each in SETS.items()})
        else:
            table = Table("data set", "what it is")
            for known, each in SETS.items():
                table.add_row(known, each.about)
            out.print(table)
        return
    description = describe(load(name, settings().cache_dir, err, queries, pairs))
    description["licence"] = SETS[name].licence if name in SETS else None
    if json:
        print_json(description)
    else:
        _show(description)


def describe(data: "EmbeddedSet") -> dict[str, Any]:
    """Return sizes and digest of a set, for people and machines."""
    labels = data.train.labels
    return {
        "name": data.name,
        "dim": data.train.embeddings.shape[1],
        "train": len(data.train.ids),
        "labels": None if labels is None else len(data.train.label_names),
        "pairs": None if data.pairs is None else len(data.pairs),
        "documents": len(data.documents.ids),
        "queries": len(data.queries.ids),
        "relevant": None if data.relevant is None else len(data.relevant),
        "digest": data.digest,
    }


def _show(description: dict[str, Any]) -> None:
    judges = []
    if description["relevant"] is not None:
        judges.append(f"{description['relevant']:,} relevant documents")
    if description["labels"] is not None:
        judges.append(f"{description['labels']} labels")
    judged = " and ".join(judges) or "their nearest documents"
    learned = f"{description['train']:,} embeddings of {description['dim']} dimensions"
    if description["pairs"] is not None:
        learned += f", {description['pairs']:,} pairs"
    lines = {
        "to learn from": learned,
        "to search": f"{description['documents']:,} documents",
        "to ask": f"{description['queries']:,} test queries, judged by {judged}",
        "digest": description["digest"],
        "licence": description["licence"],
    }
    out.print(description["name"], style="bold")
    for what, value in lines.items():
        if value is not None:
            out.print(f"  {what}: {value}", highlight=False, soft_wrap=True)
