"""What nodes say to each other. Each message is the canonical bytes of one record; unknown kinds are refused.

Requests and their answers go over the transport's request door, executions and the following of a ledger over streams.
"""

from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    InsufficientCredit,
    Malformed,
    NotFound,
    Refusal,
    Stale,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from wwwmarket.domain.identity import AccountId, EntryId, SealingKey
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import (
    Ask,
    AsksReceived,
    Attestation,
    Bid,
    Inclusion,
    Receipt,
    Signed,
    SocketAddress,
    TabAward,
    TabOpening,
)
from wwwmarket.domain.shape import Record
from wwwmarket.market.tab import Kept
from wwwmarket.overlay import records as overlay
from wwwmarket.ports.relay import Reservation
from wwwmarket.ports.tracing import TraceParent

OPENING_BYTES_MAX: Final = 1_048_576
"""An award's entry, and the first part of a request in base64: the transport's own limit for a frame."""
FIRST_PART_BYTES_MAX: Final = 262_144
"""Of a request, in an opening."""
TEXT_BYTES_MAX: Final = 32_768
"""To tokenize: a token for every byte, each written in seven, is still one message."""
SUBMITTED_MAX: Final = 32
"""Entries in one message: what an operator verifies before it hears anybody else."""
RECEIPTS_MAX: Final = 32
"""In one message: with the 64 asks that a receipt may list it stays under 160 KiB."""

_Text: TypeAlias = Annotated[str, Meta(max_length=512)]
_Leaf: TypeAlias = Annotated[str, Meta(max_length=canonical.ENTRY_BYTES_MAX)]


class AskRequest(Record, tag="ask-request/v1"):
    offer: EntryId
    bid: Signed[Bid]


class AskAnswer(Record, tag="ask-answer/v1"):
    ask: Signed[Ask]


class Decline(Record, tag="decline/v1"):
    reason: _Text
    retry_after_ms: Millis


class Acknowledge(Record, tag="acknowledge/v1"):
    """From an auctioneer to one that it asked, some time after the auctions: what they received and came to."""

    receipts: Annotated[tuple[Signed[AsksReceived], ...], Meta(max_length=RECEIPTS_MAX)]


class Acknowledged(Record, tag="acknowledged/v1"):
    pass


class Submit(Record, tag="submit/v2"):
    """``leaves`` are the canonical texts of entries, to be ordered as they stand; each is answered for itself."""

    leaves: Annotated[tuple[_Leaf, ...], Meta(min_length=1, max_length=SUBMITTED_MAX)]


class Tokenize(Record, tag="tokenize/v1"):
    """How does the engine behind this model split a text? Answered for nothing, so only so often."""

    model: ModelName
    text: Annotated[str, Meta(max_length=TEXT_BYTES_MAX)]


class Tokenized(Record, tag="tokenized/v1"):
    tokens: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**32)], ...], Meta(max_length=TEXT_BYTES_MAX)]


class ReserveRelay(Record, tag="reserve-relay/v1"):
    """Will you forward datagrams to me? ``direct`` are the sockets at which I can be called without."""

    direct: Annotated[tuple[SocketAddress, ...], Meta(max_length=8)]


class RelayReserved(Record, tag="relay-reserved/v1"):
    """``reservation`` None: the asker is seen at a socket of its own, and needs no relay to be called from here."""

    reservation: Reservation | None


class Refused(Record, tag="refused/v1"):
    code: _Text
    message: _Text
    reason: _Text
    retry_after_ms: Millis = 0


class Promise(Record, tag="promise/v1"):
    """The ledger's, for an entry: from its operator, and from a gateway in an execution's stream."""

    inclusion: Signed[Inclusion]


class Submitted(Record, tag="submitted/v2"):
    """An answer for each entry, in their order."""

    answers: Annotated[tuple[Promise | Refused, ...], Meta(min_length=1, max_length=SUBMITTED_MAX)]


class Execute(Record, tag="execute/v1"):
    """Opens an execution's stream: the award's entry, the gateway's key for sealed frames, and the first of those.

    ``sealed`` opens to the canonical bytes of an ``Order``, a newline, and as much of the request as fits; the rest
    follows in sealed frames. ``promise`` is there when the ledger has already given it.
    """

    leaf: _Leaf
    gateway_key: SealingKey
    sealed: Annotated[bytes, Meta(max_length=393_216)]
    promise: Signed[Inclusion] | None


class Follow(Record, tag="follow/v1"):
    """Opens a stream of the ledger from ``start`` on."""

    start: Count


class CancelExecution(Record, tag="cancel/v1"):
    """In an execution's stream, from the gateway: stop and attest."""

    award: EntryId


class ReceiptGiven(Record, tag="receipt-given/v1"):
    """From the gateway: in an execution's stream, after the attestation; or by itself, where that stream broke."""

    receipt: Signed[Receipt]


class TabOffered(Record, tag="tab-offered/v1"):
    """From a client, before it locks anything: will you work under such a tab?"""

    client: AccountId
    terms: TabOpening


class Vouch(Record, tag="vouch/v1"):
    """From a tab's client: an answer's receipt, and its word on all so far."""

    kept: Kept


class Vouched(Record, tag="vouched/v1"):
    """How many receipts the provider holds now, durably: the client goes on from there."""

    count: Count


class Recall(Record, tag="recall/v1"):
    """From a tab's client that got nothing: what do you say of this award? One that never came is begun no more."""

    award: Signed[TabAward]


class Recalled(Record, tag="recalled/v1"):
    attestation: Signed[Attestation]


class TabEnd(Record, tag="tab-end/v1"):
    """The client's word that it works under this tab no more."""

    tab: EntryId


class EndTab(Record, tag="end-tab/v1"):
    """From a tab's client: settle it, as soon as you have what you are owed."""

    end: Signed[TabEnd]


class ExecuteUnderTab(Record, tag="execute-under-tab/v1"):
    """As ``Execute``, for an award that is between its two sides alone; the ledger has locked for it already."""

    award: Signed[TabAward]
    gateway_key: SealingKey
    sealed: Annotated[bytes, Meta(max_length=393_216)]


class Order(Record, tag="order/v1"):
    """Sealed, from the gateway: what to run; ``request_bytes`` is the length of the request that follows.

    ``traceparent`` is the gateway's span, where it traces: of those asked, the winner alone learns of it.
    """

    path: _Text
    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    request_bytes: Count
    traceparent: TraceParent | None = None


class AttestationGiven(Record, tag="attestation-given/v1"):
    """Sealed, from the provider: the end of the answer. ``engine_status`` and ``engine_body`` pass a refusal on."""

    attestation: Signed[Attestation]
    reason: _Text
    engine_status: Annotated[int, Meta(ge=400, le=499)] | None = None
    engine_body: Annotated[str, Meta(max_length=65_536)] = ""


TabCall: TypeAlias = TabOffered | Vouch | Recall | EndTab
Call: TypeAlias = AskRequest | Acknowledge | Submit | Tokenize | ReserveRelay | ReceiptGiven | TabCall
"""What a node's own parts answer; the overlay answers the rest."""
Request: TypeAlias = Call | overlay.Message
TabAnswer: TypeAlias = Acknowledged | Vouched | Recalled
Answer: TypeAlias = AskAnswer | Decline | Submitted | Tokenized | RelayReserved | TabAnswer | Refused
Opening: TypeAlias = Execute | ExecuteUnderTab | Follow
GatewayFrame: TypeAlias = Promise | CancelExecution | ReceiptGiven

_REFUSALS: dict[str, type[Refusal]] = {
    refusal.code: refusal
    for refusal in (
        Malformed,
        TooLarge,
        Unauthorised,
        Forbidden,
        NotFound,
        Conflict,
        Stale,
        InsufficientCredit,
        Exhausted,
        Unavailable,
    )
}


def read_request(message: bytes) -> Request:
    return canonical.decode(message, cast("type[Request]", Request))


def read_answer(message: bytes) -> Answer:
    return canonical.decode(message, cast("type[Answer]", Answer))


def read_opening(message: bytes) -> Opening:
    return canonical.decode(message, cast("type[Opening]", Opening), bytes_max=OPENING_BYTES_MAX)


def read_gateway_frame(message: bytes) -> GatewayFrame:
    return canonical.decode(message, cast("type[GatewayFrame]", GatewayFrame))


def refused(refusal: Refusal) -> Refused:
    """A refusal as it travels."""
    return Refused(
        code=refusal.code,
        message=refusal.message[:512],
        reason=refusal.reason[:512],
        retry_after_ms=getattr(refusal, "retry_after_ms", 0),
    )


def as_refusal(answer: Refused) -> Refusal:
    """The refusal that travelled; a kind unknown here is a plain one."""
    kind = _REFUSALS.get(answer.code, Refusal)
    if issubclass(kind, Exhausted):
        return kind(answer.message, retry_after_ms=answer.retry_after_ms, reason=answer.reason)
    return kind(answer.message, reason=answer.reason)
