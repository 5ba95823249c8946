"""Where machine code is kept."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numba.core.types import Array, BaseTuple

from services.index.core import hits, scoring
from services.index.core.hits import PackedIds
from services.index.core.scoring import Documents, Query

ROOT = Path(__file__).parents[4]
CORE = Path("services/index/core")
PROGRAM = """
from services.index.core.compiled import CACHE_FOLDER
from services.index.core.code import quantise
import numpy as np
print(CACHE_FOLDER)
print(quantise(np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), hidden_dim=1, active_max=1).weights)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    for package in (Path("services"), Path("services/index"), CORE):
        (tmp_path / package).mkdir()
        for source in (ROOT / package).glob("*.py"):
            shutil.copy(source, tmp_path / package)
    return tmp_path


def run(installed: Path, **environment: str) -> list[str]:
    """Import the copy and quantise a code; return the folder of machine code and the stored weight."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    variables = kept | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=installed, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_machine_code_of_other_sources_is_never_used(installed: Path) -> None:
    """An upgrade would go on answering with the kernels of the release before."""
    cache = {"NUMBA_CACHE_DIR": str(installed / "cache")}
    before, weight = run(installed, **cache)
    assert (Path(before).parent, weight) == (installed / "cache", "[[65535]]")
    assert list(Path(before).rglob("*.nbc"))
    code = installed / CORE / "code.py"
    code.write_text(code.read_text().replace("WEIGHT_ONE = 65_535", "WEIGHT_ONE = 32_767"))
    os.utime(code, ns=(0, 0))
    after, weight = run(installed, **cache)
    assert (after != before, weight) == (True, "[[32767]]")


def test_nothing_needs_to_be_writable(installed: Path) -> None:
    """A locked-down container could not even start."""
    (installed / CORE / "__pycache__").write_text("a file where a folder would be")
    (installed / "home").write_text("another")
    blocked = {"NUMBA_CACHE_DIR": str(installed / "home" / "cache"), "HOME": str(installed / "home")}
    assert run(installed, **blocked) == ["None", "[[65535]]"]


def test_machine_code_that_nobody_uses_is_removed(installed: Path) -> None:
    """Every release, and every edit of a developer, would leave megabytes on the disk for ever."""
    cache, ages = installed / "cache", {"kernels-" + "a" * 16: 31, "kernels-" + "b" * 16: 29, "kernels-of-others": 99}
    for name, days in ages.items():
        (cache / name / "core_1").mkdir(parents=True)
        (cache / name / "core_1" / "kernel.nbc").touch()
        os.utime(cache / name, (time.time() - days * 24 * 3600,) * 2)
    folder = Path(run(installed, NUMBA_CACHE_DIR=str(cache))[0])
    left = {folder.name, "kernels-" + "b" * 16, "kernels-of-others"}
    assert {path.name for path in cache.iterdir()} == left
    os.utime(folder, (0, 0))
    run(installed, NUMBA_CACHE_DIR=str(cache))
    assert time.time() - folder.stat().st_mtime < 3600, "a start counts as use"


def test_parts_that_borrow_arrays_count_no_references_and_return_none() -> None:
    """Searches would take longer without notice, or an array that such a part returns would be freed twice."""
    codes, rows = np.ones((3, 2), np.uint16), np.arange(3)
    names = PackedIds(np.frombuffer(bytearray(b"abc"), np.uint8), np.arange(4))
    documents = Documents(codes, codes, names, np.full(1, 7, np.uint64), 2)
    query = Query(codes[0], codes[0], 2, np.ones(16, np.uint16), 0.0)
    best = hits.room(2)
    assert scoring.score_rows(documents, query, rows, best, 0) == 2
    hits.carry_ids(best, 2, names)
    assert [scoring.is_allowed(documents.allowed, row) for row in (2, 3)] == [True, False]
    parts = [part for module in (hits, scoring) for part in vars(module).values() if isinstance(part, Dispatcher)]
    borrowing = {part.__name__: part for part in parts if "_nrt" in part.targetoptions}
    assert {"score_rows", "is_allowed", "offer", "carry_ids", "threshold", "_sink", "_later", "_carry"} <= set(
        borrowing
    )
    for part in borrowing.values():
        assert part.signatures, "used by those above"
        assert not any("NRT_" in code for code in part.inspect_llvm().values())
        assert not any(isinstance(found.return_type, Array | BaseTuple) for found in part.nopython_signatures)
