"""Every number that is a choice: its unit last in its name, its reason beside it. Presets for local, lan and wan."""

from dataclasses import dataclass, replace
from typing import Final

from wwwmarket.domain.quantity import Slo

_PATIENT: Final = Slo(ttft_ms=10_000, tpot_ms=1_000)


@dataclass(frozen=True, kw_only=True)
class AuctionConfig:
    neighbours_asked: int = 3
    """Few and random beats many and near; with oneself this makes four asks, at any market's size."""
    reserves_asked: int = 5
    """Eight met the objective no oftener (98.46 against 98.49 % of two seeds, a hundred nodes, load 0.9) and took 10.1
    messages a request where five take 8.9."""
    newcomer_ppm: int = 100_000
    """In so many draws one place of the first round is a provider's who has no settlement yet: whoever is new can earn
    a name, and a flood of new names gets no more than this."""
    margin_ppm: int = 100_000
    """So many more are asked when no ask meets the objective with this share of it to spare: rare below saturation."""
    ask_timeout_ms: int = 300
    """One round trip to the slowest neighbour and its engine poll; a late ask is a silent one."""
    patience_factor: int = 4
    """When nobody at all has answered in time, all who could win are asked once more, with so many times the time, if
    the bid's objective leaves it: a market that is silent as a whole is more often a busy machine than a dead one."""
    hold_ms: int = 300
    """How long an ask counts as likely work. Long holds make idle providers look busy: with 1,500 ms over wide-area
    delays the simulator's attainment fell from 98 to 23 %, so it is 400 ms at most, whatever the round trip."""
    bid_validity_ms: int = 30_000
    """Covers the auction, a failover, and the lag of ledger time behind the clock."""
    attempts_max: int = 3
    """The winner and two next-best asks: beyond that, the market has changed and a new auction is honest."""
    slo_default: Slo = _PATIENT
    """A bid without preferences takes the cheapest provider that is not plainly broken."""


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    first_token_slack_ms: int = 2_000
    """Beyond the promised TTFT before the next-best ask is taken: an engine's hiccup is not a dead provider."""
    first_token_slack_percent: int = 50
    """The same as a part of the promised TTFT, where that is more: a forecast over a long queue errs in proportion to
    it, and who is given up at 22 s of 20 has served nobody. A liar gains half of what it promised, at most half of
    the bid's objective.
    """
    promise_timeout_ms: int = 10_000
    """How long a provider lets a finished answer wait for the ledger's promise before it gives the work up."""
    silence_ms: int = 60_000
    """A started answer that says nothing for so long is broken."""
    bound_base_ms: int = 30_000
    bound_factor: int = 5
    """An execution is cut off at ``bound_base_ms`` plus this many times its predicted finish, were it as long as is
    paid for: later it is no answer."""
    claim_after_ms: int = 5_000
    """Added to that bound: then the provider may settle without the client's receipt."""
    claim_window_ms: int = 300_000
    """How long the provider has to claim, before everything unlocks: longer than it takes to start its machine or the
    ledger's operator again, or answers that were delivered in full are never paid for."""
    execution_max_ms: int = 600_000
    """The longest execution that a lock waits for."""
    cancel_patience_ms: int = 5_000
    """How long a cancelled winner has to attest what it delivered; then its own claim is its remedy."""
    request_bytes_max: int = 8 * 1024 * 1024
    response_bytes_max: int = 64 * 1024 * 1024
    output_tokens_default: int = 512
    """What is locked for when the client sets no maximum."""
    piece_interval_ms: int = 10
    """Pieces of one answer that come closer together than this travel as one: no reader sees it, every hop saves it."""
    piece_bytes_max: int = 512 * 1024
    """Sealed frames stay below the transport's limit."""


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    checkpoint_interval_ms: int = 250
    """How often new entries are covered by a checkpoint, and how old ledger time may be while there is traffic."""
    cosigned_interval_ms: int = 40
    """The same where mirrors cosign: an entry waits for half of it before it can become final, and each checkpoint
    costs every mirror one write to its disk."""
    covered_within_ms: int = 5_000
    """What the operator promises for that; 20 times the interval, so that a busy disk is not a broken promise."""
    follow_interval_ms: int = 50
    """How long news for followers are gathered; what is urgent to a provider, the promise, travels with its award."""
    idle_mark_ms: int = 1_000
    """How far ledger time may fall behind while nothing comes but awards are open, so that they can expire."""
    stale_time_ms: int = 5_000
    """How far ledger time may lag behind the clock when an entry is admitted; then it is moved first."""
    batch_entries_max: int = 256
    """Group commit: entries that share one fsync."""
    pending_entries_max: int = 8_192
    """Admitted and not yet durable; beyond it submissions are refused with Retry-After."""


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    time_ahead_max_ms: int = 5_000
    """How far a checkpoint's ledger time may be ahead of the mirror's clock: more than NTP leaves, less than an award's
    times are worth."""
    time_behind_max_ms: int = 60_000
    """How far behind: a busy disk and a slow line, not an hour that an operator would like to have back."""
    waiting_max: int = 16
    """Checkpoints that wait to be judged; one log's operator and a few impatient others."""
    fetch_entries_max: int = 1_024
    """Entries that are fetched at once, 64 MiB at their largest; beyond it a proof authenticates each stretch."""
    recent_max: int = 256
    """Checkpoints of the log that are remembered to compare others of the same size with."""
    fetch_timeout_ms: int = 20_000
    quiet_ms: int = 2_000
    """After so long without being asked a mirror looks at the log's own checkpoint."""


@dataclass(frozen=True, kw_only=True)
class FinalityConfig:
    round_ms: int = 1_000
    """How long a checkpoint is asked for before a newer one takes its place: past a slow mirror's answer. Mirrors never
    go back, so a target that moved faster would find no quorum on any one size."""
    ask_timeout_ms: int = 10_000
    """A mirror that reads and replays a stretch of entries first may take so long, and delays nobody else."""
    retry_first_ms: int = 100
    retry_max_ms: int = 5_000


@dataclass(frozen=True, kw_only=True)
class RelayConfig:
    tunnels: int = 2
    """At as many relays a node behind a router can be called, so that one of them may die while offers name both."""
    look_ms: int = 1_000
    """How often dead tunnels are looked for; a tunnel itself is silent for some seconds before it counts as dead."""
    ask_timeout_ms: int = 2_000
    ask_again_ms: int = 30_000
    """How long a node that did not relay is not asked again."""


@dataclass(frozen=True, kw_only=True)
class TabConfig:
    lock_micro: int = 0
    """What is locked for each provider that one buys from under a tab; 0: every request is settled by itself."""
    accepted: bool = False
    """Whether this provider works under tabs."""
    life_ms: int = 3_600_000
    """How long a tab lasts. What of it is not used stays locked, so not for a day."""
    awards_min: int = 4
    """A tab that covers fewer of the present request is not worth its two entries."""
    share_max: int = 2
    """At most one part in so many of what an account has goes into one tab: the rest buys from others."""
    told_retry_first_ms: int = 250
    told_retry_max_ms: int = 8_000
    declined_ms: int = 600_000
    """How long a provider that works under no tabs is not asked again."""
    known_ms: int = 2_000
    """How long a provider waits for its copy of the ledger to show it a tab that a client already works under."""
    look_ms: int = 1_000
    """How often a provider looks whether a tab is to be settled."""
    settle_before_ms: int = 120_000
    """So long before a tab ends its provider begins to settle it, by its own clock: an idle ledger's time stands still,
    and then jumps."""


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    auction: AuctionConfig = AuctionConfig()
    execution: ExecutionConfig = ExecutionConfig()
    ledger: LedgerConfig = LedgerConfig()
    finality: FinalityConfig = FinalityConfig()
    relay: RelayConfig = RelayConfig()
    tabs: TabConfig = TabConfig()
    offer_validity_ms: int = 24 * 3_600_000
    """An offer outlives a crash of its provider by at most this; it is renewed while the provider serves."""
    client_first_ms: int = 2_000
    """Ledger time that a provider gives the client to settle first, when it could settle as well."""
    claim_retry_ms: int = 5_000
    record_patience_ms: int = 50
    """How long records that bind nobody may wait to share a commit with others."""
    engine_poll_ms: int = 250
    """How old an engine's live state may be; an older one is unknown, and an unknown engine asks nothing."""
    drain_ms: int = 30_000
    """How long a leaving node waits for what it has in flight."""
    catch_up_ms: int = 60_000
    """How long a joining node may take to read the ledger before it says that it cannot."""
    submit_timeout_ms: int = 5_000
    operator_lost_ms: int = 10_000
    """After so long without a word of the operator, or with nothing that becomes final, a node asks the committee's
    mirrors whether the log changed hands: past a restart, and soon enough for people who have just signed."""
    in_flight_max: int = 512
    """Requests that one gateway carries at once; beyond it 429."""


LOCAL: Final = NodeConfig()
LAN: Final = replace(LOCAL, auction=replace(LOCAL.auction, ask_timeout_ms=400, hold_ms=400))
WAN: Final = replace(
    LOCAL,
    auction=replace(LOCAL.auction, ask_timeout_ms=600, hold_ms=400),
    ledger=replace(LOCAL.ledger, checkpoint_interval_ms=1_000, cosigned_interval_ms=250, covered_within_ms=20_000),
)
PRESETS: Final = {"local": LOCAL, "lan": LAN, "wan": WAN}
