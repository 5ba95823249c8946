"""Measure a deployment over gRPC, on one machine in one run: bulk upserts, searches beside a bare echo, function cost.

    python -m benchmarks.service [--quick] [--data FOLDER] [--out FOLDER]

Starts Redis (`appendfsync always`), two index servers, an encoder and a router, each a process of its own, and writes
results.json, report.md and a picture. The encoder is the real one behind plain gRPC: Ray Serve's proxy, which needs
Ray and minutes to start, is left out, so encoding through a stack takes longer by what that proxy takes.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.index_search.report import bar_table
from benchmarks.service_load.bars import bars
from benchmarks.service_load.outcome import Outcome
from benchmarks.service_load.pictures import draw
from benchmarks.service_load.report import as_json, markdown
from benchmarks.service_load.runs import QUICK, Plan, run


def main() -> None:
    """Run, write, and print the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 documents: a few minutes")
    parser.add_argument(
        "--data", type=Path, help="folder on the disk that writes should be measured on; default: a temporary one"
    )
    parser.add_argument("--out", type=Path, default=Path("service-benchmark"), help="folder of the report")
    arguments = parser.parse_args()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    plan = QUICK if arguments.quick else Plan()
    outcome = run(plan, " ".join(sys.argv[1:]), console.print, arguments.data)
    write(outcome, arguments.out)
    Console(soft_wrap=True, highlight=False).print(bar_table(bars(outcome)), markup=False)


def write(outcome: Outcome, folder: Path) -> None:
    """Write results.json, report.md and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    (folder / "report.md").write_text(markdown(outcome, draw(outcome, folder)))


if __name__ == "__main__":
    main()
