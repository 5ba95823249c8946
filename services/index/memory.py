"""How much memory this process has, and how much it takes: behind a limit it takes no more documents."""

import os
import resource
import sys
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

_SHARE: Final = 0.85
"""Share of what there is, for a limit that is not set: searches and merges need the rest."""
_STATUS: Final = Path("/proc/self/statm")
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class MemoryGuard:
    """Compares resident memory with a limit.

    Args:
        limit_bytes: The limit; 0 for 85 % of what the container, or else the machine, has.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes or int(_SHARE * available_bytes())
        self._was_full = False

    def full(self) -> bool:
        """Return whether the limit is reached; a change is logged."""
        used = resident_bytes()
        full = used >= self.limit_bytes
        if full != self._was_full:
            self._was_full = full
            event = "memory is full, nothing more is taken" if full else "memory is free again"
            log.warning(event, used=used, limit=self.limit_bytes)
        return full

    @property
    def problem(self) -> str:
        """What to tell of a partition that has to wait for memory."""
        return f"memory is full: {resident_bytes()} bytes of {self.limit_bytes} (index.memory_bytes)"


def resident_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell, its highest ever."""
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int:
    """Return the memory of the container if it is limited, else that of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)
