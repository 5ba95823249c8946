"""csr data: public data sets, embedded."""

import typer

from orchestration.cli.app import app, err, out, settings


@app.command()
def data(name: str = typer.Argument(help="Data set: newsgroups20.")) -> None:
    """Fetch a public data set and embed it into the cache; quick when it is there already."""
    from orchestration.data.catalog import SETS, load  # imports torch

    loaded = settings()
    splits = load(name, loaded.cache_dir, err)
    out.print(f"{name}: {SETS[name].licence}", highlight=False)
    for split, rows in splits.items():
        count, dim = rows.embeddings.shape
        out.print(f"{split}: {count:,} embeddings of {dim} dimensions, digest {rows.digest[:16]}", highlight=False)
