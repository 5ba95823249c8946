"""The training configuration: every choice that shapes an adapter, checked once, on creation."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from csr_model.config_checks import check_choice, check_levels, check_positive, check_range
from csr_model.errors import InvalidConfig

LATENTS_MAX = 65_536
"""Latents travel as uint16."""

Mode = Literal["multi_k", "paper"]
Precision = Literal["float32", "bfloat16"]
LinearMap = Literal["none", "labels", "pairs"]

_BATCH_SIZE = 256
_ROWS_TO_SEE = 200_000
_PAPER_DEAD_AFTER_STEPS = 10
_GAMMAS = ("gamma_labels", "gamma_pairs", "gamma_neighbours", "gamma_self")
_TEMPERATURES = (
    "temperature_labels",
    "temperature_pairs",
    "temperature_self",
    "temperature_neighbours",
    "map_temperature",
)


@dataclass(frozen=True, kw_only=True)
class CSRConfig:
    """How to train one adapter. `automatic` chooses what depends on the data.

    Args:
        input_dim: Dimension d of the embeddings.
        hidden_dim: Number of latents h; at most 65,536. More latents than half the training rows
            leave rows a latent of their own instead of sharing.
        mode: `multi_k`, one adapter for all levels, or `paper`: one level, trained with the formulas
            and numbers of the authors' code (`csr_model.losses.paper`), for comparison.
        levels: The values of k the adapter is trained for, ascending; powers of two, except that the
            last one (k_max) may be any number. Each is also trained at 4k, clamped to h.
        anneal_from: Levels below it start as this k and fall to their own over the first 70 % of the
            steps (CSRv2, arXiv 2602.05735); 0 turns annealing off.
        k_aux: Dead latents that try to explain what the code missed, per row; 0 turns them off.
        beta: Weight of the auxiliary loss.
        gamma_labels: Weight of the contrast that pulls codes of one label together.
        gamma_pairs: Weight of the contrast between the two sides of pairs.
        gamma_neighbours: Weight of the divergence from the dense similarities of mined neighbours.
        gamma_self: Weight of the published contrast, each row its own positive; `paper` mode only.
        temperature_labels: Divides the cosines of the contrast of labels.
        temperature_pairs: Divides the cosines of the contrast of pairs.
        temperature_self: Divides the cosines of the published contrast.
        temperature_neighbours: Divides both sides' similarities; the codes' side learns a factor.
        linear_map: Other than `none`, training has two stages: first a linear map of the embeddings learns
            the labels or pairs, then the latents learn the mapped embeddings.
        map_examples: Rows or pairs that the first stage sees, counted as often as it sees them.
        map_learning_rate: Adam's peak rate in that stage.
        map_temperature: Divides the cosines of that stage.
        learning_rate: Adam's peak rate, after 5 % of the steps; falls to 0 over the last 20 %. Constant
            in `paper` mode.
        gradient_clip: Largest gradient norm of a step; None does not clip.
        batch_size: Rows per optimizer step over all ranks together, so that the number of ranks does
            not change what is learned. With `gamma_pairs`, half of them are the two sides of pairs.
        epochs: How often the training rows are seen; the rows that do not fill a last batch are left
            out, others in each epoch.
        dead_after_rows: A latent is dead when it has not fired for this many training rows.
        input_dropout: Share of the values of an embedding that a training step does not see; keeps small
            labelled sets from being learned by heart.
        resample: Give latents that stay dead the direction of a badly reconstructed row.
        precision: Of decoding and similarities; the encoder always runs in float32.
        normalize: Scale each embedding to unit length first (the metric is cosine).
        seed: Decides initial latents and the order of the rows.

    Raises:
        InvalidConfig: A value is out of range; the message names field and limit.
    """

    input_dim: int
    hidden_dim: int
    mode: Mode = "multi_k"
    levels: tuple[int, ...] = (4, 8, 16, 32, 64)
    anneal_from: int = 0
    k_aux: int
    beta: float = 1 / 32
    gamma_labels: float = 0.0
    gamma_pairs: float = 0.0
    gamma_neighbours: float = 0.0
    gamma_self: float = 0.0
    temperature_labels: float = 0.1
    temperature_pairs: float = 0.05
    temperature_self: float = 0.2
    temperature_neighbours: float = 0.05
    linear_map: LinearMap = "none"
    map_examples: int = 250_000
    map_learning_rate: float = 1e-3
    map_temperature: float = 0.05
    learning_rate: float = 3e-3
    gradient_clip: float | None = 1.0
    batch_size: int
    epochs: int
    dead_after_rows: int
    input_dropout: float = 0.0
    resample: bool = True
    precision: Precision = "float32"
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_levels(self.levels)
        object.__setattr__(self, "levels", tuple(self.levels))
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("linear_map", self.linear_map, get_args(LinearMap))
        check_range("input_dim", self.input_dim, 1)
        check_range("hidden_dim", self.hidden_dim, self.k_max, LATENTS_MAX)
        check_range("anneal_from", self.anneal_from, 0, self.hidden_dim)
        check_range("k_aux", self.k_aux, 0, self.hidden_dim)
        for name in ("batch_size", "epochs", "map_examples", "dead_after_rows"):
            check_range(name, getattr(self, name), 1)
        check_range("seed", self.seed, 0, 2**63 - 1)
        for name in ("beta", *_GAMMAS):
            check_range(name, getattr(self, name), 0, whole=False)
        for name in (*_TEMPERATURES, "map_learning_rate", "learning_rate"):
            check_positive(name, getattr(self, name))
        check_range("input_dropout", self.input_dropout, 0, whole=False)
        if self.input_dropout >= 1:
            raise InvalidConfig(f"input_dropout is {self.input_dropout}; it must be at least 0 and below 1")
        for name in ("normalize", "resample"):
            check_choice(name, getattr(self, name), (True, False))
        if self.gradient_clip is not None:
            check_positive("gradient_clip", self.gradient_clip)
        self._check_mode()

    def _check_mode(self) -> None:
        if self.mode == "multi_k":
            if self.gamma_self:
                raise InvalidConfig("gamma_self is above 0 in mode multi_k; only mode paper has that loss")
            return
        if len(self.levels) != 1:
            raise InvalidConfig(f"levels are {self.levels}; mode paper trains one k")
        if self.linear_map != "none":
            raise InvalidConfig("linear_map is set in mode paper, which has no such part")
        for name in ("gamma_labels", "gamma_pairs", "gamma_neighbours", "anneal_from", "input_dropout"):
            if getattr(self, name):
                raise InvalidConfig(f"{name} is above 0 in mode paper, which has no such part")

    @property
    def k_max(self) -> int:
        """The largest level: what is kept of a stored code."""
        return self.levels[-1]

    @property
    def decode_ks(self) -> tuple[int, ...]:
        """Every k that is decoded in training, see `decoded_ks`."""
        return decoded_ks(self.levels, self.hidden_dim)

    @property
    def learns_labels(self) -> bool:
        """True when labels shape the adapter."""
        return self.gamma_labels > 0 or self.linear_map == "labels"

    @property
    def learns_pairs(self) -> bool:
        """True when pairs shape the adapter."""
        return self.gamma_pairs > 0 or self.linear_map == "pairs"

    @property
    def contrasts(self) -> bool:
        """True when a contrast is part of the objective."""
        return any(getattr(self, name) > 0 for name in _GAMMAS)

    @property
    def batch_unit(self) -> int:
        """What a rank's share of a batch must be a multiple of: both sides of pairs, anchors and neighbours."""
        sides = 4 if self.gamma_pairs or self.gamma_neighbours else 1
        return sides * 2 if self.gamma_pairs and self.gamma_neighbours else sides

    @classmethod
    def automatic(
        cls, input_dim: int, rows: int, expansion: int = 8, rows_seen: int | None = None, **chosen: Any
    ) -> Self:
        """Return the configuration for `rows` embeddings without labels or pairs; fields in `chosen` win.

        The rules: h = expansion · d, at most half the rows and at least 4·k_max; batches of 256, or the
        largest power of two that the rows fill, so that ranks can share them; epochs for about 200,000 rows,
        fewer where the rows do not fill a batch; a latent is dead after half an epoch, between 20,000 and
        10 million rows. What to learn from labels and pairs is chosen by `csr_model.recipe`.
        """
        levels = chosen.get("levels", cls.levels)
        check_levels(levels)
        k_max = levels[-1]
        hidden_dim = min(max(min(expansion * input_dim, rows // 2), 4 * k_max), LATENTS_MAX)
        hidden_dim = chosen.get("hidden_dim", hidden_dim)
        check_range("hidden_dim", hidden_dim, k_max, LATENTS_MAX)
        fields: dict[str, Any] = {
            "input_dim": input_dim,
            "hidden_dim": hidden_dim,
            "k_aux": min(max(1, input_dim // 2), hidden_dim),
            "batch_size": 1 << (max(1, min(_BATCH_SIZE, rows)).bit_length() - 1),
            "epochs": max(1, round((rows_seen or _ROWS_TO_SEE) / max(_BATCH_SIZE, rows))),
            "dead_after_rows": min(max(20_000, rows // 2), 10_000_000),
        }
        return cls.from_fields(fields | chosen)

    @classmethod
    def paper(cls, input_dim: int, k: int, **chosen: Any) -> Self:
        """Return the published training of one k (Wen et al. 2025, table of hyper-parameters; text settings).

        h = 4d, β = 1/32, γ = 1, τ = 0.2, Adam at a constant 4e-5, batches of 128, 10 epochs, no centring, no
        clipping; a latent is dead after 10 steps, as the authors' code counts. Fields in `chosen` win.
        """
        batch_size = chosen.get("batch_size", 128)
        hidden_dim = chosen.get("hidden_dim", min(4 * input_dim, LATENTS_MAX))
        check_range("batch_size", batch_size, 1)
        check_range("hidden_dim", hidden_dim, 1, LATENTS_MAX)
        fields: dict[str, Any] = {
            "input_dim": input_dim,
            "hidden_dim": hidden_dim,
            "mode": "paper",
            "levels": (k,),
            "k_aux": min(1024, hidden_dim),
            "gamma_self": 1.0,
            "learning_rate": 4e-5,
            "gradient_clip": None,
            "batch_size": batch_size,
            "epochs": 10,
            "dead_after_rows": _PAPER_DEAD_AFTER_STEPS * batch_size,
            "resample": False,
        }
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
