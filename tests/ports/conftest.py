"""Servers that several ports' suites share; started when the first test asks for them."""

from collections.abc import Iterator

import pytest

from tests.ports.orderers import servers


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[servers.Etcd]:
    with servers.etcd(1) as cluster:
        yield cluster
