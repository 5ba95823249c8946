"""The training configuration: every choice that shapes an adapter, checked once, on creation."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from csr_model.errors import InvalidConfig

LATENTS_MAX = 65_536
"""Latents travel as uint16."""

_ROWS_TO_SEE = 160_000
_ROWS_OF_A_LARGE_SET = 100_000


@dataclass(frozen=True, kw_only=True)
class CSRConfig:
    """How to train one adapter. `automatic` chooses what depends on the data.

    Args:
        input_dim: Dimension d of the embeddings.
        hidden_dim: Number of latents h; at most 65,536. More latents than half the training rows
            leave rows a latent of their own instead of sharing.
        levels: The values of k the adapter is trained for, ascending; powers of two, except that the
            last one (k_max) may be any number. Each is also trained at 4k, clamped to h.
        k_aux: Dead latents that try to explain what the code missed, per row; 0 turns them off.
        beta: Weight of the auxiliary loss.
        gamma: Weight of the contrastive loss; needs labels when above 0.
        temperature: Divides the cosines of the contrastive loss.
        learning_rate: Adam's peak rate, after 5 % of the steps; falls to 0 over the last 20 %.
        gradient_clip: Largest gradient norm of a step.
        batch_size: Rows per optimizer step over all ranks together, so that the number of ranks does
            not change what is learned.
        epochs: Passes over the training rows; the rows that do not fill a last batch are left out,
            others in each epoch.
        dead_after_rows: A latent is dead when it has not fired for this many training rows.
        normalize: Scale each embedding to unit length first (the metric is cosine).
        seed: Decides initial latents and the order of the rows.

    Raises:
        InvalidConfig: A value is out of range; the message names field and limit.
    """

    input_dim: int
    hidden_dim: int
    levels: tuple[int, ...] = (8, 16, 32, 64)
    k_aux: int
    beta: float = 1 / 32
    gamma: float = 0.0
    temperature: float = 0.1
    learning_rate: float = 1.5e-3
    gradient_clip: float = 1.0
    batch_size: int
    epochs: int
    dead_after_rows: int
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        _check_levels(self.levels)
        _check_range("input_dim", self.input_dim, 1)
        _check_range("hidden_dim", self.hidden_dim, self.k_max, LATENTS_MAX)
        _check_range("k_aux", self.k_aux, 0, self.hidden_dim)
        _check_range("batch_size", self.batch_size, 1)
        _check_range("epochs", self.epochs, 1)
        _check_range("dead_after_rows", self.dead_after_rows, 1)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("beta", self.beta, 0)
        _check_range("gamma", self.gamma, 0)
        for name in ("temperature", "learning_rate", "gradient_clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidConfig(f"{name} is {value}; it must be finite and above 0")

    @property
    def k_max(self) -> int:
        """The largest level: what is kept of a stored code."""
        return self.levels[-1]

    @property
    def decode_ks(self) -> tuple[int, ...]:
        """Every k that is decoded in training, see `decoded_ks`."""
        return decoded_ks(self.levels, self.hidden_dim)

    @classmethod
    def automatic(cls, input_dim: int, rows: int, labelled: bool = False, **chosen: Any) -> Self:
        """Return the configuration for `rows` embeddings; fields given in `chosen` win.

        The rules: h = 4d, at most half the rows of a set below 100,000 and at least 4·k_max; batches of
        256, or the largest power of two that the rows fill, so that ranks can share them; enough epochs
        for 160,000 rows; a latent is dead after half an epoch, between 20,000 and 10 million rows; with
        labels, contrastive weight 1 and a learning rate of 2e-3.
        """
        k_max = max(chosen.get("levels", cls.levels), default=1)
        hidden_dim = 4 * input_dim
        if rows < _ROWS_OF_A_LARGE_SET:
            hidden_dim = min(hidden_dim, rows // 2)
        hidden_dim = chosen.get("hidden_dim", min(max(hidden_dim, 4 * k_max), LATENTS_MAX))
        fields: dict[str, Any] = {
            "input_dim": input_dim,
            "hidden_dim": hidden_dim,
            "k_aux": min(max(1, input_dim // 2), hidden_dim),
            "batch_size": 1 << (max(1, min(256, rows)).bit_length() - 1),
            "epochs": math.ceil(_ROWS_TO_SEE / max(1, rows)),
            "dead_after_rows": min(max(20_000, rows // 2), 10_000_000),
        }
        if labelled:
            fields |= {"gamma": 1.0, "learning_rate": 2e-3}
        return cls.from_fields(fields | chosen)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Build from a mapping of field names, refusing unknown and missing ones.

        Raises:
            InvalidConfig: A field is unknown, missing, of the wrong type or out of range.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known.keys()):
            raise InvalidConfig(f"unknown settings: {', '.join(unknown)}; known are {', '.join(known)}")
        required = {name for name, field in known.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - fields.keys()):
            raise InvalidConfig(f"missing settings: {', '.join(missing)}")
        return cls(**fields)

    def to_json(self) -> str:
        """Return the configuration as a JSON object; `from_json` gives an equal one."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InvalidConfig: Not a JSON object, or as `from_fields`.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise InvalidConfig(f"the configuration is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InvalidConfig("the configuration is not a JSON object")
        return cls.from_fields(fields)


def decoded_ks(levels: tuple[int, ...], hidden_dim: int) -> tuple[int, ...]:
    """Return the levels and four times each, clamped to h; ascending, each once."""
    return tuple(sorted({*levels, *(min(4 * k, hidden_dim) for k in levels)}))


def _check_levels(levels: tuple[int, ...]) -> None:
    if not levels or any(not _is_integer(k) or k < 1 for k in levels) or list(levels) != sorted(set(levels)):
        raise InvalidConfig(f"levels are {levels}; they must be ascending whole numbers from 1")
    if odd := [k for k in levels[:-1] if k & (k - 1)]:
        raise InvalidConfig(f"levels hold {odd}; every level but the last must be a power of two")


def _check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    whole = name not in ("beta", "gamma")
    if (whole and not _is_integer(value)) or not math.isfinite(value) or not low <= value <= high:
        limit = f"at least {low}" if high == math.inf else f"within {low} … {high}"
        raise InvalidConfig(f"{name} is {value!r}; it must be {'a whole number ' if whole else ''}{limit}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
