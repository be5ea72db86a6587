"""The ledger as providers follow it: the books, their marks, and who is told."""

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.simulator.books import MARK_US, Books
from wwwmarket.simulator.providing import Provider
from wwwmarket.simulator.world import World


class Ledger:
    """The books, their marks, and who is told."""

    def __init__(self, world: World, keys: list[KeyPair], clients: list[KeyPair]) -> None:
        self._world = world
        self._keys = keys
        self.books = Books(world.loop, world.network, [key.account for key in (*keys, *clients)])
        world.loop.at(0, world.every, MARK_US, self._mark)
        self._providers: dict[str, Provider] = {}

    def follow(self, providers: list[Provider]) -> None:
        self._providers = {provider.key.account: provider for provider in providers}
        self.books.on_closed = lambda name, account: self._providers[account].closed(name)

    def _mark(self) -> None:
        self.books.mark()
        open_awards = self.books.open_awards()
        for provider in self._providers.values():
            if provider.claims.open:
                provider.ledger_time(self.books.state.now_ms, open_awards)

    def earned_micro(self, node: int) -> int:
        return self.books.earned_micro(self._keys[node].account)

    def broken(self) -> str | None:
        return self.books.broken()

    def root(self) -> str:
        return self.books.root()
