"""Codes: what an adapter makes of embeddings, as two aligned arrays."""

import operator
from typing import Any, Generic, NamedTuple, TypeVar, cast

from csr_model.errors import ImportRefused, InvalidK

Array = TypeVar("Array")
"""`numpy.ndarray` or `torch.Tensor`; both arrays of a `Codes` are of one kind."""


class Codes(NamedTuple, Generic[Array]):
    """Active latents and their weights, one row an embedding.

    Attributes:
        latents: [n, k]; uint16 at the package's edge, int64 inside. By weight descending, then latent
            ascending. Where fewer than k latents are active the tail holds latent 0 with weight 0.
        weights: [n, k] float32, never negative.
    """

    latents: Array
    weights: Array

    def prefix(self, k: int) -> "Codes[Array]":
        """Return the codes of the first k latents, L2-normalised: exactly the codes of that smaller k.

        Raises:
            InvalidK: k is not within 1 … the width of these codes.
        """
        latents, weights = cast(Any, self.latents), cast(Any, self.weights)
        width = latents.shape[1]
        k = checked_k(k, width, f"these codes hold 1 … {width} latents")
        return unit_length(Codes(latents[:, :k], weights[:, :k]))


def unit_length(codes: Codes[Array]) -> Codes[Array]:
    """Scale each row's weights to L2 norm 1; a code without active latents stays all zero."""
    weights = cast(Any, codes.weights)
    norms = (weights**2).sum(axis=1, keepdims=True) ** 0.5
    return Codes(codes.latents, weights / (norms + (norms == 0)))


def checked_k(k: object, limit: int, rule: str, refusal: type[InvalidK | ImportRefused] = InvalidK) -> int:
    """Return k as an int if it is a whole number, of any type, within 1 … limit; else raise `refusal` with the rule."""
    try:
        whole = 0 if isinstance(k, bool) else operator.index(cast(Any, k))
    except TypeError:
        whole = 0
    if not 1 <= whole <= limit:
        raise refusal(f"k is {k!r}; {rule}")
    return whole
