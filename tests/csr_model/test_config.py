import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from csr_model import CSRConfig, InvalidConfig

Make = Callable[..., CSRConfig]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_dim": 70_000}, "hidden_dim is 70000; it must be a whole number within 8 … 65536"),
        ({"hidden_dim": 7}, "hidden_dim is 7"),
        ({"levels": ()}, "levels"),
        ({"levels": (8, 4)}, "levels"),
        ({"levels": (3, 8)}, r"levels hold \[3\]"),
        ({"levels": (0, 8)}, "levels"),
        ({"k_aux": -1}, "k_aux"),
        ({"k_aux": 49}, "k_aux is 49; it must be a whole number within 0 … 48"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"gamma_labels": float("nan")}, "gamma_labels"),
        ({"gamma_pairs": -1.0}, "gamma_pairs is -1.0"),
        ({"gamma_neighbours": float("inf")}, "gamma_neighbours"),
        ({"gamma_self": 1.0}, "gamma_self is above 0 in mode multi_k"),
        ({"temperature_labels": 0.0}, "temperature_labels is 0.0; it must be finite and above 0"),
        ({"temperature_pairs": -1.0}, "temperature_pairs"),
        ({"temperature_neighbours": float("nan")}, "temperature_neighbours"),
        ({"map_temperature": 0.0}, "map_temperature"),
        ({"map_learning_rate": 0.0}, "map_learning_rate"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"input_dropout": 1.0}, "input_dropout is 1.0; it must be at least 0 and below 1"),
        ({"input_dropout": float("nan")}, "input_dropout is nan"),
        ({"anneal_from": 49}, "anneal_from is 49; it must be a whole number within 0 … 48"),
        ({"mode": "multik"}, "mode is 'multik'; it must be one of multi_k, paper"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of float32, bfloat16"),
        ({"linear_map": "rows"}, "linear_map is 'rows'; it must be one of none, labels, pairs"),
        ({"map_examples": 0}, "map_examples"),
        ({"mode": "paper"}, r"levels are \(2, 4, 8\); mode paper trains one k"),
        ({"mode": "paper", "levels": (8,), "gamma_labels": 1.0}, "gamma_labels is above 0 in mode paper"),
        ({"mode": "paper", "levels": (8,), "anneal_from": 16}, "anneal_from is above 0 in mode paper"),
        ({"mode": "paper", "levels": (8,), "linear_map": "pairs"}, "linear_map is set in mode paper"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"beta": "x"}, "beta is 'x'; it must be at least 0"),
        ({"beta": True}, "beta is True"),
        ({"gamma_labels": 1j}, "gamma_labels is 1j"),
        ({"gradient_clip": "x"}, "gradient_clip is 'x'"),
        ({"input_dropout": None}, "input_dropout is None"),
        ({"learning_rate": "1"}, "learning_rate is '1'; it must be finite and above 0"),
        ({"temperature_pairs": 10**400}, "temperature_pairs"),
        ({"levels": 5}, "levels are 5; they must be ascending whole numbers"),
        ({"levels": "48"}, "levels are '48'"),
        ({"normalize": "no"}, "normalize is 'no'; it must be one of True, False"),
        ({"resample": 3}, "resample is 3"),
    ],
)
def test_refuses_what_cannot_work(config: Make, changes: dict[str, Any], says: str) -> None:
    """A wrong setting must stop before training does, naming the field and its limit."""
    with pytest.raises(InvalidConfig, match=says):
        config(**changes)


def test_json_round_trip(config: Make) -> None:
    """Checkpoints and artifacts carry the configuration; a changed one would resume another run."""
    original = config(gamma_labels=0.5, gamma_pairs=0.25, linear_map="pairs", levels=(2, 4, 7), gradient_clip=None)
    assert CSRConfig.from_json(original.to_json()) == original


@pytest.mark.parametrize("text", ["", "[]", '{"input_dim": 3}'])
def test_broken_json_is_named(text: str) -> None:
    """A truncated file must give a typed error, not a KeyError."""
    with pytest.raises(InvalidConfig):
        CSRConfig.from_json(text)


def test_unknown_settings_are_refused(config: Make) -> None:
    """A misspelt setting must not be ignored: the run would differ from what was asked."""
    fields = dataclasses.asdict(config()) | {"leaning_rate": 1.0}
    with pytest.raises(InvalidConfig, match="leaning_rate"):
        CSRConfig.from_fields(fields)


def test_decoded_ks_are_clamped_to_the_latents(config: Make) -> None:
    """4k beyond h must not ask TopK for more latents than there are."""
    assert config(hidden_dim=20).decode_ks == (2, 4, 8, 16, 20)


@pytest.mark.parametrize(
    ("rows", "input_dim", "hidden_dim"), [(8_000, 384, 3072), (2_000, 384, 1000), (50, 16, 256), (200_000, 1024, 8192)]
)
def test_automatic_width(rows: int, input_dim: int, hidden_dim: int) -> None:
    """Too many latents for a small set leave each row a latent of its own and neighbours without overlap."""
    assert CSRConfig.automatic(input_dim, rows).hidden_dim == hidden_dim


def test_automatic_obeys_choices() -> None:
    """An explicit choice must win over what the data suggest."""
    chosen = CSRConfig.automatic(8, 5_000, gamma_labels=0.25, hidden_dim=300, batch_size=48)
    assert (chosen.gamma_labels, chosen.hidden_dim, chosen.batch_size) == (0.25, 300, 48)
    assert CSRConfig.automatic(8, 3).batch_size == 2


def test_paper_settings_are_the_published_ones() -> None:
    """A comparison with the paper is worth nothing with other settings than the paper's."""
    settings = CSRConfig.paper(384, 16)
    assert (settings.mode, settings.levels, settings.decode_ks) == ("paper", (16,), (16, 64))
    assert (settings.hidden_dim, settings.k_aux, settings.beta, settings.gamma_self) == (1536, 1024, 1 / 32, 1.0)
    assert (settings.learning_rate, settings.batch_size, settings.epochs) == (4e-5, 128, 10)
    assert (settings.gradient_clip, settings.resample, settings.temperature_self) == (None, False, 0.2)
    assert settings.dead_after_rows == 10 * 128
    assert CSRConfig.paper(384, 16, batch_size=32).dead_after_rows == 320


@pytest.mark.parametrize(
    ("changes", "labels", "pairs"),
    [
        ({}, False, False),
        ({"gamma_neighbours": 1.0}, False, False),
        ({"gamma_labels": 1.0}, True, False),
        ({"linear_map": "labels"}, True, False),
        ({"gamma_pairs": 1.0}, False, True),
        ({"linear_map": "pairs", "gamma_labels": 1.0}, True, True),
    ],
    ids=str,
)
def test_says_what_it_learns_from(config: Make, changes: dict[str, Any], labels: bool, pairs: bool) -> None:
    """Training demands labels or pairs by these two answers; a wrong one is a silent zero loss."""
    settings = config(**changes)
    assert (settings.learns_labels, settings.learns_pairs) == (labels, pairs)


@pytest.mark.parametrize(("rows", "epochs"), [(2, 781), (256, 781), (6_000, 33), (1_000_000, 1)])
def test_automatic_epochs(rows: int, epochs: int) -> None:
    """A handful of rows must not be passed over a hundred thousand times: such a fit would take an hour."""
    assert CSRConfig.automatic(16, rows).epochs == epochs
