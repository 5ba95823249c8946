"""What a deployment must reach, each a ratio of two figures of the same run, except for the rate of writing."""

from benchmarks.index_search.bars import Bar
from benchmarks.service_load.outcome import Outcome, Searching

CODES_PER_SECOND = 15_000
ECHOES = 3.0


def bars(outcome: Outcome) -> list[Bar]:
    """Return every bar, in the order of the report."""
    return [_codes(outcome), *(_latency(found) for found in outcome.searching)]


def _codes(outcome: Outcome) -> Bar:
    rates = [found.rate for found in outcome.writing if found.form == "codes"]
    name = "bulk upsert of codes, appendfsync always"
    return Bar(name, CODES_PER_SECOND, True, rates[0] if rates else None, " documents/s")


def _latency(found: Searching) -> Bar:
    work = "index" if found.form == "codes" else "index and encoder"
    name = f"{found.form}, {_clients(found.clients)}: p50 without the time of the {work}, over a bare echo"
    return Bar(name, ECHOES, False, found.over_echo)


def _clients(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'}"
