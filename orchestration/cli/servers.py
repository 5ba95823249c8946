"""csr servers: which index servers the deployment has."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from orchestration.cli.app import Json, app, out, print_json, settings
from orchestration.stack.placement import current_placement, place
from services.index.store.placement import IndexServer, PlacementTable

servers_app = typer.Typer(help="List or set the index servers of a deployment.", no_args_is_help=True)
app.add_typer(servers_app, name="servers")


@servers_app.command("list")
def list_(json: Json = False) -> None:
    """Show the placement table in force."""
    _show(asyncio.run(current_placement(settings().redis)), json)


@servers_app.command("set")
def set_(
    server: Annotated[list[str], typer.Argument(metavar="NAME=HOST:PORT...", help="Every index server there is.")],
    json: Json = False,
) -> None:
    """Put a placement table in force: partitions belong to the servers named here, and to no others."""
    servers = []
    for text in server:
        name, _, address = text.partition("=")
        host, _, port = address.rpartition(":")
        if not (name and host and port.isdecimal()):
            raise typer.BadParameter(f"{text!r} is not NAME=HOST:PORT", param_hint="SERVER")
        servers.append(IndexServer(name=name, address=address))
    if len({each.name for each in servers}) < len(servers):
        raise typer.BadParameter("every server needs a name of its own", param_hint="SERVER")
    _show(asyncio.run(place(settings().redis, servers)), json)


def _show(table: PlacementTable | None, json: bool) -> None:
    if json:
        print_json(None if table is None else asdict(table))
    elif table is None:
        out.print("No placement table yet: `csr up` or `csr servers set` write one.")
    else:
        rows = Table("index server", "address", title=f"term {table.term}, replication {table.replication}")
        for each in table.servers:
            rows.add_row(each.name, each.address)
        out.print(rows)
