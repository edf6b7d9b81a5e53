"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real models and data sets; tests that need it skip where it is absent."""
    root = Path(os.environ.get("WEFT_TEST_DATA", REPO.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no test data at {root}; set WEFT_TEST_DATA to a copy")
    return root
