"""What the tests of interchange share."""

import os
from pathlib import Path

import pytest

from csr_model import CSRAdapter
from csr_model.interop import export_module
from tests.support.random_adapter import make_adapter

os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub library when it is first imported


@pytest.fixture(scope="session")
def plain_adapter() -> CSRAdapter:
    """An adapter that does not normalise rows."""
    return make_adapter()


@pytest.fixture
def module_folder(plain_adapter: CSRAdapter, tmp_path: Path) -> Path:
    """The plain adapter as a SparseAutoEncoder folder."""
    export_module(plain_adapter, tmp_path / "module")
    return tmp_path / "module"
