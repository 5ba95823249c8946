"""Debian's package descriptions as a retrieval set: a synopsis is the query, its long description what is to be found.

apt's indexes are deb822: stanzas of "Field: value" lines, continued by lines that begin with a space. One says which
source a package is built from, the other has the descriptions, known by their MD5.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as parquet
from rich.console import Console

from orchestration.data.apt import RELEASE, PrivateApt
from orchestration.data.cache import DataUnavailable, build_once
from orchestration.data.texts import LabelledTexts

LICENCE: Final = (
    f"Debian {RELEASE}, main: each description is free software, under the licence of its package's Debian packaging."
)
DESCRIPTION_LENGTH_MIN: Final = 140
"""Characters; shorter descriptions (one in nine) say little more than the synopsis."""

_TABLE: Final = "descriptions.parquet"
_ORIGIN: Final = "origin.json"


def fetch(cache: Path, console: Console | None = None) -> Path:
    """Return the folder with synopses and descriptions, fetched by apt unless the cache has it.

    Raises:
        DataUnavailable: no apt, no mirror, no network, or no disk space.
    """

    def build(folder: Path) -> None:
        work = folder / ".apt"
        work.mkdir(exist_ok=True)
        with console.status(f"Fetching the index of Debian {RELEASE} (15 MB)") if console else nullcontext():
            apt = PrivateApt.here(work)
            apt.update(descriptions=True)
            packages, descriptions = apt.index("Packages"), apt.index("Translations")
            rows = descriptions_by_source(packages, descriptions)
            columns = zip(*rows, strict=True)
            table = pa.table(dict(zip(("package", "synopsis", "description"), columns, strict=True)))
            parquet.write_table(table, folder / _TABLE, compression="zstd")
            origin = {
                "release": RELEASE,
                "rows": len(rows),
                "packages_sha256": hashlib.sha256(packages.read_bytes()).hexdigest(),
                "descriptions_sha256": hashlib.sha256(descriptions.read_bytes()).hexdigest(),
            }
            (folder / _ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        shutil.rmtree(work)

    return build_once(cache / "packages" / f"debian-{RELEASE}-descriptions-1", build)


def read(folder: Path) -> tuple[LabelledTexts, LabelledTexts, Mapping[str, str | int]]:
    """Return long descriptions, synopses in the same order, and the indexes' rows and hashes.

    The id of a description is its package, that of a synopsis the package with "/synopsis" behind.

    Raises:
        DataUnavailable: the folder is damaged.
    """
    try:
        table = parquet.read_table(folder / _TABLE)
        origin = json.loads((folder / _ORIGIN).read_text())
        names, synopses, descriptions = (tuple(column.to_pylist()) for column in table.itercolumns())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataUnavailable(f"{folder} cannot be read ({error}); delete it and run again") from error
    return (
        LabelledTexts(names, descriptions, None, ()),
        LabelledTexts(tuple(f"{name}/synopsis" for name in names), synopses, None, ()),
        origin,
    )


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Yield each stanza of a deb822 file as field → value; continued lines stay separate lines."""
    fields: dict[str, str] = {}
    name = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.isspace():
                if fields:
                    yield fields
                fields = {}
            elif line.startswith(" "):
                fields[name] += "\n" + line.strip()
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
    if fields:
        yield fields


def descriptions_by_source(packages: Path, descriptions: Path) -> list[tuple[str, str, str]]:
    """Return (package, synopsis, description) of one package per source, by name; no text occurs twice.

    Packages of one source describe themselves alike, so only the alphabetically first with a description of its own
    counts. A description is one line: its paragraphs, joined by spaces.
    """
    texts = {stanza["Description-md5"]: stanza["Description-en"] for stanza in stanzas(descriptions)}
    named = {
        stanza["Package"]: (stanza.get("Source", stanza["Package"]).split()[0], stanza["Description-md5"])
        for stanza in stanzas(packages)
    }
    rows = []
    sources: set[str] = set()
    seen: set[str] = set()
    for package, (source, md5) in sorted(named.items()):
        synopsis, _, body = texts.get(md5, "").partition("\n")
        description = " ".join(line for line in body.split("\n") if line != ".")
        if source not in sources and len(description) >= DESCRIPTION_LENGTH_MIN and not seen & {synopsis, description}:
            sources.add(source)
            seen |= {synopsis, description}
            rows.append((package, synopsis, description))
    return rows
