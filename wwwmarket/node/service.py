"""What the gateway and the command line may ask of a node. Nothing else of a node is theirs to touch."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Literal, Protocol, TypeAlias

from msgspec import Meta

from wwwmarket.domain.book import Account, Governance, ListedOffer, OpenAward
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.identity import AccountId, Digest, EntryId, NodeId
from wwwmarket.domain.keys import Keys
from wwwmarket.domain.model import ModelName, Precision
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices, Slo, Tokens, Usage
from wwwmarket.domain.records import (
    Attestation,
    Award,
    Bid,
    Certified,
    Evidence,
    Inclusion,
    NodeAddress,
    Receipt,
    Resolution,
    Signed,
)
from wwwmarket.domain.shape import Value
from wwwmarket.domain.standing import Reputation
from wwwmarket.market.allowance import NO_LIMITS, Limits
from wwwmarket.market.auction import JudgedAsk
from wwwmarket.market.outcomes import AskOutcome
from wwwmarket.market.recount import Recount
from wwwmarket.market.tab import TabProof
from wwwmarket.ports.engine import Path, ResponsePiece, ResponseStarted
from wwwmarket.ports.tracing import TraceParent

Finality: TypeAlias = Literal["none", "pending", "final"]
"""Of what stands on the ledger: final once a quorum of the committee has cosigned it; none where there is no committee
that could."""


class Preferences(Value):
    """What a client prefers; None leaves it to the node's defaults."""

    max_price_micro: MicroCredits | None = None
    time_value_micro_per_s: MicroCredits = 0
    slo: Slo | None = None
    precisions: tuple[Precision, ...] = ()
    only: tuple[AccountId, ...] = ()
    ignore: tuple[AccountId, ...] = ()
    allow_fallbacks: bool = True


class Purchase(Value):
    """One request to buy. ``request`` is the client's exact JSON; the rest was read from it at the door.

    ``account`` must be one that this node signs for: an API key's sub-account, or the node's own.
    ``prompt_bytes`` and ``messages`` bound the input tokens; ``max_output_tokens`` None takes the node's default.
    Under a ``name`` it is bought once, whatever crashes in between.
    """

    account: AccountId
    path: Path
    request: bytes
    model: ModelName
    prompt_bytes: Count
    messages: Count
    max_output_tokens: Tokens | None
    preferences: Preferences
    traceparent: TraceParent | None = None
    """The client's own span, of which this request is a part."""
    name: Annotated[str, Meta(max_length=255)] | None = None


class Awarded(Value):
    """The auction is decided and the winner is at work."""

    award: EntryId
    provider: AccountId
    prices: Prices
    locked_micro: MicroCredits
    auction_ms: float
    attempt: Annotated[int, Meta(ge=1)]


class Delivered(Value):
    """The request is over. ``receipt`` names the award's receipt; ``settlement`` is pending until it is ordered."""

    award: EntryId
    provider: AccountId
    outcome: Literal["completed", "cancelled", "failed"]
    usage: Usage
    cost_micro: MicroCredits
    ttft_ms: Millis | None
    latency_ms: Millis


DeliveryEvent: TypeAlias = Awarded | ResponseStarted | ResponsePiece | Delivered


class Explanation(Value):
    """An award with every ask and why it won or lost, and what became of it.

    ``status``: promised (the operator has signed for it), settled, expired, or refused. ``attempts`` names the awards
    of the same request, in order, when an earlier winner failed before its first token. ``recount`` is this node's own
    count beside the provider's.
    """

    id: EntryId
    bid: Bid
    award: Award
    status: Literal["pending", "open", "settled", "expired", "refused"]
    asks: tuple[JudgedAsk, ...]
    attempts: tuple[EntryId, ...]
    auction_ms: float
    ttft_ms: Millis | None
    latency_ms: Millis | None
    cost_micro: MicroCredits | None
    usage: Usage | None
    inclusion: Signed[Inclusion] | None
    finality: Finality = "none"
    recount: Recount | None = None


class ReceiptView(Value):
    """Both sides' accounts of one execution, and the entry that settled it, with its finality."""

    award: EntryId
    receipt: Signed[Receipt] | None
    attestation: Signed[Attestation] | None
    cost_micro: MicroCredits
    settlement_index: Count | None
    finality: Finality = "none"
    proof: str | None = None
    """Where the proof of its settlement is, once there is one: a file for ``wwwmarket verify``."""
    tab: EntryId | None = None
    """Under which it was made, if under one: then its settlement is the tab's."""


class AsksView(Value):
    """What became of this provider's latest asks. ``verdicts`` counts them; ``latest`` are the last ones, the newest
    first; ``evidence`` names the asks about which there is proof of a fault.

    ``median_gap_micro`` is by how much the score of a lost ask was above the winner's, at the median.
    """

    asks: Count
    verdicts: dict[str, Count]
    median_gap_micro: MicroCredits | None
    latest: tuple[AskOutcome, ...]
    evidence: tuple[Digest, ...]


class ApiKeyView(Value):
    """An API key without its secret. ``account`` is its sub-account on the ledger: its budget is that balance."""

    id: str
    name: str
    account: AccountId
    created_ms: Millis
    revoked: bool = False
    limits: Limits = NO_LIMITS


class AccountView(Value):
    """``next_seq`` and ``prev`` are of the chain of the key with that name; ``keys`` says who acts for the account, and
    ``acts_for`` for which account the key with that name does: None for none any more.
    """

    id: AccountId
    balance: Account
    next_seq: Count
    prev: EntryId
    finality: Finality = "none"
    keys: Keys | None = None
    acts_for: AccountId | None = None


class ProviderView(Value):
    """What the ledger says of a provider: what it is known for now, what it offers under which bonds, whose keys speak
    for it. ``reputation`` is None where no contract in force keeps one. ``finality`` is that of all of it.
    """

    id: AccountId
    reputation: Reputation | None
    offers: tuple[EntryId, ...]
    bonded_micro: MicroCredits
    keys: Keys
    ledger_time_ms: Millis
    finality: Finality = "none"


class GovernanceView(Value):
    """Who decides, and what is in force, as this node has read the ledger."""

    origin: str
    ledger_size: Count
    governance: Governance


class NodeStatus(Value):
    """How this node is. ``lag_entries`` is how far its replica is behind what it has heard of."""

    node: NodeId
    account: AccountId
    address: NodeAddress
    origin: str
    operator: AccountId
    is_operator: bool
    ledger_size: Count
    checkpoint_size: Count
    ledger_time_ms: Millis
    offers: Count
    peers: Count
    in_flight: Count
    draining: bool
    started_ms: Millis
    version: str
    sequencers: tuple[NodeAddress, ...] = ()
    """Where the ledger's sequencers are, the leader first, where there are several."""
    final_size: Count = 0
    """Entries that a quorum of the committee has made final."""
    committee: Committee = Committee()
    relays: tuple[NodeId, ...] = ()
    """Who forwards to this node, where a router is in the way."""


class Counters(Value):
    """Totals since start, for metrics; keys are metric names in Prometheus form without the ``wwwmarket_`` prefix."""

    counters: dict[str, float]
    gauges: dict[str, float]
    histograms: dict[str, tuple[tuple[float, int], ...]]


class Service(Protocol):
    """Every method refuses with ``domain.errors`` only."""

    def purchase(self, purchase: Purchase) -> AsyncGenerator[DeliveryEvent]:
        """Auction, award, execution and settlement of one request, streamed.

        Closing the iterator cancels: the provider aborts, and delivered tokens only are settled.

        Raises:
            InsufficientCredit: the account cannot lock the maximum price.
            NotFound: no offer on the ledger is for that model.
            Unavailable: offers exist, but no ask meets the requirements now.
            EngineRefused: the winner's engine refused the request itself; it is passed on and costs nothing.
        """
        ...

    async def auction(self, bid: Signed[Bid]) -> Explanation:
        """Run an auction for a client that signs for itself. The award in the answer is a proposal: the client signs
        it as an entry and hands it to ``accept``.
        """
        ...

    def accept(self, leaf: bytes, path: Path, request: bytes, salt: bytes) -> AsyncGenerator[DeliveryEvent]:
        """Execute an award that its client has signed (the canonical bytes of the entry), after ``auction``.

        The client receives the attestation through ``receipt`` and signs the settlement itself, or leaves it to the
        provider's own claim.
        """
        ...

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...]:
        """The token ids of ``text``, nothing added to it, from an engine behind that model. It costs nothing.

        Raises:
            NotFound: no offer on the ledger is for that model.
            TooLarge: more than 32 KiB of text.
            Exhausted: providers give only so many a second.
            Unavailable: none of them can say.
        """
        ...

    async def submit(self, leaf: bytes) -> Signed[Inclusion]:
        """Order an entry, given as its canonical bytes. Idempotent: the same bytes get the same promise."""
        ...

    async def explain(self, award: EntryId) -> Explanation: ...
    async def receipt(self, award: EntryId) -> ReceiptView: ...
    async def tab_proof(self, award: EntryId) -> TabProof:
        """That an award is among those that its tab's settlement pays for, or the latest voucher while it is open.

        Raises:
            NotFound: it was made under no tab, or is not among them.
        """
        ...

    async def recent_awards(self, limit: int) -> Sequence[Explanation]: ...
    def asks(self, limit: int) -> AsksView:
        """Why this provider's asks won or lost. Raises NotFound where it sells nothing."""
        ...

    async def evidence(self, ask: Digest) -> Evidence:
        """The proof that an ask was left out or outbid wrongly. Raises NotFound."""
        ...

    def account(self, account: AccountId) -> AccountView: ...
    def provider(self, account: AccountId) -> ProviderView:
        """Raises NotFound where the ledger knows nothing of such a provider."""
        ...

    def offers(self, model: str | None = None) -> Sequence[tuple[EntryId, ListedOffer]]: ...
    def offer_finality(self, offer: EntryId) -> Finality:
        """Of an offer as it is listed now."""
        ...

    def finality(self, index: Count) -> Finality:
        """Of the entry at ``index``."""
        ...

    def open_awards(self, account: AccountId | None = None) -> Sequence[tuple[EntryId, OpenAward]]: ...

    async def create_key(
        self, name: str, budget_micro: MicroCredits, limits: Limits = NO_LIMITS
    ) -> tuple[str, ApiKeyView]:
        """A new API key (``sk-…``, shown this once and kept hashed) whose sub-account is paid ``budget_micro`` from the
        node's account.
        """
        ...

    async def keys(self) -> Sequence[ApiKeyView]: ...
    async def rotate_key(self, key_id: str) -> tuple[str, ApiKeyView]:
        """Another secret for the same key, budget and limits; the old one is refused from then on."""
        ...

    async def limit_key(self, key_id: str, limits: Limits) -> ApiKeyView: ...
    async def revoke_key(self, key_id: str) -> ApiKeyView:
        """What the key has left is returned to the node's account."""
        ...

    async def pay(self, to: AccountId, amount_micro: MicroCredits, name: str | None = None) -> AccountView:
        """Transfer from the node's account, once for each ``name``; the node's account after it.

        Raises:
            Malformed: nothing to pay, to oneself, or no name.
            Conflict: the name was used for another payment.
            InsufficientCredit, Conflict: as the ledger refuses a transfer.
        """
        ...

    async def top_up(self, key_id: str, amount_micro: MicroCredits, name: str | None = None) -> ApiKeyView:
        """From the node's account to the key's. The same ``name`` moves credits once, whatever is retried."""
        ...

    async def refund(self, key_id: str, amount_micro: MicroCredits, name: str | None = None) -> ApiKeyView:
        """From the key's account back to the node's, as ``top_up``."""
        ...

    def authenticate(self, secret: str) -> ApiKeyView:
        """Raises Unauthorised."""
        ...

    def is_admin(self, secret: str) -> bool:
        """Whether ``secret`` is this node's own admin token (in its data directory, mode 0600)."""
        ...

    def governance(self) -> GovernanceView: ...
    async def decree(self, resolution: Certified[Resolution]) -> Signed[Inclusion]:
        """Write what a quorum of the committee has signed, as this node's entry. Refused as the contracts say."""
        ...

    def status(self) -> NodeStatus: ...
    def counters(self) -> Counters: ...

    def verifier_key(self) -> str:
        """The log's C2SP verifier key (``name+id+key``)."""
        ...

    def successions(self) -> bytes:
        """How the log changed hands: canonical bytes of what quorums of its committee signed, oldest first."""
        ...

    async def checkpoint(self) -> bytes:
        """The latest checkpoint, a C2SP signed note. Raises Unavailable until there is one."""
        ...

    def final_checkpoint(self) -> bytes:
        """The latest checkpoint that is final, with the cosignatures that make it so.

        Raises NotFound until there is one, as there never is without a committee.
        """
        ...

    async def tile(self, path: str) -> bytes:
        """The bytes of ``tile/…`` (C2SP tlog-tiles), hash tiles and entry bundles, full and partial.

        Raises NotFound where the latest checkpoint has no such tile, Malformed where it is no tile's path.
        """
        ...

    async def entry_proof(self, index: Count) -> bytes:
        """A proof file (C2SP tlog-proof) of an entry. Raises NotFound, or Unavailable until it is final."""
        ...

    async def account_proof(self, account: AccountId) -> bytes:
        """A proof file of a balance, at the latest final checkpoint. Raises Unavailable until there is one."""
        ...

    async def wait_settled(self, award: EntryId, timeout_ms: int) -> bool:
        """Wait until the award is no longer open on this node's replica."""
        ...
