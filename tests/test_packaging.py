"""What a user gets from `pip install` of the wheel, apart from this source tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECK = """
import csr_model
from csr.v1 import search_pb2_grpc
from services.index.store import functions
from services.client.blocking import Client
import csr, orchestration.cli
for module in (csr_model, search_pb2_grpc, functions, orchestration.cli):
    assert module.__file__.startswith(TARGET), module.__file__
assert "csr_write" in functions.functions_source()
print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=240)
    return next(folder.glob("*.whl"))


def test_wheel_holds_everything_that_runs_and_nothing_else(wheel: Path) -> None:
    """Without stubs or Lua the installed services cannot start; tests and benchmarks do not belong on servers."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"csr", "csr_model", "services", "orchestration"}
    wanted = {
        "csr/v1/search_pb2.py",
        "csr/v1/search_pb2_grpc.pyi",
        "services/index/store/lua/write.lua",
        "services/py.typed",
    }
    assert wanted <= set(names)


def test_installed_wheel_imports_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """Imports that only work in a checkout would break every deployment."""
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    code = f"TARGET = {str(target)!r}\nimport sys; sys.path.insert(0, TARGET)\n{CHECK}"
    run = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "works", run.stderr
