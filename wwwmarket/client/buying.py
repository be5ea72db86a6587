"""One purchase by a client's own signature, as conversations with its gateway. Nothing here sends or waits by itself.

The client believes its gateway as little as it can. It signs an award only after these checks, numbered as they are
refused:

1. The gateway is of the log that the client was given.                          (``client_1``)
2. The proposal is for the very bid that was signed.                             (``client_2``)
3. The winner's ask is signed by its provider, and answers this bid.             (``client_3``)
4. It is among the asks that the award lists.                                    (``client_4``)
5. It locks no more than the bid's maximum.                                      (``client_5``)
6. It ends in a time for which a ledger locks.                                   (``client_6``)
7. The promise of inclusion is the log's own word on the very entry.             (``client_7``)
8. The attestation is by the winner, about this award and this request.          (``client_8``)

Whether the winner is the best of the asks and the price is the contract's, every replica of the ledger checks before it
takes the award. What the provider counted is held against the client's own count (``market.recount``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from wwwmarket.client.calls import Call, Conversation, Wait, ask, expect
from wwwmarket.client.request import Wanted
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest, request_digest
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, NotFound, Refusal, Unauthorised, Unavailable
from wwwmarket.domain.identity import Digest, EntryId, NodeId
from wwwmarket.domain.model import ModelName, ModelRequirement, Precision
from wwwmarket.domain.quantity import NO_USAGE, Count, MicroCredits, Millis, Slo, Usage
from wwwmarket.domain.records import Attestation, Award, Bid, Body, Inclusion, Outcome, Receipt, Settlement, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.bundles import decode_bundle
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint, open_checkpoint
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.ledger.proofs import (
    consistency_nodes,
    consistency_proof,
    inclusion_nodes,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileId, TileReader, path_of, tiles_holding
from wwwmarket.market import recount
from wwwmarket.node.service import AccountView, Explanation, GovernanceView, NodeStatus, ReceiptView
from wwwmarket.rules.registry import Registry, Rules

AWARD_LIFE_MS_MAX: Final = 2 * 60 * 60_000
BID_VALIDITY_MS: Final = 30_000
CHAIN_TRIES: Final = 5
CHAIN_WAIT_S: Final = 0.1
ATTESTATION_TRIES: Final = 30
ATTESTATION_WAIT_S: Final = 0.2
"""Six seconds, past the gateway's own patience with a cancelled winner."""
PATIENT: Final = Slo(ttft_ms=10_000, tpot_ms=1_000)


class Terms(Value):
    """What one request may cost and how fast it must be. None: all that the account has."""

    max_price_micro: MicroCredits | None = None
    slo: Slo = PATIENT
    time_value_micro_per_s: MicroCredits = 0
    precisions: tuple[Precision, ...] = ()


class Placed(Value):
    """A purchase under way: its award is signed, promised by the ledger, and to be handed over."""

    wanted: Wanted
    bid: Bid
    salt: bytes
    award: Award
    id: EntryId
    leaf: bytes
    promise: Signed[Inclusion]


class Heard(Value):
    """What the client itself saw of an answer: the digest of its exact bytes, its times, its text."""

    response_digest: Digest
    ttft_ms: Millis | None
    latency_ms: Millis
    arrived: bool


class Bought(Value):
    """A purchase that is over. ``usage`` and ``cost_micro`` are what the client's receipt agrees to, by the contract in
    force; ``settlement`` is the promise that they stand on the ledger, None where there was nothing to settle.
    """

    award: EntryId
    provider: str
    outcome: Outcome
    usage: Usage
    cost_micro: MicroCredits
    recount: recount.Recount | None
    ttft_ms: Millis | None
    latency_ms: Millis
    attestation: Signed[Attestation]
    receipt: Signed[Receipt] | None
    settlement: Signed[Inclusion] | None


class Proof(Value):
    """An entry, proven to be in the tree of a checkpoint that the log signed and that extends all seen before."""

    index: Count
    leaf: bytes
    size: Count


@dataclass
class Buyer:
    """A client's own state: its key, the log that it trusts, its place in its chain, the latest checkpoint that it saw.

    ``log`` None takes the first gateway's word for it, once.
    """

    key: KeyPair
    log: VerifierKey | None = None
    tokenizers: Mapping[ModelName, recount.Splitter] = field(default_factory=dict)
    node: NodeId | None = None
    rules: Rules | None = None
    place: tuple[Count, EntryId] | None = None
    seen: VerifiedCheckpoint | None = None

    def connect(self) -> Conversation[None]:
        """Learn who the gateway is, once. Raises Unauthorised (1), Conflict: contracts that this version lacks."""
        if self.node is not None:
            return
        status = yield from ask(Call(method="GET", path="/v1/status"), NodeStatus)
        told = VerifierKey(name=status.origin, account=status.operator)
        if self.log is None:
            self.log = told
        if told != self.log:
            raise Unauthorised(f"this gateway is of the log {told.text}, not of {self.log.text}", reason="client_1")
        governance = yield from ask(Call(method="GET", path="/v1/governance"), GovernanceView)
        self.rules = Registry.load().rules(governance.governance.contracts)
        self.node = status.node

    def propose(self, wanted: Wanted, terms: Terms, salt: bytes, now_ms: Millis) -> Conversation[Award]:
        """Hold an auction, and check what it came to (2 to 6)."""
        assert self.node is not None, "connect first"
        most = terms.max_price_micro
        if most is None:
            most = (yield from self.account()).balance.available_micro
        bid = Bid(
            client=self.key.account,
            model=ModelRequirement(name=wanted.model, precisions=terms.precisions),
            input_tokens=wanted.bounds.input_tokens,
            max_input_tokens=wanted.bounds.max_input_tokens,
            expected_output_tokens=wanted.bounds.expected_output_tokens,
            max_output_tokens=wanted.bounds.max_output_tokens,
            max_price_micro=most,
            time_value_micro_per_s=terms.time_value_micro_per_s,
            slo=terms.slo,
            request_digest=request_digest(salt, wanted.request),
            auctioneer=self.node,
            issued_ms=now_ms,
            expires_ms=now_ms + BID_VALIDITY_MS,
        )
        signed = canonical.encode({"signed_bid": signing.sign(self.key, bid).signed})
        told = yield from ask(Call(method="POST", path="/v1/bids", body=signed), Explanation)
        check_proposal(bid, told.award, now_ms)
        return told.award

    def write(self, body: Body) -> Conversation[tuple[EntryId, bytes, Signed[Inclusion]]]:
        """Sign the next entry of the chain and have it ordered. One at a time: the caller holds the chain.

        Raises:
            Conflict: another program writes with the same key, again and again.
            Unauthorised: the promise of inclusion is nobody's that counts (7).
        """
        refused: Refusal = Conflict("no entry was tried", reason="chain")
        for _ in range(CHAIN_TRIES):
            if self.place is None:
                view = yield from self.account()
                self.place = view.next_seq, view.prev
            seq, prev = self.place
            own = signing.verified_own(signing.sign_entry(self.key, seq=seq, prev=prev, body=body))
            try:
                promise = yield from ask(Call(method="POST", path="/v1/entries", body=own.leaf), Signed[Inclusion])
            except Conflict as conflict:
                if conflict.reason != "chain":
                    raise
                refused = conflict
                self.place = None
                yield Wait(seconds=CHAIN_WAIT_S)
                continue
            self._check_promise(promise, own.id)
            self.place = seq + 1, own.id
            return own.id, own.leaf, promise
        raise refused

    def _check_promise(self, promise: Signed[Inclusion], entry: EntryId) -> None:
        assert self.log is not None, "connect first"
        said = signing.verify(promise)
        if said.by != self.log.account or (said.body.origin, said.body.entry) != (self.log.name, entry):  # 7
            raise Unauthorised("the promise of inclusion is not this log's word on this entry", reason="client_7")

    def finish(self, placed: Placed, heard: Heard, text: recount.Answer) -> Conversation[Bought]:
        """Find the attestation, check it, and say what this client agrees to; ``settle`` puts that on the ledger.

        Raises:
            Unavailable: there is no attestation: the award expires, and nothing is paid.
            Unauthorised, Forbidden: it is not the winner's word on this execution (8).
        """
        attestation = yield from self._attestation(placed)
        said = attestation.body
        found = None
        if said.outcome != "failed" and heard.arrived:
            found = self._recount(placed, text, said)
        usage = NO_USAGE if found is None else self._bounded(placed.bid, found.agreed)
        agreed = said.response_digest == heard.response_digest and usage == said.usage
        receipt = Receipt(
            award=placed.id,
            response_digest=heard.response_digest,
            usage=usage,
            ttft_ms=heard.ttft_ms,
            latency_ms=heard.latency_ms,
            verdict="agreed" if agreed else "disputed",
        )
        assert self.rules is not None, "connect first"
        failed = said.outcome == "failed"
        return Bought(
            award=placed.id,
            provider=placed.award.winner.signer,
            outcome=said.outcome,
            usage=usage,
            cost_micro=self.rules.settlement.payment(placed.award, said, receipt),
            recount=found,
            ttft_ms=heard.ttft_ms,
            latency_ms=heard.latency_ms,
            attestation=attestation,
            receipt=None if failed else signing.sign(self.key, receipt).signed,
            settlement=None,
        )

    def settle(self, bought: Bought) -> Conversation[Bought]:
        """Pay what was agreed. The caller holds the chain. A provider that was quicker has settled by the same rule."""
        if bought.receipt is None:
            return bought
        due = Settlement(award=bought.award, attestation=bought.attestation, receipt=bought.receipt)
        try:
            _, _, promise = yield from self.write(due)
        except Conflict as conflict:
            if conflict.reason != "not_open":
                raise
            return bought
        return replace(bought, settlement=promise)

    def _attestation(self, placed: Placed) -> Conversation[Signed[Attestation]]:
        for _ in range(ATTESTATION_TRIES):
            try:
                view = yield from ask(Call(method="GET", path=f"/v1/receipts/{placed.id}"), ReceiptView)
            except NotFound:
                yield Wait(seconds=ATTESTATION_WAIT_S)
                continue
            if view.attestation is None:
                break
            checked = signing.verify(view.attestation)
            about = (checked.body.award, checked.body.request_digest)
            if checked.by != placed.award.winner.signer or about != (placed.id, placed.bid.request_digest):  # 8
                raise Forbidden("the attestation is not the winner's word on this execution", reason="client_8")
            return checked.signed
        raise Unavailable("the provider attested nothing: the award expires, and nothing is paid", retry_after_ms=1_000)

    def _recount(self, placed: Placed, text: recount.Answer, said: Attestation) -> recount.Recount:
        splitter = self.tokenizers.get(placed.wanted.model)
        source: recount.Source = "bytes" if splitter is None else "tokenizer"
        counts = recount.count(placed.wanted.prompt, text, splitter or recount.byte_split, source)
        return counts.against(said.usage, cancelled=said.outcome == "cancelled")

    @staticmethod
    def _bounded(bid: Bid, usage: Usage) -> Usage:
        """Nobody can have read or written more than was bid for."""
        read_tokens = min(usage.input_tokens, bid.max_input_tokens)
        return Usage(
            input_tokens=read_tokens,
            cached_input_tokens=min(usage.cached_input_tokens, read_tokens),
            output_tokens=min(usage.output_tokens, bid.max_output_tokens),
        )

    def account(self) -> Conversation[AccountView]:
        return (yield from ask(Call(method="GET", path=f"/v1/accounts/{self.key.account}"), AccountView))

    def prove(self, index: Count) -> Conversation[Proof]:
        """That the entry at ``index`` is in the log, by its latest checkpoint, which must extend the last one seen.

        Raises:
            NotFound: no checkpoint covers it yet.
            Malformed, Unauthorised: the log's files do not prove it: keep them, they are evidence.
        """
        yield from self.connect()
        latest = yield from self._checkpoint()
        size = latest.checkpoint.size
        if index >= size:
            raise NotFound(f"the latest checkpoint covers {size} entries, and not yet entry {index}")
        number, place = divmod(index, TILE_WIDTH)
        bundle = BundleId(number=number, width=min(TILE_WIDTH, size - number * TILE_WIDTH))
        leaves = decode_bundle((yield from self._file(bundle)), width=bundle.width)
        node = yield from self._nodes(inclusion_nodes(index, size), size)
        proof = inclusion_proof(index, size, node)
        verify_inclusion(index, size, leaf_hash(leaves[place]), proof, latest.checkpoint.root)
        return Proof(index=index, leaf=leaves[place], size=size)

    def _checkpoint(self) -> Conversation[VerifiedCheckpoint]:
        assert self.log is not None, "connect first"
        note = expect((yield Call(method="GET", path="/ledger/checkpoint")))
        latest = open_checkpoint(note, self.log)
        old, new = (latest if self.seen is None else self.seen).checkpoint, latest.checkpoint
        if new.size < old.size:
            raise Malformed(f"the log had {old.size} entries, and now says {new.size}")
        node = yield from self._nodes(consistency_nodes(old.size, new.size), new.size)
        verify_consistency(old.size, new.size, old.root, new.root, consistency_proof(old.size, new.size, node))
        self.seen = latest
        return latest

    def _nodes(self, wanted: list[tuple[int, int]], size: Count) -> Conversation[TileReader]:
        tiles: dict[TileId, bytes] = {}
        for tile in tiles_holding(wanted, size):
            tiles[tile] = yield from self._file(tile)
        return TileReader(size, tiles.__getitem__)

    def _file(self, name: TileId | BundleId) -> Conversation[bytes]:
        return expect((yield Call(method="GET", path=f"/ledger/{path_of(name)}")))


def check_proposal(bid: Bid, award: Award, now_ms: Millis) -> None:
    """The checks 2 to 6 of this module."""
    if award.bid != bid:  # 2
        raise Conflict("the proposed award is for another bid", reason="client_2")
    asked = signing.verify(award.winner)
    if asked.body.bid != digest(bid):  # 3
        raise Conflict("the winning ask answers another bid", reason="client_3")
    if digest(asked.body) not in award.asks:  # 4
        raise Conflict("the award does not list the ask that won it", reason="client_4")
    if award.locked_micro > bid.max_price_micro:  # 5
        raise Conflict("the award locks more than the bid allows", reason="client_5")
    if award.expires_ms > now_ms + AWARD_LIFE_MS_MAX:  # 6
        raise Conflict("the award ends later than any ledger admits", reason="client_6")


def order_of(placed: Placed) -> Call:
    """What hands a placed award over; its answer is the engine's, byte for byte."""
    body = canonical.encode(
        {
            "entry": placed.leaf.decode("ascii"),
            "path": placed.wanted.path,
            "request": placed.wanted.request.decode(),
            "salt": placed.salt.hex(),
        }
    )
    return Call(method="POST", path="/v1/awards", body=body)
