"""Promotion: run the gates, record the verdict, and move the alias `champion`, the desired state, or leave it."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Literal, TypeAlias

from mlflow.entities import Metric

from csr_model.errors import CSRModelError
from orchestration.evaluation import Evaluation
from orchestration.gates import GateResult, judge
from orchestration.mlflow_access import mlflow_errors
from orchestration.registry import CHALLENGER, CHAMPION, ModelVersionInfo, Registry
from services.runtime.errors import AliasMoved, CorruptRecord, FingerprintMismatch, InvalidRequest, WrongState

GATES_TAG: Final = "csr.gates"
"""`passed`, `failed` or `forced`; what the version's last trial came to."""
GATE_RESULTS_TAG: Final = "csr.gates.results"
"""The table as JSON."""
EVALUATION_TAG: Final = "csr.evaluation"
"""Every measured number, by name, as JSON."""
CHAMPION_TAG: Final = "csr.gates.champion"
"""Number of the version it was compared with; `none` for the first."""
FORCE_TAG: Final = "csr.gates.forced_because"

Evaluate: TypeAlias = Callable[[ModelVersionInfo], Evaluation]
"""Judges a version; always on the same documents and queries."""


@dataclass(frozen=True)
class Promotion:
    """What a trial came to.

    Attributes:
        version: The version on trial, as it was before.
        champion: The version it was compared with; None if there was none, or it was the same.
        gates: Every gate.
        evaluation: Of the version on trial.
        outcome: `promoted` and `forced` moved the alias, `unchanged` found the version to be champion already,
            `refused` left the alias alone because a gate failed.
    """

    version: ModelVersionInfo
    champion: ModelVersionInfo | None
    gates: tuple[GateResult, ...]
    evaluation: Evaluation
    outcome: Literal["promoted", "forced", "unchanged", "refused"]

    @property
    def promoted(self) -> bool:
        """True when the version is champion now."""
        return self.outcome != "refused"

    @property
    def passed(self) -> bool:
        """True when every gate passed."""
        return all(gate.passed for gate in self.gates)


def promote(
    registry: Registry,
    name: str,
    evaluate: Evaluate,
    selector: int | str = CHALLENGER,
    force_reason: str | None = None,
) -> Promotion:
    """Try a version and let `champion` name it if every gate passes; the verdict is recorded either way.

    Gates, evaluation and reason become tags of the version and metrics of its run before the alias moves, so a
    promotion that is interrupted can be repeated. MLflow has no compare-and-set: run one promotion at a time.

    Args:
        registry: Where the versions are.
        name: Registered model.
        evaluate: Called for the version on trial and, if it is another one, for the champion.
        selector: Version number or alias on trial.
        force_reason: Move the alias even if gates fail, and record why.

    Raises:
        UnknownVersion: No such version.
        InvalidRequest: The reason is empty.
        FingerprintMismatch: `evaluate` judged another adapter than the registered one.
        WrongState: the champion cannot be measured, so nothing can be compared with it; the message says what to do.
        AliasMoved: Somebody else moved `champion` meanwhile; nothing was moved.
    """
    if force_reason is not None and not force_reason.strip():
        raise InvalidRequest("force_reason is empty; say why the gates may be overruled")
    version = registry.resolve(name, selector)
    current = registry.find(name, CHAMPION)
    champion = current if current is not None and current.version != version.version else None
    evaluation = _evaluated(evaluate, version)
    gates = judge(evaluation, None if champion is None else _champion_evaluated(evaluate, champion))
    passed = all(gate.passed for gate in gates)
    _record(registry, version, evaluation, gates, _verdict(gates, champion, passed, force_reason))
    if current is not None and champion is None:
        return Promotion(version, None, gates, evaluation, "unchanged")
    if not passed and force_reason is None:
        return Promotion(version, champion, gates, evaluation, "refused")
    _move(registry, version, current)
    return Promotion(version, champion, gates, evaluation, "promoted" if passed else "forced")


def _verdict(
    gates: tuple[GateResult, ...], champion: ModelVersionInfo | None, passed: bool, force_reason: str | None
) -> dict[str, str]:
    tags = {
        GATE_RESULTS_TAG: json.dumps([asdict(gate) | {"passed": gate.passed} for gate in gates]),
        CHAMPION_TAG: "none" if champion is None else str(champion.version),
    }
    if passed:
        return tags | {GATES_TAG: "passed"}
    if force_reason is None:
        return tags | {GATES_TAG: "failed"}
    return tags | {GATES_TAG: "forced", FORCE_TAG: force_reason.strip()}


def _evaluated(evaluate: Evaluate, version: ModelVersionInfo) -> Evaluation:
    evaluation = evaluate(version)
    if evaluation.fingerprint != version.fingerprint:
        raise FingerprintMismatch(
            f"{version.name} version {version.version} has fingerprint {version.fingerprint}, "
            f"but the adapter that was evaluated has {evaluation.fingerprint}"
        )
    return evaluation


def _champion_evaluated(evaluate: Evaluate, champion: ModelVersionInfo) -> Evaluation:
    try:
        return _evaluated(evaluate, champion)
    except (CorruptRecord, WrongState, CSRModelError) as error:  # files gone, or made for other embeddings
        raise WrongState(
            f"the champion, version {champion.version}, cannot be measured on these data ({error}); to promote "
            f"without comparing, delete the alias {CHAMPION} of {champion.name} in MLflow first"
        ) from error


def _record(
    registry: Registry,
    version: ModelVersionInfo,
    evaluation: Evaluation,
    gates: tuple[GateResult, ...],
    tags: dict[str, str],
) -> None:
    measured = evaluation.as_metrics()
    registry.tag(version, tags | {EVALUATION_TAG: json.dumps(measured)})
    values = {f"evaluation.{key}": value for key, value in measured.items()}
    values |= {f"gate.{gate.key}": gate.value for gate in gates}
    now = time.time_ns() // 1_000_000
    with mlflow_errors(registry.uri):
        metrics = [Metric(key, value, now, 0) for key, value in values.items()]
        registry.client.log_batch(version.run_id, metrics=metrics)


def _move(registry: Registry, version: ModelVersionInfo, expected: ModelVersionInfo | None) -> None:
    now = registry.find(version.name, CHAMPION)
    if (now and now.version) != (expected and expected.version):
        raise AliasMoved(f"{CHAMPION} of {version.name} moved to version {now and now.version} meanwhile; try again")
    registry.set_alias(version.name, CHAMPION, version.version)
