"""Settings of a training from the command line."""

from dataclasses import fields

import pytest
import typer

from csr_model import CSRConfig
from orchestration.cli.train_fields import parsed_fields


def test_each_type_is_read() -> None:
    """A setting of the library could not be set where models are trained."""
    given = ["levels=[4,16]", "learning_rate=1", "gradient_clip=null", "resample=false", "mode=paper", "k_aux=9"]
    assert parsed_fields(given, ()) == {
        "levels": [4, 16],
        "learning_rate": 1,
        "gradient_clip": None,
        "resample": False,
        "mode": "paper",
        "k_aux": 9,
    }


def test_every_field_says_what_it_could_be() -> None:
    """A new field of another type would end in a traceback where it is mistyped."""
    for field in fields(CSRConfig):
        if field.name != "input_dim":
            with pytest.raises(typer.BadParameter, match=f"{field.name} is '{{}}'; .* is needed"):
                parsed_fields([f"{field.name}={{}}"], ())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nope"], "'nope' is not of the form NAME=VALUE"),
        (["nope=3"], "there is no 'nope'; there are: .*levels.*"),
        (["hidden_dim=3"], "hidden_dim has an option of its own, --hidden-dim"),
        (["input_dim=3"], "input_dim follows from the embeddings"),
        (["beta=0", "beta=1"], "beta is given twice"),
        (["levels=8"], r"levels is '8'; a list of whole numbers, such as \[8,32\], is needed"),
        (['levels=["a"]'], "levels is .*; a list of whole numbers"),
        (["learning_rate=fast"], "learning_rate is 'fast'; a number is needed"),
        (["learning_rate=true"], "learning_rate is 'true'; a number is needed"),
        (["batch_size=1.5"], "batch_size is '1.5'; a whole number is needed"),
        (["normalize=no"], "normalize is 'no'; true or false is needed"),
        (["linear_map=some"], "linear_map is 'some'; none or .* is needed"),
        (["gradient_clip=a"], "gradient_clip is 'a'; a number or null is needed"),
    ],
)
def test_a_mistyped_setting_is_wrong_usage(given: list[str], message: str) -> None:
    """A slip would be a traceback, or silently train something else than what was meant."""
    with pytest.raises(typer.BadParameter, match=message):
        parsed_fields(given, ("hidden_dim",))
