"""A place for a database."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"
