"""`csr bench`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from orchestration.cli.bench import Benchmark

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "orchestration.cli", "bench"]


def environment(*before: Path) -> dict[str, str]:
    """Return an environment in which our packages are found, first of all in these folders."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, before), *sys.path])}


def bench(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `csr bench` in a folder that is not the checkout."""
    return subprocess.run([*COMMAND, *arguments], env=environment(), cwd=folder, capture_output=True, text=True)


def test_every_benchmark_that_can_be_run_is_a_command() -> None:
    """A new benchmark would be known only to those who read the folder."""
    runnable = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert runnable == {name.replace("-", "_") for name in Benchmark}


def test_arguments_and_exit_status_are_passed_on(tmp_path: Path) -> None:
    """A benchmark that failed in a pipeline would count as done, or run without its options."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "index.py").write_text("print('somebody else')")
    done = bench(tmp_path, "index", "--sets", "no such set")
    assert (done.returncode, done.stdout, done.stderr[:23]) == (1, "", "unknown sets no such se")


def test_an_unknown_benchmark_is_wrong_usage(tmp_path: Path) -> None:
    """A typing error would run something else, or end in a trace."""
    done = bench(tmp_path, "indexes")
    assert (done.returncode, done.stdout) == (2, "")
    for name in Benchmark:
        assert f"'{name}'" in done.stderr


def test_an_installed_wheel_says_in_one_line_that_it_has_none(tmp_path: Path) -> None:
    """Whoever installed the wheel would read a trace of Python's module search."""
    shutil.copytree(ROOT / "orchestration", tmp_path / "orchestration", ignore=shutil.ignore_patterns("__pycache__"))
    command = [*COMMAND, "index", "--quick"]
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no benchmarks in {tmp_path.resolve()}: ")
    assert done.stderr.count("\n") == 1
