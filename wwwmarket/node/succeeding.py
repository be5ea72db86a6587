"""When the log changes hands: how a node that follows it learns so, and what it gives up for it.

A quorum of the committee signs to whom the log goes, and from which entry on. Nothing final lies beyond that entry. A
node that had followed the old operator further gives that up, submits its own entries among them again, and goes on
with the new operator. It takes nobody's word for it but the quorum's.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import KeyPair, verify_certified
from wwwmarket.domain.errors import Conflict, Forbidden, Refusal, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Body, Certified, Decree, NodeAddress, Resolution, Succession
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node.author import OUTBOX, place_of
from wwwmarket.node.repair import Kept
from wwwmarket.node.replica import Replica
from wwwmarket.node.sequencer import SUPERSEDED, Sequencer
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.mirrors import Mirrors
from wwwmarket.ports.store import Change, LedgerStore, RecordStore
from wwwmarket.rules.check import check
from wwwmarket.rules.succession import Successions, certified_in, read_successions

_log = logging.getLogger("wwwmarket.succeeding")

SUCCESSION: Final = "succession"
"""Kind of the records of successions, by the size from which they begin."""
_STRETCH: Final = 1_024
_RETRY_MS: Final = 1_000


async def stored_successions(records: RecordStore) -> list[Certified[Succession]]:
    kept = [canonical.decode(body, Certified[Succession]) for _, body in await records.scan(SUCCESSION)]
    return sorted(kept, key=lambda one: one.body.size)


def check_successor(certified: Certified[Succession], replica: Replica) -> bool:
    """Whether that is news to a replica, and holds.

    Raises:
        Malformed, Unauthorised: the signatures do not hold.
        Forbidden: they are no quorum of the committee in office at that entry, as far as it is known here.
        Conflict: it is of another log; or more is final here than it begins from: more mirrors lied than a committee
            can carry (``two_quorums``).
    """
    succession = certified.body
    if succession in replica.state.governance.successions:
        return False
    if succession.origin != replica.state.origin:
        raise Conflict(f"that succession is of the log {succession.origin}", reason="other_log")
    committee = replica.committee_at(min(succession.size, replica.size))
    signers = verify_certified(certified) & {member.account for member in committee.members}
    if not 0 < committee.quorum <= len(signers):
        raise Forbidden(f"{len(signers)} of the committee have signed that succession", reason="no_quorum")
    if replica.final_size > succession.size:
        raise Conflict(
            f"{replica.final_size} entries are final here, and a quorum has signed a succession from "
            f"{succession.size} on: more of the committee lied than it can carry",
            reason="two_quorums",
        )
    return True


class Succeeding:
    """What a node knows of its log's changes of hands. ``mirrors`` None: it asks nobody."""

    def __init__(
        self, replica: Replica, records: RecordStore, ledger: LedgerStore, mirrors: Mirrors | None, *, timeout_ms: int
    ) -> None:
        self._replica = replica
        self._records = records
        self._ledger = ledger
        self._mirrors = mirrors
        self._timeout_ms = timeout_ms
        self._stored: list[Certified[Succession]] = []

    async def give_up(self, own: frozenset[AccountId], final: Kept | None) -> None:
        """Before anything is read: what was followed of an old operator beyond a succession is no part of the log."""
        self._stored = await stored_successions(self._records)
        for certified in self._stored:
            keep = 0 if final is None else final.size
            gone = await give_up_tail(certified, self._ledger, self._records, own, keep)
            if gone:
                _log.warning("%d entries were never final, and are no part of the log any more", gone)

    async def hear(self, told: Successions) -> None:
        """What the node was told when it was started. Raises as ``check_successor``, and as ``_follow``."""
        for certified in told:
            if self._replica.size > certified.body.size:
                await self._follow(certified)

    async def look(self) -> None:
        """The operator is gone. Raises Unavailable (``superseded``) where a quorum has given the log to another."""
        if self._mirrors is None or not self._replica.size:
            return
        for certified in await self._ask(self._mirrors):
            if certified not in self._stored:
                await self._follow(certified)

    async def watch(self, clock: Clock, stalled_ms: int) -> None:
        """Look also while the operator goes on, and nothing that it orders becomes final: mirrors that have sworn to a
        successor cosign it no more. Raises as ``look``.
        """
        while True:
            final = self._replica.final_size
            await clock.sleep_until_ms(clock.monotonic_ms() + stalled_ms)
            if self._replica.final_size == final < self._replica.size:
                await self.look()

    def operators(self, named: Sequence[NodeAddress], log: VerifierKey) -> tuple[NodeAddress, ...]:
        """Whom to follow: the operator of the latest succession that is known, then those ``named``, who order ``log``.

        Nobody who goes on under a name that the log has no more: its entries would be given up once again.
        """
        latest = [one.body.operator_address for one in self._stored[-1:]]
        if log.name in {one.body.origin for one in self._stored}:
            return tuple(latest)
        return (*latest, *(address for address in named if address not in latest))

    async def begin(self, key: KeyPair, sequencer: Sequencer) -> None:
        """Order the entry by which the log comes to the operator ``key``, where it is due."""
        for certified in self._stored:
            if (certified.body.operator, certified.body.size) != (key.account, self._replica.size):
                continue
            head = self._replica.state.chain_head(key.account)
            resolution: Certified[Resolution] = Certified(body=certified.body, signatures=certified.signatures)
            entry = signing.sign_entry(key, seq=head.next_seq, prev=head.prev, body=Decree(resolution=resolution))
            await sequencer.submit(signing.verified_own(entry))

    def known(self) -> Successions:
        """Those in the log, and those that are stored and will be."""
        applied = self._replica.successions
        return (*applied, *(one for one in self._stored if one not in applied))

    async def _follow(self, certified: Certified[Succession]) -> None:
        """Raises Unavailable (``superseded``): this node has to begin anew, with the successor; or that it is none."""
        if not check_successor(certified, self._replica):
            return
        await self._records.write([keep_succession(certified)])
        raise Unavailable(
            f"the log has gone to another operator, as {certified.body.successor}: this node begins anew there",
            retry_after_ms=_RETRY_MS,
            reason=SUPERSEDED,
        )

    async def _ask(self, mirrors: Mirrors) -> list[Certified[Succession]]:
        """What the committee's mirrors say, asked all at once, as far as it holds."""

        async def ask(url: str) -> list[Certified[Succession]]:
            try:
                told = read_successions(await mirrors.successions(url, timeout_ms=self._timeout_ms))
                return [one for one in told if check_successor(one, self._replica)]
            except Refusal as refusal:
                _log.debug("%s: %s", url, refusal.message)
                return []

        replica = self._replica
        members = (*replica.judges.members, *replica.state.governance.committee.members)
        answers = await asyncio.gather(*(ask(url) for url in dict.fromkeys(member.url for member in members)))
        return [one for answer in answers for one in answer]


def keep_succession(certified: Certified[Succession]) -> Change:
    return Change(kind=SUCCESSION, key=str(certified.body.size), body=canonical.encode(certified))


async def give_up_tail(
    certified: Certified[Succession], ledger: LedgerStore, records: RecordStore, own: frozenset[AccountId], final: int
) -> int:
    """Cut the log to where ``certified`` begins, or to what is ``final`` where even that is of another tree.

    What the accounts ``own`` wrote beyond goes to the outbox first. Gives how many entries were given up.
    """
    succession, size, tree = certified.body, await ledger.size(), Frontier()
    if size <= succession.size:
        return 0
    while tree.size < succession.size:
        for leaf in await ledger.read(tree.size, min(succession.size, tree.size + _STRETCH)):
            tree.append(leaf_hash(leaf))
    keep = succession.size if tree.root().hex() == succession.root else final
    if keep == succession.size and certified_in(await _body_at(ledger, keep)) == certified:
        return 0
    for start in range(keep, size, _STRETCH):
        await _put_back(await ledger.read(start, start + _STRETCH), records, own)
    await ledger.cut(keep)
    return size - keep


async def _body_at(ledger: LedgerStore, index: int) -> Body:
    (leaf,) = await ledger.read(index, index + 1)
    return check(signing.open_entry(leaf)).body


async def _put_back(leaves: Sequence[bytes], records: RecordStore, own: frozenset[AccountId]) -> None:
    entries = [signing.open_entry(leaf) for leaf in leaves]
    changes = [
        Change(kind=OUTBOX, key=place_of(entry), body=entry.leaf) for entry in entries if entry.entry.account in own
    ]
    if changes:
        await records.write(changes)
