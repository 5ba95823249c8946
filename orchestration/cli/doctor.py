"""csr doctor: whether all parts of a deployment hold the same documents."""

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orchestration.cli.app import Json, app, err, out, print_json, settings
from orchestration.doctor import Finding
from orchestration.examination import Examiner
from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.connection import connect
from services.index.store.placement import read_placement
from services.runtime.errors import CsrError, UnknownCollection, WrongState
from services.runtime.settings import RedisSettings


@dataclass
class Diagnosis:
    """What was examined, and what was found."""

    collections: int = 0
    partitions: int = 0
    documents: int = 0
    compared: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@app.command()
def doctor(
    collection: Annotated[list[str] | None, typer.Argument(help="Collections; default: all.")] = None,
    json: Json = False,
) -> None:
    """Compare documents and digests in Redis, in index servers and in snapshots; exit code 1 when anything differs."""
    diagnosis = asyncio.run(_diagnose(settings().redis, collection or []))
    if json:
        print_json(asdict(diagnosis))
    else:
        _show(diagnosis)
    if diagnosis.findings:
        raise typer.Exit(1)


async def _diagnose(store: RedisSettings, names: list[str]) -> Diagnosis:
    diagnosis = Diagnosis()
    async with connect(store) as redis:
        catalog = Catalog(redis)
        records = [await catalog.get(name) for name in names] if names else await catalog.list()
        table = await read_placement(redis)
        columns = (TextColumn("examining"), BarColumn(), MofNCompleteColumn(), TextColumn("partitions"))
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("examining", total=sum(record.partitions for record in records))
            async with Examiner(redis, table) as examiner:
                for record in records:
                    diagnosis.collections += 1
                    for partition in range(record.partitions):
                        await _add(diagnosis, examiner, catalog, record, partition)
                        bar.advance(task)
    return diagnosis


async def _add(
    diagnosis: Diagnosis, examiner: Examiner, catalog: Catalog, record: CollectionRecord, partition: int
) -> None:
    try:
        report = await examiner.examine(record, partition)
    except CsrError as error:
        if isinstance(error, WrongState) and await _gone(catalog, record):
            return
        finding = Finding(record.name, record.collection_id, partition, "redis", f"cannot be read: {error}")
        diagnosis.findings.append(finding)
        return
    diagnosis.partitions += 1
    diagnosis.documents += report.documents
    diagnosis.compared += report.compared
    diagnosis.findings += report.findings
    diagnosis.notes += report.notes


async def _gone(catalog: Catalog, record: CollectionRecord) -> bool:
    try:
        return (await catalog.get(record.name)).collection_id != record.collection_id
    except UnknownCollection:
        return True


def _show(diagnosis: Diagnosis) -> None:
    if diagnosis.findings:
        table = Table("collection", "partition", "where", "what differs", "documents")
        for finding in diagnosis.findings:
            ids = Text("\n".join(finding.ids))
            table.add_row(finding.collection, str(finding.partition), finding.where, Text(finding.problem), ids)
        out.print(table)
    for note in diagnosis.notes:
        out.print(note, highlight=False, soft_wrap=True)
    out.print(
        f"{diagnosis.collections:,} collections, {diagnosis.partitions:,} partitions, {diagnosis.documents:,} "
        f"documents; {diagnosis.compared:,} contents compared with the log: "
        f"{f'{len(diagnosis.findings):,} findings' if diagnosis.findings else 'all agree'}.",
        highlight=False,
    )
