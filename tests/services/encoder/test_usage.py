"""Latent usage by hand-counted examples."""

import numpy as np

from services.encoder.usage import LatentUsage


def test_before_traffic_everything_is_unused() -> None:
    """A replica that has just started would divide by zero, or look healthy."""
    usage = LatentUsage(8)
    assert (usage.unused_share, usage.entropy_bits) == (1.0, 0.0)


def test_share_and_entropy_follow_the_counts() -> None:
    """Dashboards would miss a model whose codes collapse onto few latents."""
    usage = LatentUsage(8)
    usage.observe(np.array([0, 1, 2, 3], np.uint16))
    assert (usage.unused_share, usage.entropy_bits) == (0.5, 2.0)
    usage.observe(np.array([0, 0, 0, 0], np.uint16))
    np.testing.assert_allclose(usage.entropy_bits, -(5 / 8 * np.log2(5 / 8) + 3 / 8 * np.log2(1 / 8)))
    assert usage.unused_share == 0.5
