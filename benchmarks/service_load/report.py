"""What a run found as a page of tables and as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.index_search.report import bar_table, short, table
from benchmarks.service_load.bars import bars
from benchmarks.service_load.messages import TOP_N
from benchmarks.service_load.outcome import Latency, Outcome, Searching

INTRODUCTION = f"""\
# Service

Made by `python -m benchmarks.service`. Everything runs on one machine: clients, router, index servers, encoder and
Redis compete for its processors. Trust ratios within a run more than times.

- Documents and queries are the clustered ones of the benchmark of the index. The adapter makes of an embedding the very
  code that is sent where codes are sent.
- The encoder is `services.encoder` behind plain gRPC, without Ray Serve's proxy, which takes some milliseconds more.
- **Upserts**: durable when answered (`appendfsync always`); visible when every index server has applied them.
- **Searches**: one query a request, {TOP_N} hits. Each client has a connection of its own and sends its next request
  when it has the answer to the last one. Clients run in as many processes as there are processors, at most one each.
- **Echo**: a bare grpc.aio server that reads the same request and answers with the answer to one such search. The same
  clients ask router and echo in turns, in random order.
- **Parts** of the mean time, from the histograms of all processes. *Wire* is gRPC on both sides of a connection, and
  whatever waits there for a processor or an event loop. *Index* is the slower of the servers: the search itself, and
  what surrounds it.
"""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return every number."""
    goals = [{**asdict(bar), "reached": bar.reached} for bar in bars(outcome)]
    rates = [{**asdict(found), "rate": found.rate, "visible_rate": found.visible_rate} for found in outcome.writing]
    searches = [{**asdict(found), "over_echo": found.over_echo} for found in outcome.searching]
    return {**asdict(outcome), "writing": rates, "searching": searches, "bars": goals}


def markdown(outcome: Outcome, picture: Path) -> str:
    """Return the page."""
    parts = [
        INTRODUCTION,
        "".join(f"{name}: {value}. " for name, value in outcome.machine.items()).strip() + "\n",
        f"{outcome.index_servers} index servers, k = {outcome.k}, h = {outcome.hidden_dim:,}, "
        f"d = {outcome.input_dim}.\n",
        f"## Bars\n\n{bar_table(bars(outcome))}",
        f"![{picture.stem}]({picture.name})\n",
        _writing(outcome),
        *(_searching(outcome, form) for form in dict.fromkeys(found.form for found in outcome.searching)),
        _functions(outcome),
    ]
    return "\n".join(parts)


def _writing(outcome: Outcome) -> str:
    header = ["", "documents", "acknowledged/s", "visible/s", "of a request", "in flight", "ms a request"]
    rows = [
        [
            found.form,
            f"{found.documents:,}",
            f"{found.rate:,.0f}",
            f"{found.visible_rate:,.0f}",
            f"{found.documents_per_request:,}",
            str(found.in_flight),
            short(found.request_ms),
        ]
        for found in outcome.writing
    ]
    return f"## Bulk upserts\n\n{table(header, rows)}"


def _searching(outcome: Outcome, form: str) -> str:
    found = [searching for searching in outcome.searching if searching.form == form]
    header = ["clients", "", "p50, ms", "p95, ms", "p99, ms", "queries/s", "requests"]
    rows = []
    for searching in found:
        rows.append([str(searching.clients), "router", *_latency(searching.service)])
        rows.append(["", "echo", *_latency(searching.echo)])
    return (
        f"## Searches with {form}\n\n{found[0].documents:,} documents.\n\n{table(header, rows)}\n"
        f"{table(_PARTS, [_parts(searching) for searching in found])}"
    )


_PARTS = [
    "mean ms, clients",
    "all",
    "router",
    "encode",
    "wire: client",
    "wire: encoder",
    "wire: index",
    "index: around the search",
    "index: search",
]


def _parts(found: Searching) -> list[str]:
    split = found.split
    parts = [
        split.total_ms,
        split.router_ms,
        split.encode_ms,
        split.client_wire_ms,
        split.encoder_wire_ms,
        split.index_wire_ms,
        split.index_server_ms,
        split.kernels_ms,
    ]
    return [str(found.clients), *(short(part) for part in parts)]


def _latency(found: Latency) -> list[str]:
    times = (found.p50_ms, found.p95_ms, found.p99_ms)
    return [*(short(value) for value in times), f"{found.per_second:,.0f}", f"{found.requests:,}"]


def _functions(outcome: Outcome) -> str:
    header = ["documents with", "live generations", "bytes of a body", "µs a document"]
    rows = [
        [found.form, str(found.generations), f"{found.body_bytes:,}", short(found.microseconds)]
        for found in outcome.functions
    ]
    return (
        "## The Redis function\n\nNew documents in full batches, as Redis counts the time of the call: "
        f"no network, no disk.\n\n{table(header, rows)}"
    )
