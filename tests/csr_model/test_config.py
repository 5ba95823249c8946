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
        ({"gamma": float("nan")}, "gamma"),
        ({"temperature": 0.0}, "temperature"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refuses_what_cannot_work(config: Make, changes: dict[str, Any], says: str) -> None:
    """A wrong setting must stop before training does, naming the field and its limit."""
    with pytest.raises(InvalidConfig, match=says):
        config(**changes)


def test_json_round_trip(config: Make) -> None:
    """Checkpoints and artifacts carry the configuration; a changed one would resume another run."""
    original = config(gamma=0.5, levels=(2, 4, 7))
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
    ("rows", "input_dim", "hidden_dim"), [(6_000, 384, 1536), (2_000, 384, 1000), (50, 16, 256), (200_000, 1024, 4096)]
)
def test_automatic_width(rows: int, input_dim: int, hidden_dim: int) -> None:
    """Too many latents for a small set leave each row a latent of its own and neighbours without overlap."""
    assert CSRConfig.automatic(input_dim, rows).hidden_dim == hidden_dim


def test_automatic_uses_labels_and_obeys_choices() -> None:
    """Given labels must be used without being asked for, and an explicit choice must win."""
    assert CSRConfig.automatic(8, 5_000, labelled=True).gamma == 1.0
    assert CSRConfig.automatic(8, 5_000).gamma == 0.0
    assert CSRConfig.automatic(8, 5_000, labelled=True, gamma=0.25, hidden_dim=300).gamma == 0.25
    assert CSRConfig.automatic(8, 3).batch_size == 2
