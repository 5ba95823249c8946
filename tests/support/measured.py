"""What a test measured, shown at the end of the run: proofs are about figures, not only about passing."""

from collections.abc import Callable

import pytest

Measured = Callable[[str], None]
_PROPERTY = "measured"


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Call with a line of text."""
    return lambda text: record_property(_PROPERTY, text)


def show_measured(reporter: pytest.TerminalReporter) -> None:
    """Write what all tests measured."""
    reports = [report for outcome in ("passed", "failed") for report in reporter.getreports(outcome)]
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {text}"
        for report in reports
        for name, text in report.user_properties
        if name == _PROPERTY
    ]
    if lines:
        reporter.section("measured")
        for line in lines:
            reporter.line(line)
