"""The callback that carries epochs to MLflow, while MLflow comes and goes."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from orchestration.epoch_log import EpochLog

ABSENT_SECONDS_MAX = 20


class Recorder(BaseHTTPRequestHandler):
    """Accepts every call and keeps what it carried."""

    batches: list[dict]

    def do_POST(self) -> None:
        """Keep the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.batches.append(json.loads(body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def report(epoch: int) -> dict[str, float]:
    """Return what a rank reports, shortened."""
    return {"epoch": epoch, "total": 1.0 / (epoch + 1)}


def test_epochs_wait_for_a_tracking_server_that_is_away() -> None:
    """An MLflow restart would kill hours of training, or leave a hole in its curve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    log = EpochLog("http://{}:{}".format(*address), "a-run")
    started = time.monotonic()
    log.after_report(None, [report(0), report(0)], None)
    assert time.monotonic() - started < ABSENT_SECONDS_MAX, "ranks would wait for it"
    handler = type("Handler", (Recorder,), {"batches": []})
    server = HTTPServer(address, handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        log.after_report(None, [report(1), report(1)], None)
        log.after_report(None, [report(2), report(2)], None)
    finally:
        server.shutdown()
        server.server_close()
    written = [[(metric["key"], metric["step"]) for metric in batch["metrics"]] for batch in handler.batches]
    assert written == [
        [("epoch", 0), ("total", 0), ("epoch", 1), ("total", 1)],
        [("epoch", 2), ("total", 2)],
    ]
