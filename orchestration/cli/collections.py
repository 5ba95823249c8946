"""csr collection: create, describe, list, delete."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.table import Table

from orchestration.cli.app import Json, app, out, print_json, settings
from orchestration.cli.fields import parse_fields
from services.client.blocking import Client
from services.client.types import Collection

collection_app = typer.Typer(help="Create, describe, list and delete collections.", no_args_is_help=True)
app.add_typer(collection_app, name="collection")

Name = Annotated[str, typer.Argument(help="Name of the collection.")]
FIELD_HELP = (
    "Member of payloads that filters may use, such as lang:keyword; types: keyword, int, float, bool, keywords."
)


def client() -> Client:
    """Connect to the router of the settings."""
    router = settings().router
    return Client(f"{router.host}:{router.port}")


@collection_app.command()
def create(
    name: Name,
    model: Annotated[str | None, typer.Option(help="Registered model; default: setting registry.model.")] = None,
    version: Annotated[int, typer.Option(min=0, help="Version of the model; 0: the champion.")] = 0,
    k_max: Annotated[int, typer.Option(min=0, help="Active latents kept per document; 0: the model's.")] = 0,
    versioning: Annotated[str, typer.Option(help="Who versions documents: assigned or client.")] = "assigned",
    field: Annotated[list[str] | None, typer.Option(metavar="NAME:TYPE", help=FIELD_HELP)] = None,
    json: Json = False,
) -> None:
    """Create a collection for texts and embeddings, encoded by the champion."""
    chosen: Literal["assigned", "client"] = "client" if versioning == "client" else "assigned"
    if versioning not in ("assigned", "client"):
        raise typer.BadParameter("assigned or client", param_hint="--versioning")
    fields = parse_fields(field or [])
    with client() as router:
        made = router.create_collection(
            name,
            model or settings().registry.model,
            model_version=version,
            k_max=k_max,
            versioning=chosen,
            fields=fields,
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
    declared = ", ".join(f"{name}:{kind}" for name, kind in found.collection.fields.items())
    out.print(f"fields for filters: {declared or 'none'}", highlight=False)
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
