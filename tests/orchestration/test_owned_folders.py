"""Folders of processes that end well, that are killed, and that live."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import owned_folders

HOLDS = """
import sys, time
from pathlib import Path
from orchestration.owned_folders import owned_folder
with owned_folder(Path(sys.argv[1])) as folder:
    (folder / "data").write_text("much")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_nothing_for_ever(tmp_path: Path) -> None:
    """Disks would fill with the data of killed trainings; or a running one would lose its data to another."""
    folder = tmp_path / "theirs"
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        owned_folders.sweep(tmp_path)
        assert (folder / "data").exists(), "it lives"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    other = tmp_path / "of nobody"
    other.mkdir()
    owned_folders.sweep(tmp_path)
    assert not folder.exists()
    assert other.exists()


def test_a_folder_goes_with_its_owner_unless_it_is_kept(tmp_path: Path) -> None:
    """A failed job's checkpoints would be gone, or a finished one's would stay."""
    with owned_folders.owned_folder(tmp_path / "gone"):
        pass
    assert not (tmp_path / "gone").exists()
    with pytest.raises(KeyboardInterrupt), owned_folders.owned_folder(tmp_path / "interrupted"):
        raise KeyboardInterrupt
    assert not (tmp_path / "interrupted").exists()
    with owned_folders.owned_folder(tmp_path / "kept") as folder:
        owned_folders.keep(folder)
    owned_folders.sweep(tmp_path)
    assert (tmp_path / "kept").exists()
