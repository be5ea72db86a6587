"""Logs made for measurements: whole, valid, and of a stated mix, as the files of ``ledger export``.

Of *requests*: an award and its settlement each, with six signatures between them (both entries, two asks, attestation
and receipt), among many clients and providers. Of *transfers*: one signature each. Every so many entries a mark.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from tests.unit.rules.world import (
    NOW,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    prices,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, entry_id, sign_entry
from wwwmarket.domain.book import AwardFacts
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Award, Body, Genesis, Grant, Mark, NodeAddress, Settlement, Transfer
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from wwwmarket.ledger.export import files
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.ledger.note import Signer
from wwwmarket.rules.check import Checked
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State

Mix: TypeAlias = Literal["requests", "transfers"]

MARK_EVERY: Final = 64
"""Between what 40 ms and what 250 ms of 500 entries a second come to."""
PROVIDERS: Final = 8
CLIENTS: Final = 64
OPEN_MAX: Final = 32
"""Awards that are open at once."""
ORIGIN: Final = "load.test/log"


class Maker:
    """Writes entries and follows them, without verifying what it has just signed itself."""

    def __init__(self, registry: Registry) -> None:
        people = [KeyPair(number.to_bytes(32, "big")) for number in range(1, 2 + PROVIDERS + CLIENTS)]
        self.operator, self.providers, self.clients = people[0], people[1 : 1 + PROVIDERS], people[1 + PROVIDERS :]
        self.leaves: list[bytes] = []
        self._state = State(registry)
        grants = tuple(Grant(account=person.account, amount_micro=10**12) for person in people)
        self._write(
            self.operator,
            Genesis(
                origin=ORIGIN,
                operator=self.operator.account,
                operator_address=NodeAddress(node=self.operator.account),  # type: ignore[arg-type] - its own node
                contracts=registry.latest,
                grants=grants,
                at_ms=NOW,
            ),
        )

    def make(self, mix: Mix, entries: int) -> None:
        made = self._requests() if mix == "requests" else self._transfers()
        for author, body in made:
            self._write(author, body)
            if len(self.leaves) % MARK_EVERY == MARK_EVERY - 1:
                self._mark()
            if len(self.leaves) >= entries - 1:
                break
        self._mark()

    def note(self) -> bytes:
        tree = Frontier()
        for leaf in self.leaves:
            tree.append(leaf_hash(leaf))
        checkpoint = Checkpoint(origin=ORIGIN, size=tree.size, root=tree.root())
        return sign_checkpoint(Signer(ORIGIN, self.operator), checkpoint)

    def _transfers(self) -> Iterator[tuple[KeyPair, Body]]:
        number = 0
        while True:
            number += 1
            payer, paid = self.clients[number % CLIENTS], self.clients[(number * 7 + 1) % CLIENTS]
            if payer is not paid:
                yield payer, Transfer(to=paid.account, amount_micro=1 + number % 100)

    def _requests(self) -> Iterator[tuple[KeyPair, Body]]:
        for provider in self.providers:
            yield provider, make_offer(sealing_key=provider.account)
        offers = list(self._state.offers())
        opened: list[tuple[KeyPair, int, EntryId, str]] = []
        number = 0
        while True:
            client, first, second = self.clients[number % CLIENTS], number % PROVIDERS, (number + 1) % PROVIDERS
            bid = make_bid(client=client.account, request_digest=f"{number:064x}")
            asks = [
                make_ask(self.providers[place], bid, offers[place], prices=prices(100_000, 25_000, price))
                for place, price in ((first, 300_000), (second, 400_000))
            ]
            listed = self._state.offer(offers[first])
            assert listed is not None, "offers of these logs never end"
            yield client, make_award(bid, asks[0], listed.offer, asks[1])
            opened.append((client, first, self._last, bid.request_digest))
            number += 1
            if len(opened) >= OPEN_MAX:
                buyer, place, award, request = opened.pop(0)
                attestation = make_attestation(self.providers[place], award, request_digest=request)
                yield (
                    buyer,
                    Settlement(award=award, attestation=attestation.signed, receipt=make_receipt(buyer, award).signed),
                )

    def _mark(self) -> None:
        self._write(self.operator, Mark(at_ms=self._state.now_ms + 1, state_root=self._state.root()))

    def _write(self, author: KeyPair, body: Body) -> None:
        seq, prev = self._state.chain_head(author.account)
        entry = sign_entry(author, seq=seq, prev=prev, body=body)
        name = entry_id(entry)
        if not isinstance(body, Mark):
            self._last = name
        self._state.apply(
            Checked(
                id=name,
                account=author.account,
                seq=seq,
                prev=prev,
                body=body,
                facts=_facts(body),
                certifiers=None,
            )
        )
        self.leaves.append(canonical.encode(entry))


def _facts(body: Body) -> AwardFacts | None:
    if not isinstance(body, Award):
        return None
    runner_up = None if body.runner_up is None else digest(body.runner_up.body)
    return AwardFacts(
        bid_digest=digest(body.bid), winner_ask_digest=digest(body.winner.body), runner_up_ask_digest=runner_up
    )


def write_log(mix: Mix, entries: int, folder: Path) -> Path:
    """A log of about so many entries, in files; gives the folder."""
    maker = Maker(Registry.load())
    maker.make(mix, entries)
    return write_files(maker, folder)


def write_files(maker: Maker, folder: Path) -> Path:
    signer = Signer(ORIGIN, maker.operator)
    leaves: Sequence[bytes] = maker.leaves
    opened = open_checkpoint(maker.note(), signer.verifier)
    content = dict(files(opened, lambda start, end: leaves[start:end]))
    for path, data in {**content, "vkey": f"{signer.verifier.text}\n".encode()}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder
