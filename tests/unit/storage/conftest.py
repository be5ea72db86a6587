"""A place for a database: a file, or a server's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports.orderers import servers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.foreign(servers.POSTGRES))])
def any_url(request) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("url")
    return request.getfixturevalue("postgres_server").database()
