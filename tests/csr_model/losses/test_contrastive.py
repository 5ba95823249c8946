"""Each contrast against its formula, written out pair by pair in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_model.losses.contrastive import label_loss, neighbour_loss, pair_loss


def random_cosines(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return [rows, columns] float64 within ±1."""
    return torch.rand(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def slow_label_loss(cosines: torch.Tensor, labels: list[int], temperature: float) -> float:
    """−mean log[Σ same label / Σ all others] over the rows that have a positive."""
    losses = []
    for i, label in enumerate(labels):
        e = {j: math.exp(float(cosines[i, j]) / temperature) for j in range(len(labels)) if j != i}
        positives = sum(value for j, value in e.items() if labels[j] == label)
        if positives:
            losses.append(-math.log(positives / sum(e.values())))
    return sum(losses) / len(losses) if losses else 0.0


def slow_direction(cosines: torch.Tensor, alike: torch.Tensor, temperature: float) -> float:
    """Mean cross-entropy of the diagonal, negatives alike the positive left out."""
    count, losses = len(cosines), []
    for i in range(count):
        kept = [j for j in range(count) if j == i or not alike[i, j]]
        total = sum(math.exp(float(cosines[i, j]) / temperature) for j in kept)
        losses.append(-math.log(math.exp(float(cosines[i, i]) / temperature) / total))
    return sum(losses) / count


def slow_neighbour_loss(found: torch.Tensor, dense: torch.Tensor, factor: float, temperature: float) -> float:
    """Mean KL divergence of the softmax over the other rows."""
    count, losses = len(found), []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        p = {j: math.exp(float(dense[i, j]) / temperature) for j in others}
        q = {j: math.exp(float(found[i, j]) * math.exp(factor) / temperature) for j in others}
        p_total, q_total = sum(p.values()), sum(q.values())
        losses.append(sum(p[j] / p_total * math.log(p[j] / p_total / (q[j] / q_total)) for j in others))
    return sum(losses) / count


def test_known_label_loss() -> None:
    """Frozen numbers: two equal codes of one label, one orthogonal of another, τ = 1/2: log(1 + e⁻²)."""
    cosines, labels = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]), torch.tensor([0, 0, 1])
    assert label_loss(cosines, labels, labels, 0.5).item() == pytest.approx(math.log1p(math.exp(-2)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from([0.05, 0.1, 1.0]), st.integers(0, 1000))
def test_label_loss_is_its_formula(labels: list[int], temperature: float, seed: int) -> None:
    """Self-similarity in the sum, or the sum outside the logarithm, would be another published loss."""
    cosines, y = random_cosines(len(labels), len(labels), seed), torch.tensor(labels)
    expected = slow_label_loss(cosines, labels, temperature)
    assert label_loss(cosines, y, y, temperature).item() == pytest.approx(expected, rel=1e-10)


def test_known_pair_loss() -> None:
    """Frozen numbers: two right pairs at cosine 1, wrong ones at 0, τ = 1/2: log(1 + e⁻²) in both directions."""
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    loss = pair_loss(torch.eye(2), torch.eye(2), nothing, nothing, 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.sampled_from([0.05, 0.5]), st.integers(0, 1000))
def test_pair_loss_is_its_formula(count: int, temperature: float, seed: int) -> None:
    """Both directions count alike, and each direction leaves out the other side's look-alikes, never the positive."""
    cosines = random_cosines(count, count, seed)
    same_document, same_query = random_cosines(count, count, seed + 1) > 0.4, random_cosines(count, count, seed + 2) > 0
    expected = (
        slow_direction(cosines, same_document, temperature) + slow_direction(cosines.T, same_query, temperature)
    ) / 2
    loss = pair_loss(cosines, cosines.T, same_document, same_query, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_false_negatives_are_not_pushed_away() -> None:
    """Pushing away a second copy of the right document would undo what its own pair teaches."""
    cosines = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    twins = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    pair_loss(cosines, torch.eye(3, dtype=torch.float64), twins, nothing, 1.0).backward()
    assert cosines.grad is not None
    assert cosines.grad[0, 1] == cosines.grad[1, 0] == 0
    assert cosines.grad[0, 2] > 0
    assert cosines.grad[0, 0] < 0


def test_known_neighbour_loss() -> None:
    """Frozen numbers: the embeddings prefer one neighbour by e, the codes neither: KL of (e, 1) from (½, ½)."""
    dense = torch.tensor([[9.0, 1, 0], [1, 9, 0], [1, 0, 9]])
    p = math.e / (1 + math.e)
    loss = neighbour_loss(torch.zeros(3, 3), dense, torch.tensor(0.0), 1.0)
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.floats(-1, 1), st.integers(0, 1000))
def test_neighbour_loss_is_its_formula(count: int, factor: float, seed: int) -> None:
    """The divergence must run from the dense similarities to the codes', without the row itself."""
    found, dense = random_cosines(count, count, seed), random_cosines(count, count, seed + 1)
    loss = neighbour_loss(found, dense, torch.tensor(factor, dtype=torch.float64), 0.2)
    assert loss.item() == pytest.approx(slow_neighbour_loss(found, dense, factor, 0.2), rel=1e-9, abs=1e-12)


def test_equal_similarities_cost_nothing() -> None:
    """Codes that keep the dense similarities exactly have nothing left to learn."""
    dense = random_cosines(6, 6, 0)
    assert neighbour_loss(dense, dense, torch.zeros((), dtype=torch.float64), 0.05).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_label_loss_without_positives_is_finite(labels: list[int]) -> None:
    """One odd batch without any positive must not put NaN into the weights."""
    cosines = random_cosines(len(labels), len(labels), 0).requires_grad_()
    loss = label_loss(cosines, torch.tensor(labels), torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert cosines.grad is not None
    assert (cosines.grad == 0).all()


@pytest.mark.parametrize("rows", [1, 5])
def test_all_alike_is_finite(rows: int) -> None:
    """A batch whose candidates are all masked must not put NaN into the weights."""
    cosines = torch.ones(rows, rows, requires_grad=True)
    everything = torch.ones(rows, rows, dtype=torch.bool)
    loss = pair_loss(cosines, cosines.T, everything, everything, 0.05)
    loss = loss + neighbour_loss(cosines, torch.ones(rows, rows), torch.zeros(()), 0.05)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert cosines.grad is not None
    assert cosines.grad.isfinite().all()
