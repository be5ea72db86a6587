"""The records of a request's path. What reaches the ledger is an entry's body; the rest is kept in those by digest.

Every record names its kind and version in ``kind``, so that its bytes can never be read as another record.
A field once released never changes meaning: a new version is a new kind.
"""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Raw

from wwwmarket.domain.committee import Committee
from wwwmarket.domain.identity import AccountId, Digest, EntryId, NodeId, SealingKey, Signature
from wwwmarket.domain.keys import Delegation, Guard, Revocation, Rotation
from wwwmarket.domain.model import EngineFingerprint, Model, ModelRequirement
from wwwmarket.domain.quantity import (
    INTEGER_MAX,
    Count,
    MicroCredits,
    Millis,
    PartsPerMillion,
    Prices,
    Slo,
    Tokens,
    Usage,
)
from wwwmarket.domain.shape import Record, Value
from wwwmarket.domain.signed import Certification as Certification
from wwwmarket.domain.signed import Certified as Certified
from wwwmarket.domain.signed import Signed as Signed

Origin: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._/-]{0,127}\Z")]
"""Name of a log (C2SP tlog-checkpoint, origin line)."""
SocketAddress: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9A-Za-z.:\[\]-]{3,64}\Z")]
RuleId: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z]{1,32}/v[1-9][0-9]{0,3}\Z")]
"""A contract of the catalogue and its version, such as ``award/v1``."""
Outcome: TypeAlias = Literal["completed", "cancelled", "failed"]


class NodeAddress(Value):
    """Where a node can be reached: its key, and ``host:port`` hints (the key decides, hints only help)."""

    node: NodeId
    sockets: Annotated[tuple[SocketAddress, ...], Meta(max_length=8)] = ()


class Capacity(Value):
    """What an engine can carry at once: concurrent sequences, and output tokens per second over all of them."""

    sequences: Annotated[int, Meta(ge=1, le=65_536)]
    tokens_per_s: Annotated[int, Meta(ge=1, le=10_000_000)]


class Promise(Value):
    """A latency that the provider promises for a share of its requests."""

    slo: Slo
    percentile_ppm: PartsPerMillion


class Offer(Record, tag="offer/v1"):
    """A provider's standing offer: list prices (its ceilings), capacity, promised latency, where to ask."""

    model: Model
    prices: Prices
    capacity: Capacity
    promise: Promise
    accept_ppm: PartsPerMillion
    bond_micro: MicroCredits
    valid_from_ms: Millis
    valid_until_ms: Millis
    address: NodeAddress
    sealing_key: SealingKey


class Withdrawal(Record, tag="withdrawal/v1"):
    """Takes an offer off the market. Awards already made stand."""

    offer: EntryId


class Bid(Record, tag="bid/v1"):
    """What a client wants and will pay. ``request_digest`` is salted, so the prompt cannot be guessed from it.

    ``input_tokens`` and ``expected_output_tokens`` are estimates, for scores and predictions;
    ``max_input_tokens`` and ``max_output_tokens`` are bounds, for what is locked.
    ``time_value_micro_per_s`` is what a second saved is worth to the client; 0 means the cheapest within the SLO.
    """

    client: AccountId
    model: ModelRequirement
    input_tokens: Tokens
    max_input_tokens: Tokens
    expected_output_tokens: Tokens
    max_output_tokens: Tokens
    max_price_micro: MicroCredits
    time_value_micro_per_s: MicroCredits
    slo: Slo
    request_digest: Digest
    auctioneer: NodeId
    issued_ms: Millis
    expires_ms: Millis


class Ask(Record, tag="ask/v1"):
    """A provider's sealed answer to one bid. Prices are at most the offer's; latencies are predicted."""

    bid: Digest
    offer: EntryId
    prices: Prices
    predicted_ttft_ms: Millis
    predicted_finish_ms: Millis
    slo: Slo
    held_until_ms: Millis


class Award(Record, tag="award/v1"):
    """The client's decision: who serves, at what price, and what is locked for it.

    ``asks`` are the digests of all asks received, winner and runner-up among them, sorted.
    ``locked_micro`` is the most that settlement can take. From ``claim_after_ms`` the provider may settle alone;
    at ``expires_ms`` whatever is not settled is unlocked.
    """

    bid: Bid
    winner: Signed[Ask]
    runner_up: Signed[Ask] | None
    asks: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=64)]
    prices: Prices
    locked_micro: MicroCredits
    claim_after_ms: Millis
    expires_ms: Millis


class AsksReceived(Record, tag="asks-received/v1"):
    """The auctioneer's word to those it asked: these asks of a bid came in time (digests, sorted), and this award of
    the bid is what they came to.

    ``award`` is None where it stands behind none: nobody could win, or the client chose otherwise.
    """

    bid: Digest
    asks: Annotated[tuple[Digest, ...], Meta(max_length=64)]
    award: EntryId | None
    at_ms: Millis


class Attestation(Record, tag="attestation/v1"):
    """The provider's account of one execution. Digests are over the exact bytes that travelled."""

    award: EntryId
    outcome: Outcome
    request_digest: Digest
    response_digest: Digest
    usage: Usage
    engine: EngineFingerprint
    started_ms: Millis
    first_token_ms: Millis | None
    finished_ms: Millis


class Receipt(Record, tag="receipt/v1"):
    """The client's own account of the same execution: its counts, its clock."""

    award: EntryId
    response_digest: Digest
    usage: Usage
    ttft_ms: Millis | None
    latency_ms: Millis
    verdict: Literal["agreed", "disputed"]


class Settlement(Record, tag="settlement/v1"):
    """Asks the contract to pay. Without a receipt only after ``claim_after_ms``, or to release all."""

    award: EntryId
    attestation: Signed[Attestation]
    receipt: Signed[Receipt] | None


class Dispute(Record, tag="dispute/v1"):
    """The client's word that nothing came of its award. The provider may still settle it until the award expires; if
    it does not, its bond pays.
    """

    award: EntryId


TAB_OPEN_MAX: Final = 8
"""Awards at work under one tab at a time: what its provider may have to claim one by one, in one entry of 65,535 bytes.
Who wants more at once opens another tab."""


class TabOpening(Record, tag="tab/v1"):
    """Locks the author's credits for what one provider will serve it until ``expires_ms``."""

    provider: AccountId
    locked_micro: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
    expires_ms: Millis


class TabAward(Record, tag="tab-award/v1"):
    """An award under a tab, signed by the client, never on the ledger. It is named by its digest."""

    tab: EntryId
    number: Count
    award: Award


class TabReceipt(Record, tag="tab-receipt/v1"):
    """One answer, as both sides signed for it: a leaf of the tab's tree, by its canonical bytes."""

    award: Signed[TabAward]
    attestation: Signed[Attestation]
    receipt: Signed[Receipt]


class Voucher(Record, tag="voucher/v1"):
    """The client's word on all answers so far: the tree's ``root`` over ``count`` receipts, what they cost, and what of
    that is paid, refunds taken off.

    Numbers from ``next_number`` on are not given out yet; ``open`` are those below it without a receipt, ascending.
    """

    tab: EntryId
    count: Count
    root: Digest
    cost_micro: MicroCredits
    paid_micro: MicroCredits
    next_number: Count
    open: Annotated[tuple[Count, ...], Meta(max_length=TAB_OPEN_MAX)] = ()


class Unvouched(Value):
    """An answer that its client signed the award of, and no voucher for."""

    award: Signed[TabAward]
    attestation: Signed[Attestation]


class TabSettlement(Record, tag="tab-settlement/v1"):
    """Closes a tab: the client's latest voucher, and what came after it, by ascending number."""

    tab: EntryId
    voucher: Signed[Voucher] | None
    unvouched: Annotated[tuple[Unvouched, ...], Meta(max_length=TAB_OPEN_MAX)] = ()


class Transfer(Record, tag="transfer/v1"):
    """Moves available credits from the entry's author to another account (which exists by being paid)."""

    to: AccountId
    amount_micro: Annotated[int, Meta(ge=1, le=2**53 - 1)]


class Grant(Value):
    account: AccountId
    amount_micro: MicroCredits


class Parameters(Value):
    """What a market's founders choose of its contracts: the fee of each payment, which goes to the operator, and how
    long a bond stays bonded after its offer, so that what it stands for can still come to light.
    """

    fee_ppm: PartsPerMillion = 0
    unbonding_ms: Annotated[int, Meta(ge=0, le=30 * 86_400_000)] = 3_600_000


class Genesis(Record, tag="genesis/v1"):
    """Entry 0: the log's name, its operator, the contracts in force by source hash, the credits to begin with, and the
    committee that makes its history final.
    """

    origin: Origin
    operator: AccountId
    operator_address: NodeAddress
    contracts: Annotated[dict[RuleId, Digest], Meta(max_length=64)]
    grants: Annotated[tuple[Grant, ...], Meta(max_length=256)]
    at_ms: Millis
    committee: Committee = Committee()
    parameters: Parameters = Parameters()


class Mark(Record, tag="mark/v1"):
    """The operator's last entry before a checkpoint: ledger time moves to ``at_ms``, awards due expire.

    ``state_root`` is the root of the state *before* this entry, so that a reader can compare before it trusts.
    """

    at_ms: Millis
    state_root: Digest


class Election(Record, tag="election/v1"):
    """Puts another committee in the place of the one that certifies it."""

    origin: Origin
    number: Count
    committee: Committee


class Upgrade(Record, tag="upgrade/v1"):
    """Puts other contracts in force, all of them named anew, from the entry at ``from_index`` on."""

    origin: Origin
    number: Count
    contracts: Annotated[dict[RuleId, Digest], Meta(min_length=1, max_length=64)]
    from_index: Count


class Mint(Record, tag="mint/v1"):
    """New credits, by the issuer that the committee is."""

    origin: Origin
    number: Count
    to: AccountId
    amount_micro: Annotated[int, Meta(ge=1, le=2**53 - 1)]


class Succession(Record, tag="succession/v1"):
    """Gives the log another name and another operator, from entry ``size`` on. The tree of ``size`` entries, whose root
    is ``root``, stays as it is; whatever else was ordered under the old name does not.

    ``origin`` is the name until now, and ``operator_address`` where the new operator can be reached.
    """

    origin: Origin
    number: Count
    size: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    root: Digest
    successor: Origin
    operator: AccountId
    operator_address: NodeAddress


Resolution: TypeAlias = Election | Upgrade | Mint | Succession
"""What a committee can decide. ``number`` counts the decrees of this log, so that none is followed twice."""


class Decree(Record, tag="decree/v1"):
    """A resolution that a quorum of the committee in office has signed. Whoever has it may write it."""

    resolution: Certified[Resolution]


Body: TypeAlias = (
    Genesis
    | Offer
    | Withdrawal
    | Award
    | Settlement
    | Dispute
    | TabOpening
    | TabSettlement
    | Transfer
    | Rotation
    | Delegation
    | Revocation
    | Guard
    | Mark
    | Decree
)
"""What an entry can say."""


class Entry(Value):
    """A leaf of the ledger: one author, one place in its chain, one body. The ledger never looks into ``body``.

    Signed is ``crypto.signing.entry_id``; two entries of one account with the same ``seq`` are evidence of a fork.
    """

    account: AccountId
    seq: Count
    prev: EntryId
    body: Raw
    signature: Signature


Leaf: TypeAlias = Annotated[str, Meta(max_length=65_535)]
"""The canonical text of an entry."""


class Evidence(Record, tag="evidence/v1"):
    """What shows that an auctioneer left an ask out or outbid it wrongly; ``market.evidence`` says whether it does.

    ``award`` and ``offer`` are entries; the offer's is needed where the award lists the ask.
    """

    ask: Signed[Ask]
    received: Signed[AsksReceived]
    award: Leaf
    offer: Leaf | None


class Inclusion(Record, tag="inclusion/v1"):
    """The operator's promise: the entry stands at ``index``, and a checkpoint will cover it by ``covered_by_ms``."""

    entry: EntryId
    origin: Origin
    index: Count
    covered_by_ms: Millis
