"""What is chosen for one training of a method."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Attributes that a method has no choice of are None.

    Attributes:
        k: Active latents, for methods that train one model for each k.
        learning_rate: Adam's rate.
        seed: Of initial weights and batches.
    """

    k: int | None
    learning_rate: float | None
    seed: int
