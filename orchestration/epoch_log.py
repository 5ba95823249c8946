"""Epochs of a training job on their way to MLflow.

Ray Train sends this callback to every rank together with the job's description, so the module leaves importing
MLflow, which takes seconds, to the controller, the one process that writes.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from ray.train import UserCallback

log = logging.getLogger(__name__)

RESTARTS_METRIC: Final = "restarts"
_METRICS_PER_CALL: Final = 1_000


class EpochLog(UserCallback):  # type: ignore[misc]
    """Writes each epoch to the run as one batch; lives in Ray Train's controller.

    A tracking server that is away delays the curve, not the training: what could not be written goes with the next
    epoch.

    Args:
        uri: Tracking URI, reachable from the driver's node, where the controller runs.
        run_id: An open run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self._uri = uri
        self._run_id = run_id
        self._unwritten: list[tuple[str, float, int, int]] = []
        self._restarts = 0

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Log the epoch that all ranks have reported; they agree, so the first one speaks."""
        self._write(metrics[0], metrics[0]["epoch"])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Count that the workers stopped; Ray Train logs why."""
        self._restarts += 1
        self._write({RESTARTS_METRIC: self._restarts}, self._restarts)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        # Ranks wait for the controller, so it must not wait long for MLflow.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = time.time_ns() // 1_000_000
        self._unwritten += [(name, float(value), now, step) for name, value in values.items()]
        try:
            client = MlflowClient(self._uri)
            while batch := self._unwritten[:_METRICS_PER_CALL]:
                client.log_batch(self._run_id, metrics=[Metric(*each) for each in batch])
                del self._unwritten[: len(batch)]
        except MlflowException as error:
            log.warning("epoch not written to MLflow yet: %s", error)
