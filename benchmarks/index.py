"""Compare the index with other ways to find the same documents, on real and made-up codes, side by side in one run.

    python -m benchmarks.index [--quick | --slow] [--sets debian,fashion,texts,clustered,unclustered] [--out FOLDER]

Writes results.json, report.md and pictures. Adapters of real sets are trained once (minutes) and their codes kept in
the cache. Engines whose package is missing are named as such: qdrant-edge-py, kannolo, pyseismic-lsr, faiss-cpu.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.index_search.bars import bars
from benchmarks.index_search.outcome import Outcome
from benchmarks.index_search.pictures import draw
from benchmarks.index_search.report import as_json, bar_table, markdown
from benchmarks.index_search.runs import LARGE, MAKERS, QUICK, SETS, Plan, run


def main() -> None:
    """Run, write, and print the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", help=f"comma-separated, of {', '.join(SETS)}; --quick has {', '.join(MAKERS)} alone")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="100,000 documents, no graphs: under two minutes")
    size.add_argument("--slow", action="store_true", help="also 10 million documents")
    parser.add_argument("--out", type=Path, default=Path("index-benchmark"), help="folder of the report")
    arguments = parser.parse_args()
    sets = arguments.sets.split(",") if arguments.sets else list(MAKERS if arguments.quick else SETS)
    if unknown := sorted(set(sets) - set(SETS)):
        sys.exit(f"unknown sets {', '.join(unknown)}; there are: {', '.join(SETS)}")
    plan = QUICK if arguments.quick else replace(Plan(), large=LARGE if arguments.slow else 0)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    outcome = run(sets, plan, command(sys.argv[1:]), console.print)
    write(outcome, arguments.out)
    Console(soft_wrap=True, highlight=False).print(bar_table(bars(outcome)), markup=False)


def command(options: list[str]) -> str:
    """Return the options that say what is measured: without --out."""
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--out")
    return " ".join(place.parse_known_args(options)[1])


def write(outcome: Outcome, folder: Path) -> None:
    """Write results.json, report.md and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    (folder / "report.md").write_text(markdown(outcome, draw(outcome, folder)))


if __name__ == "__main__":
    main()
