"""What the driver and the ranks exchange."""

from pathlib import Path

import numpy as np

from csr_model import Training
from csr_model.recipe import Choice
from orchestration.data.split import EmbeddedSplit
from orchestration.train_files import (
    TrainingProgress,
    TrainingRows,
    read_choice,
    read_progress,
    read_rows,
    training_rows,
    write_choice,
    write_progress,
    write_rows,
)
from orchestration.validation_set import held_out_rows
from tests.orchestration.conftest import make_config
from tests.orchestration.training import labelled_set, paired_set


def test_ranks_read_what_the_driver_has(split: EmbeddedSplit, held_out: EmbeddedSplit, tmp_path: Path) -> None:
    """Ranks would learn other labels or pairs than the driver checked."""
    for name, data in {"labels": labelled_set(split, held_out), "pairs": paired_set(split, held_out)}.items():
        folder = tmp_path / name
        folder.mkdir()
        rows, held = training_rows(data), held_out_rows(data)
        again, held_again = read_rows(folder, write_rows(folder, rows, held))
        assert held_again is not None
        for one, other in ((rows, again), (rows.without(held), again.without(held_again))):
            np.testing.assert_array_equal(one.embeddings[:], other.embeddings[:])
            np.testing.assert_array_equal(one.labels, other.labels)
            assert (one.pairs is None) == (other.pairs is None)
            if one.pairs is not None and other.pairs is not None:
                np.testing.assert_array_equal(np.stack(one.pairs), np.stack(other.pairs))
            assert one.ids == other.ids


def test_a_file_that_ranks_can_map_is_used_where_it_is(tmp_path: Path) -> None:
    """Training on a terabyte would first copy it; or a part of a file would be taken for the whole."""
    file, job = tmp_path / "mine.npy", tmp_path / "job"
    job.mkdir()
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.save(file, rows)
    mapped = np.load(file, mmap_mode="r")
    for same in (mapped, mapped[:]):
        assert write_rows(job, TrainingRows(same, None, None, None), None) == file
    for other in (mapped[:20], mapped[::-1], mapped[1:], rows, mapped.astype(np.float16)):
        written = write_rows(job, TrainingRows(other, None, None, None), None)
        assert written.parent == job
        np.testing.assert_array_equal(np.load(written), other.astype(np.float32))


def test_held_out_rows_are_left_out_without_a_copy(split: EmbeddedSplit, held_out: EmbeddedSplit) -> None:
    """A run with early stopping would learn other rows than one that was given only those."""
    data = labelled_set(split, held_out)
    held = held_out_rows(data)
    learned = training_rows(data).without(held)
    alone = Training(make_config(gamma_labels=0.5), split.embeddings[held.learned], split.labels[held.learned])
    lazy = Training(make_config(gamma_labels=0.5), learned.embeddings, learned.labels)
    assert lazy.run_epoch() == alone.run_epoch()
    assert lazy.adapter().fingerprint == alone.adapter().fingerprint


def test_choice_and_progress_survive_the_way_through_the_folder(tmp_path: Path) -> None:
    """A restarted run would choose again; the bar would stand still."""
    assert read_choice(tmp_path) is None
    assert read_progress(tmp_path) == TrainingProgress("starting")
    choice = Choice("labels", make_config(), {"labels": 0.5, "map of labels": 0.25}, 3.5)
    write_choice(tmp_path, choice)
    progress = TrainingProgress("training", 2, 4, 0.6, {"total": 0.5})
    write_progress(tmp_path, progress)
    assert read_choice(tmp_path) == choice
    assert read_progress(tmp_path) == TrainingProgress("training", 2, 4, 0.6, {"total": 0.5}, choice)
