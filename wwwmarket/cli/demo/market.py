"""The demo's market: one founding node and its providers, each a process with its own key, data and address."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.demo.processes import POLL_S, Child
from wwwmarket.cli.serving import Serving
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.gateway.keys import CreatedKey, NewKey
from wwwmarket.gateway.market import OfferList
from wwwmarket.node.service import AccountView, Explanation, NodeStatus, ReceiptView

T = TypeVar("T")

ORIGIN: Final = "demo.market"
BUDGET_MICRO: Final = 5_000_000
SEQUENCES: Final = 2
"""Few, so that a provider at work asks visibly more than an idle one."""
LISTED_TIMEOUT_S: Final = 10.0
SETTLED_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Terms:
    """What one of the demo's providers offers. Prices are credits per million tokens."""

    price_input: str
    price_output: str
    ttft_ms: int
    tpot_ms: int
    ask_floor: str


def terms_of(place: int) -> Terms:
    """The ``place``-th provider's terms: each lists more than the one before, and promises to be quicker."""
    return Terms(
        price_input=str(20 + 5 * place),
        price_output=str(80 + 20 * place),
        ttft_ms=max(100, 1_200 // (place + 1)),
        tpot_ms=max(10, 60 // (place + 1)),
        ask_floor=("0.6", "0.5", "0.8")[place % 3],
    )


@dataclass(frozen=True)
class Market:
    """A market at work. ``names`` are the providers' accounts and what the demo calls them.

    ``key`` pays for the demo's own requests; ``guest`` is for whoever comes along meanwhile.
    """

    node: Serving
    key: CreatedKey
    guest: CreatedKey
    model: str
    names: dict[AccountId, str]
    client: GatewayClient

    @property
    def ledger(self) -> str:
        """The prefix that serves the checkpoint and the tiles."""
        return f"{self.client.base}/ledger"

    def balance_micro(self, account: str) -> MicroCredits:
        """All that an account owns, locked and bonded credits included."""
        balance = self.client.get(f"/v1/accounts/{account}", AccountView).balance
        return balance.available_micro + balance.locked_micro + balance.bonded_micro

    def balances(self) -> dict[str, MicroCredits]:
        """What everybody in the demo owns, by name."""
        accounts = {"node": self.node.account, "client": self.key.account}
        accounts.update((name, account) for account, name in self.names.items())
        return {name: self.balance_micro(account) for name, account in accounts.items()}

    def settled(self, award: str) -> Explanation:
        """Wait until an award is settled, and a checkpoint covers that. Raises Unavailable."""

        def covered() -> Explanation | None:
            told = self.client.get(f"/v1/awards/{award}", Explanation)
            if told.status != "settled":
                return None
            index = self.client.get(f"/v1/receipts/{award}", ReceiptView).settlement_index
            size = self.client.get("/v1/status", NodeStatus).checkpoint_size
            return told if index is not None and index < size else None

        return _until(covered, SETTLED_TIMEOUT_S, f"award {award} was not settled")


@contextlib.contextmanager
def opened(directory: Path, providers: int) -> Iterator[Market]:
    """A market with ``providers`` providers' offers on its ledger, and a funded API key; ended with the block.

    Raises:
        Unavailable: a process did not start, or an offer did not appear, in time.
    """
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Child("node", _node_arguments(), directory / "node"))
        serving = node.ready()
        token = Path(serving.admin_token_file).read_text().strip()
        with GatewayClient(serving.gateway, token) as admin:
            key, guest = (admin.post("/v1/keys", NewKey(name, BUDGET_MICRO), CreatedKey) for name in ("demo", "guest"))
        children = [
            stack.enter_context(
                Child(f"provider-{place + 1}", _provider_arguments(serving, place), directory / f"provider-{place + 1}")
            )
            for place in range(providers)
        ]
        for child in children:
            stack.callback(child.end)  # all are asked to leave before any is waited for
        names = {child.ready().account: child.name for child in children}
        client = stack.enter_context(GatewayClient(serving.gateway))
        yield Market(serving, key, guest, _model(client, names), names, client)


def _model(client: GatewayClient, names: dict[AccountId, str]) -> str:
    """The model on offer, once every provider's offer is listed."""

    def listed() -> str | None:
        offers = client.get("/v1/offers", OfferList).data
        return offers[0].offer.model.name if {one.provider for one in offers} >= set(names) else None

    return _until(listed, LISTED_TIMEOUT_S, "the offers were not listed")


def _until(look: Callable[[], T | None], timeout_s: float, otherwise: str) -> T:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        found = look()
        if found is not None:
            return found
        time.sleep(POLL_S)
    raise Unavailable(f"{otherwise} within {timeout_s:g} s", retry_after_ms=1_000)


def _node_arguments() -> list[str]:
    return ["node", "run", "--origin", ORIGIN, "--port", "0", "--json"]


def _provider_arguments(node: Serving, place: int) -> list[str]:
    terms = terms_of(place)
    return [
        *("provider", "join", "--market", node.gateway, "--engine", "embedded", "--json"),
        *("--price-input", terms.price_input, "--price-output", terms.price_output, "--ask-floor", terms.ask_floor),
        *("--ttft-ms", str(terms.ttft_ms), "--tpot-ms", str(terms.tpot_ms), "--capacity", str(SEQUENCES)),
    ]
