"""Write (or check) the tables of README.md that come from code: settings, commands, metrics, limits, errors.

Each table stands between `<!-- table: NAME -->` and `<!-- end -->`. `make docs` writes them, `make check` fails when
one is out of date, so that no setting, command, metric or limit can be undocumented.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from orchestration.cli import app
from services.runtime import errors, limits, metrics
from services.runtime.settings import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _default(value: Any) -> str:
    return "" if value is None or value == "" else f"`{value}`"


def settings_table() -> str:
    """One row per setting: its name in the TOML file (the variable is CSR_SECTION__NAME), default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            for inner, inner_field in type(section).model_fields.items():
                rows.append((f"`{name}.{inner}`", _default(inner_field.default), inner_field.description or ""))
        else:
            rows.append((f"`{name}`", "user's folder", field.description or ""))
    return _table(("Setting", "Default", "Meaning"), rows)


def commands_table() -> str:
    """One row per command of `csr`."""
    group = typer.main.get_command(app)
    rows: list[tuple[str, str]] = []

    def walk(command: Any, path: str) -> None:
        for name, child in sorted(getattr(command, "commands", {}).items()):
            if hasattr(child, "commands"):
                walk(child, f"{path} {name}")
            else:
                rows.append((f"`{path} {name}`", (child.help or "").split("\n")[0]))

    walk(group, "csr")
    return _table(("Command", "What it does"), rows)


def metrics_table() -> str:
    """One row per metric."""
    rows = (
        (f"`{spec.name}`", spec.kind, spec.process, ", ".join(spec.labels), spec.documentation) for spec in metrics.ALL
    )
    return _table(("Metric", "Kind", "Process", "Labels", "Meaning"), rows)


def limits_table() -> str:
    """One row per limit."""
    rows = (
        (f"`{name}`", f"`{value}`" if isinstance(value, str) else f"{value:,}")
        for name, value in vars(limits).items()
        if name.isupper()
    )
    return _table(("Limit", "Value"), rows)


def errors_table() -> str:
    """One row per status code with the domain errors behind it."""
    by_code: dict[str, list[str]] = {}
    for kind, code in errors.STATUS.items():
        by_code.setdefault(code.name, []).append(kind.__name__)
    return _table(("gRPC status", "Errors"), ((f"`{code}`", ", ".join(names)) for code, names in by_code.items()))


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": commands_table,
    "metrics": metrics_table,
    "limits": limits_table,
    "errors": errors_table,
}


def render(text: str) -> str:
    """Return the page with every table as the code has it now."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block["name"]]() + block[3], text)


def main() -> None:
    """Write README.md, or with --check compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = README.read_text()
    missing = set(TABLES) - {block["name"] for block in BLOCK.finditer(text)}
    if missing:
        sys.exit(f"README.md lacks the tables {', '.join(sorted(missing))}")
    fresh = render(text)
    if not parser.parse_args().check:
        README.write_text(fresh)
    elif fresh != text:
        sys.exit("README.md: a table is out of date, run `make docs`")


if __name__ == "__main__":
    main()
