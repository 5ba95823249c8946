"""Compare the adapter with its competitors on real data, trained in the same run on the same rows.

    python -m benchmarks.quality --sets debian,semanlink,newsgroups20,fashion --results FOLDER

Every training is a cell, kept when finished: an interrupted run continues, and any number of processes may share a
folder. `--report` writes what is finished: results.json, report.md and a picture a set. Needs scikit-learn, matplotlib
and sentence-transformers (extra `dev`).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.comparison.cells import Phase, Results, compute
from benchmarks.comparison.findings import findings
from benchmarks.comparison.methods import Method, all_methods
from benchmarks.comparison.pictures import draw
from benchmarks.comparison.problem import Problem, final_problem, validation_problem
from benchmarks.comparison.report import as_json, markdown
from orchestration.data.catalog import load
from services.runtime.settings import load_settings

SETS = ("debian", "semanlink", "newsgroups20", "fashion")


def main() -> None:
    """Compute missing cells, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated, in this order")
    parser.add_argument("--methods", help="comma-separated; all by default")
    parser.add_argument("--results", type=Path, required=True, help="folder of finished cells and of the report")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of ours")
    parser.add_argument("--report", action="store_true", help="compute nothing, report what is finished")
    arguments = parser.parse_args()
    sets = arguments.sets.split(",")
    methods = _chosen(all_methods(arguments.seeds), arguments.methods)
    results = Results(arguments.results)
    if not arguments.report:
        torch.set_num_threads(1)
        compute(sets, methods, results, _problem, Console(soft_wrap=True).print)
    report(sets, methods, results)


def report(sets: list[str], methods: tuple[Method, ...], results: Results) -> None:
    """Write results.json, report.md and the pictures into the folder of the results."""
    found = {name: findings(name, methods, results) for name in sets}
    (results.folder / "results.json").write_text(json.dumps(as_json(found), indent=1) + "\n")
    (results.folder / "report.md").write_text(markdown(found))
    draw(found, results.folder)


def _chosen(methods: tuple[Method, ...], names: str | None) -> tuple[Method, ...]:
    wanted = [method.name for method in methods] if names is None else names.split(",")
    if unknown := sorted(set(wanted) - {method.name for method in methods}):
        sys.exit(f"unknown methods {', '.join(unknown)}; there are: {', '.join(method.name for method in methods)}")
    return tuple(method for method in methods if method.name in wanted)


def _problem(set_name: str, phase: Phase) -> Problem:
    data = load(set_name, load_settings().cache_dir, Console(stderr=True))
    return final_problem(data) if phase == "test" else validation_problem(data)


if __name__ == "__main__":
    main()
