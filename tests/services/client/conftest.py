import uuid

import pytest


@pytest.fixture
def name() -> str:
    """A name for a collection that no other test uses."""
    return f"c-{uuid.uuid4().hex[:12]}"
