"""What people see of a training job."""

from io import StringIO

import pytest
from rich.console import Console

from csr_model.recipe import Choice
from orchestration.cli.train_view import choice_text, progress_on, train_with_progress
from orchestration.data.split import EmbeddedSplit
from orchestration.train_files import TrainingProgress
from services.runtime.errors import InvalidRequest
from services.runtime.settings import Settings
from tests.orchestration.conftest import make_config
from tests.orchestration.training import labelled_set

METRICS = {"total": 0.512345, "dead_share": 0.031, "validation_score": 0.75, "rows_per_second": 12_345.6}
RUN = [
    TrainingProgress("starting"),
    TrainingProgress("starting"),
    TrainingProgress("choosing"),
    TrainingProgress("training", 0, 4, 0.1, {"total": 0.9}),
    TrainingProgress("training", 1, 4, 0.25, METRICS),
    TrainingProgress("training", 1, 4, 0.3, METRICS),
    TrainingProgress("training", 2, 4, 0.5, METRICS),
    TrainingProgress("registering", 4, 4, 1.0, METRICS),
    TrainingProgress("measuring", 4, 4, 1.0, METRICS),
]


def shown(terminal: bool) -> str:
    """Return what a console printed of a run."""
    file = StringIO()
    with progress_on(Console(file=file, force_terminal=terminal, width=200)) as show:
        for progress in RUN:
            show(progress)
    return file.getvalue()


def test_logs_have_a_line_for_each_phase_and_epoch() -> None:
    """A job in a container would be silent for hours, or fill its log with the same line."""
    numbers = "loss 0.5123  dead 3.1 %  validation 75.0 %  12,346 rows/s"
    assert shown(terminal=False).splitlines() == [
        "starting workers",
        "choosing the recipe",
        "training",
        f"epoch 1/4  {numbers}",
        f"epoch 2/4  {numbers}",
        "registering",
        "measuring",
    ]


def test_a_terminal_gets_a_bar_with_loss_dead_share_speed_and_eta() -> None:
    """People would not know whether to wait."""
    bar = shown(terminal=True)
    for part in ("measuring", "4/4 epochs", "loss 0.5123", "dead 3.1 %", "12,346 rows/s", "ETA"):
        assert part in bar


def test_the_choice_is_said_with_what_it_was_chosen_from() -> None:
    """Nobody could tell why a run trained what it did."""
    choice = Choice("map of labels", make_config(), {"labels": 0.5, "map of labels": 0.625}, 12.2)
    assert choice_text(choice) == (
        "Recipe: map of labels (validation %: labels 50.0, map of labels 62.5; chosen in 12 s)."
    )
    assert choice_text(Choice("reconstruction", make_config(), {}, 0.0)) == "Recipe: reconstruction."


def test_more_latents_than_half_the_rows_are_a_warning(
    settings: Settings, split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """An adapter that memorises rows would be trained without a word."""
    said = {}
    for hidden_dim in (160, 161):
        file = StringIO()
        with pytest.raises(InvalidRequest):  # before anything starts
            train_with_progress(
                settings, labelled_set(split, held_out), "a/b", {"hidden_dim": hidden_dim}, console=Console(file=file)
            )
        said[hidden_dim] = file.getvalue()
    assert said[160] == ""
    assert said[161].startswith("warning: 161 latents for 320 rows; above 160, half the rows,")
    assert said[161].count("\n") == 1
