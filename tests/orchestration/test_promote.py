"""Promotion against a real registry; evaluations are given, so that each verdict is known beforehand."""

import json
from dataclasses import replace

import pytest

from csr_model import CSRAdapter
from orchestration.evaluation import Evaluation
from orchestration.promote import promote
from orchestration.registry import CHALLENGER, CHAMPION, ModelVersionInfo, Registry
from services.runtime.errors import (
    AliasMoved,
    CorruptRecord,
    FingerprintMismatch,
    InvalidRequest,
    UnknownVersion,
    WrongState,
)
from tests.orchestration.conftest import Register
from tests.orchestration.test_gates import evaluation, level

GOOD = evaluation()
BAD = evaluation(level(32, one_nn=0.4))


class Judge:
    """Evaluates versions as it is told and remembers which it was asked about."""

    def __init__(self, *verdicts: Evaluation) -> None:
        self._verdicts = verdicts
        self.asked: list[int] = []

    def __call__(self, version: ModelVersionInfo) -> Evaluation:
        """Return the verdict on a version, under its fingerprint."""
        self.asked.append(version.version)
        return replace(self._verdicts[version.version - 1], fingerprint=version.fingerprint)


@pytest.fixture
def two_versions(
    request: pytest.FixtureRequest, register: Register, adapters: list[CSRAdapter], registry: Registry
) -> str:
    """A model of this test's own with versions 1 and 2, the second being challenger."""
    name = request.node.name.replace("[", "-").replace("]", "")
    for adapter in adapters:
        registry.set_alias(name, CHALLENGER, register(name, adapter).version)
    return name


def test_a_first_version_that_passes_becomes_champion(registry: Registry, two_versions: str) -> None:
    """Nothing could ever serve."""
    promotion = promote(registry, two_versions, Judge(GOOD, GOOD))
    assert (promotion.outcome, promotion.champion, promotion.promoted) == ("promoted", None, True)
    champion = registry.resolve(two_versions, CHAMPION)
    assert champion.version == 2
    assert champion.tags["csr.gates"] == "passed"
    assert json.loads(champion.tags["csr.evaluation"])["one_nn.k32"] == 0.78
    table = json.loads(champion.tags["csr.gates.results"])
    assert {row["name"] for row in table} >= {"parity", "one_nn_of_dense"}
    assert all(row["passed"] for row in table)
    logged = registry.client.get_run(champion.run_id).data.metrics
    assert logged["gate.one_nn_of_dense.k32"] == pytest.approx(0.975)
    assert logged["evaluation.recall.k8"] == 0.6


def test_a_failed_gate_leaves_the_alias_and_says_why(registry: Registry, two_versions: str) -> None:
    """A bad model would take over, or be refused without a trace."""
    registry.set_alias(two_versions, CHAMPION, 1)
    promotion = promote(registry, two_versions, Judge(GOOD, BAD))
    assert (promotion.outcome, promotion.promoted, promotion.passed) == ("refused", False, False)
    assert registry.resolve(two_versions, CHAMPION).version == 1
    tags = registry.resolve(two_versions, 2).tags
    assert tags["csr.gates"] == "failed"
    assert [row["name"] for row in json.loads(tags["csr.gates.results"]) if not row["passed"]] == [
        "one_nn_of_dense",
        "levels_kept",
        "one_nn_of_champion",
    ]


def test_a_challenger_is_measured_against_the_champion(registry: Registry, two_versions: str) -> None:
    """A worse version that clears the absolute floors would replace a better one."""
    registry.set_alias(two_versions, CHAMPION, 1)
    judge = Judge(evaluation(level(32, one_nn=0.79)), evaluation(level(32, one_nn=0.76)))
    promotion = promote(registry, two_versions, judge)
    assert judge.asked == [2, 1]
    assert [gate.key for gate in promotion.gates if not gate.passed] == ["one_nn_of_champion.k32"]
    assert promotion.champion is not None
    assert promotion.champion.version == 1
    assert registry.resolve(two_versions, CHAMPION).version == 1
    assert registry.resolve(two_versions, 2).tags["csr.gates.champion"] == "1"


def test_force_moves_the_alias_and_keeps_the_reason(registry: Registry, two_versions: str) -> None:
    """Nobody could say later why a model that failed its gates serves."""
    promotion = promote(registry, two_versions, Judge(GOOD, BAD), force_reason=" labels of the set are wrong ")
    assert (promotion.outcome, promotion.promoted, promotion.passed) == ("forced", True, False)
    tags = registry.resolve(two_versions, CHAMPION).tags
    assert (tags["csr.gates"], tags["csr.gates.forced_because"]) == ("forced", "labels of the set are wrong")


def test_force_needs_a_reason(registry: Registry, two_versions: str) -> None:
    """`--force ""` would overrule the gates without one."""
    with pytest.raises(InvalidRequest, match="force_reason is empty"):
        promote(registry, two_versions, Judge(GOOD, BAD), force_reason="  ")
    assert registry.find(two_versions, CHAMPION) is None


def test_promoting_again_changes_nothing(registry: Registry, two_versions: str) -> None:
    """A promotion repeated after an interruption would fail or compare a version with itself."""
    judge = Judge(GOOD, GOOD)
    first = promote(registry, two_versions, judge)
    again = promote(registry, two_versions, judge)
    assert (first.outcome, again.outcome, again.champion) == ("promoted", "unchanged", None)
    assert first.gates == again.gates
    assert registry.resolve(two_versions, CHAMPION).version == 2


def test_an_older_version_can_be_promoted_by_number(registry: Registry, two_versions: str) -> None:
    """Going back to the version before would be impossible."""
    promote(registry, two_versions, Judge(GOOD, GOOD))
    promote(registry, two_versions, Judge(GOOD, GOOD), selector=1)
    assert registry.resolve(two_versions, CHAMPION).version == 1


def test_an_alias_that_moves_during_the_trial_is_left_alone(registry: Registry, two_versions: str) -> None:
    """A promotion would undo what somebody did in MLflow a moment ago, against a champion it never saw."""

    def evaluate(version: ModelVersionInfo) -> Evaluation:
        registry.set_alias(two_versions, CHAMPION, 1)
        return replace(GOOD, fingerprint=version.fingerprint)

    with pytest.raises(AliasMoved, match="version 1"):
        promote(registry, two_versions, evaluate)
    assert registry.resolve(two_versions, CHAMPION).version == 1


def test_an_evaluation_of_another_adapter_counts_for_nothing(registry: Registry, two_versions: str) -> None:
    """A version could pass with the results of another one."""
    with pytest.raises(FingerprintMismatch):
        promote(registry, two_versions, lambda version: GOOD)
    assert registry.find(two_versions, CHAMPION) is None


def test_a_champion_that_cannot_be_measured_is_named_with_the_way_out(registry: Registry, two_versions: str) -> None:
    """Whoever lost the champion's files would be told to train again, and again nothing could be promoted."""
    registry.set_alias(two_versions, CHAMPION, 1)

    def evaluate(version: ModelVersionInfo) -> Evaluation:
        if version.version == 1:
            raise CorruptRecord("its files are gone")
        return replace(GOOD, fingerprint=version.fingerprint)

    with pytest.raises(WrongState, match=r"champion, version 1, .*its files are gone.*delete the alias champion"):
        promote(registry, two_versions, evaluate)
    assert registry.resolve(two_versions, CHAMPION).version == 1


def test_nothing_to_promote_is_said_plainly(registry: Registry) -> None:
    """`csr promote` before `csr train` would end in a traceback."""
    with pytest.raises(UnknownVersion, match="csr train"):
        promote(registry, "never-trained", Judge(GOOD))
