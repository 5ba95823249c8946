"""What runs: the file in which the stack records its processes."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestration.stack.processes import ProcessRecord

FORMAT = 1


class StackError(Exception):
    """The stack cannot start or stop; the text says in one line what is wrong and how to fix it."""


class StackState(BaseModel):
    """The processes of a stack, in the order of their start."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    processes: tuple[ProcessRecord, ...] = ()

    def alive(self) -> tuple[ProcessRecord, ...]:
        """The processes that still run."""
        return tuple(record for record in self.processes if record.alive())

    def get(self, name: str) -> ProcessRecord | None:
        """The record of a process, if there is one."""
        return next((record for record in self.processes if record.name == name), None)

    def with_process(self, record: ProcessRecord) -> "StackState":
        """Add a process, in place of one of the same name."""
        others = tuple(other for other in self.processes if other.name != record.name)
        return StackState(processes=(*others, record))


def read_state(path: Path) -> StackState | None:
    """Return the recorded state, or None when no stack was started here.

    Raises:
        StackError: the file is damaged or of another format.
    """
    if not path.exists():
        return None
    try:
        state = StackState.model_validate_json(path.read_bytes())
    except ValidationError:
        state = None
    if state is None or state.format != FORMAT:
        raise StackError(f"{path} cannot be read: check for processes that still run, then delete the file")
    return state


def write_state(path: Path, state: StackState) -> None:
    """Replace the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(state.model_dump_json(indent=2))
    temporary.replace(path)
