from pathlib import Path

import pytest

from csr_model.new_folder import new_folder


def test_appears_whole(tmp_path: Path) -> None:
    """A reader must never see a folder that is still being written."""
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "inner" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_vanishes_when_it_fails(tmp_path: Path) -> None:
    """An interrupted write must leave neither a half folder nor rubbish beside it."""

    def interrupted() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """Two writers, or a writer over an old folder: the first one's files must stay."""
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "old"):
        pass

    def overtaken() -> None:
        with new_folder(tmp_path / "new"):
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "theirs").write_text("x")

    with pytest.raises(FileExistsError):
        overtaken()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["theirs"]
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "new" / "theirs" / "below"):
        pass
