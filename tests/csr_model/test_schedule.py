import pytest

from csr_model.schedule import learning_rate_factor


def test_learning_rate_rises_then_falls() -> None:
    """Without warm-up Adam's first steps are too large; without decay the last ones are noise."""
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:80] == [1.0] * 75
    assert factors[99] == pytest.approx(0.05)
    assert factors[80:] == sorted(factors[80:], reverse=True)


def test_a_single_step_learns() -> None:
    """The shortest run there is must not spend its only step at rate 0."""
    assert learning_rate_factor(0, 1) == 1.0
