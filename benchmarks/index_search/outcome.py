"""Everything that one run found."""

import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.index_search.cells import Cell
from benchmarks.index_search.engines import THREADS
from benchmarks.index_search.special import Footprint, Levels, Writing
from benchmarks.index_search.ten_million import TenMillion

_PACKAGES = ("numpy", "numba", "scipy", "qdrant-edge-py", "kannolo", "pyseismic-lsr", "faiss-cpu")


@dataclass
class Outcome:
    """Filled as the run goes on.

    Attributes:
        command: Options of the run.
        cells: Comparisons of engines.
        levels: A level of a wide index against a narrow one.
        footprint: Bytes a document, at k = 32 and h = 4096.
        writing: Searches during writes.
        ten_million: Only in a slow run.
    """

    command: str
    machine: dict[str, str] = field(default_factory=lambda: machine())
    cells: list[Cell] = field(default_factory=list)
    levels: list[Levels] = field(default_factory=list)
    footprint: Footprint | None = None
    writing: Writing | None = None
    ten_million: TenMillion | None = None

    def largest(self, set_name: str, k: int) -> Cell | None:
        """Return the cell of a set and k with the most documents."""
        found = [cell for cell in self.cells if cell.set_name == set_name and cell.k == k]
        return max(found, key=lambda cell: cell.documents, default=None)


def machine() -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    described = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "threads": str(THREADS),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "python": platform.python_version(),
    }
    return described | {name: package_version(name) for name in _PACKAGES}


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def package_version(name: str) -> str:
    """Return the version of a package, if it is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
