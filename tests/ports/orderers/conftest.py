"""Every orderer there is, behind one way to open it twice, cut it off and bring it back."""

from itertools import count
from typing import Final, Protocol

import pytest

from tests.ports.orderers import servers
from wwwmarket.adapters.orderers import open_orderer
from wwwmarket.ports.store import Orderer
from wwwmarket.simulator.orderer import MemoryOrdering

_ORIGINS: Final = count()


class Orderers(Protocol):
    """One log's order, as several processes reach it."""

    several: bool
    trims: bool

    def open(self, name: str) -> Orderer: ...
    async def depose(self, orderer: Orderer) -> None:
        """End its lease, as if its process had hung; it hears nothing of it."""
        ...

    def cut(self) -> None: ...
    def mend(self) -> None: ...


class Twin:
    several = trims = True

    def __init__(self) -> None:
        self._ordering = MemoryOrdering()

    def open(self, name: str) -> Orderer:
        return self._ordering.orderer(name)

    async def depose(self, _orderer: Orderer) -> None:
        await self._ordering.depose()

    def cut(self) -> None:
        self._ordering.reachable = False

    def mend(self) -> None:
        self._ordering.reachable = True


class Served:
    several = True

    def __init__(self, address: str, cut, mend, *, trims: bool) -> None:
        self._address, self.cut, self.mend, self.trims = address, cut, mend, trims
        self._origin = f"test{next(_ORIGINS)}.market"

    def open(self, name: str) -> Orderer:
        return open_orderer(self._address, origin=self._origin, name=name)

    async def depose(self, orderer) -> None:
        """Its lease is taken back at the server."""
        if self.trims:
            await orderer._client.call("lease/revoke", {"ID": orderer._lease})
        else:
            await orderer._database.writer.submit(
                lambda connection: connection.exec_driver_sql("UPDATE terms SET until_ms = 0, epoch = epoch + 1")
            )


class OneFile:
    several = trims = False

    def __init__(self, address: str) -> None:
        self._address = address

    def open(self, name: str) -> Orderer:
        return open_orderer(self._address, origin="test.market", name=name)


def _postgresql(request) -> Served:
    server = request.getfixturevalue("postgres_server")
    return Served(server.database(), server.stop, server.start, trims=False)


def _etcd(request) -> Served:
    cluster = request.getfixturevalue("etcd_server")
    return Served(cluster.address, lambda: cluster.kill(0), lambda: cluster.start(0), trims=True)


MAKERS: Final = {
    "twin": lambda _request: Twin(),
    "sqlite": lambda request: OneFile(f"sqlite:///{request.getfixturevalue('tmp_path')}/order.db"),
    "postgresql": _postgresql,
    "etcd": _etcd,
}
_FOREIGN: Final = {
    "postgresql": pytest.mark.foreign(servers.POSTGRES),
    "etcd": pytest.mark.foreign(servers.ETCD),
}


def params(*names: str):
    return [pytest.param(name, marks=_FOREIGN.get(name, ())) for name in names]


@pytest.fixture(params=params("twin", "sqlite", "postgresql", "etcd"))
def orderers(request) -> Orderers:
    return MAKERS[request.param](request)


@pytest.fixture(params=params("twin", "postgresql", "etcd"))
def shared(request) -> Orderers:
    """Those that several sequencers share."""
    return MAKERS[request.param](request)


@pytest.fixture(params=params("twin", "etcd"))
def trimming(request) -> Orderers:
    """Those that keep a tail only."""
    return MAKERS[request.param](request)
