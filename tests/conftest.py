"""What is skipped where, and how long hypothesis looks.

`pytest --hypothesis-profile=search` looks for longer, from another seed each time.
"""

from pathlib import Path

import pytest
from hypothesis import settings

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

settings.register_profile("suite", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    if SHARED_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="needs the real alerts of ../shared/data, a folder that is not here")
    for item in items:
        if "shared_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def shared_data():
    """The folder of real alerts; only for tests marked `shared_data`."""
    return SHARED_DATA
