"""What the golden vectors of contracts are made of. Run as a program, it writes vectors for files that do not exist.

A released version's file is never written again: to add a version, add its cases and its name.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    DictBook,
    consent,
    facts_of,
    key,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
    make_unvouched,
    make_voucher,
    named,
    prices,
    usage,
)
from wwwmarket.crypto import canonical
from wwwmarket.domain.book import (
    Account,
    AccountRow,
    AwardFacts,
    AwardRow,
    KeysRow,
    ListedOffer,
    OfferRow,
    OpenAward,
    OpenTab,
    Row,
    StandingRow,
    TabRow,
    UnbondingRow,
    UnvouchedFacts,
)
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.keys import Delegation, Guard, Keys, Revocation, Rotation
from wwwmarket.domain.model import Model, ModelRequirement
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE, Slo
from wwwmarket.domain.records import Award, Body, Dispute, Parameters, TabOpening, TabSettlement, Transfer, Withdrawal
from wwwmarket.domain.shape import Value
from wwwmarket.rules.registry import family_of

FOLDER = Path(__file__).parent
ENTRY = named("the entry")
OFFER, RIVAL_OFFER, AWARD = named("the offer"), named("the rival's offer"), named("the award")
DAY_MS = 86_400_000
RICH = Account(available_micro=1_000_000)
NEXT_KEY, MACHINE, RECOVERY, STOLEN = map(key, ("the next key", "a machine", "the recovery key", "a replaced key"))


class Case(Value):
    """A contract's input, and what followed from it: rows, or a refusal's code and reason."""

    name: str
    book: DictBook
    author: AccountId
    entry: EntryId
    body: Body
    facts: AwardFacts | tuple[UnvouchedFacts, ...] | None = None
    rows: list[dict[str, Any]] | None = None
    refusal: tuple[str, str] | None = None


class Vectors(Value):
    contract: str
    sha256: str
    cases: list[Case]


def follow(contract: str, case: Case) -> Case:
    """The case with what follows from it today."""
    rule = getattr(REGISTRY.rules({contract: REGISTRY.hashes[contract]}), family_of(contract))
    facts = () if case.facts is None else (case.facts,)
    try:
        rows = rule.apply(case.book, case.author, case.entry, case.body, *facts)
    except Refusal as refusal:
        return replace(case, rows=None, refusal=(refusal.code, refusal.reason))
    return replace(case, rows=[_plain(row) for row in rows], refusal=None)


def _plain(row: Row) -> dict[str, Any]:
    table = {
        AccountRow: "account",
        OfferRow: "offer",
        AwardRow: "award",
        UnbondingRow: "unbonding",
        KeysRow: "keys",
        TabRow: "tab",
        StandingRow: "standing",
    }[type(row)]
    return {"table": table} | msgspec.json.decode(canonical.encode(row))


def account_cases() -> Iterator[Case]:
    def transfer(name: str, amount: int, *, to=PROVIDER.account, source=RICH, target=None) -> Case:
        accounts = {CLIENT.account: source} | ({PROVIDER.account: target} if target else {})
        book = DictBook(now_ms=NOW, accounts=accounts)
        body = Transfer(to=to, amount_micro=amount)
        return Case(name=name, book=book, author=CLIENT.account, entry=ENTRY, body=body)

    yield transfer("a part moves to an account that is new", 1)
    yield transfer("all moves to an account that has some", 1_000_000, target=Account(locked_micro=5))
    yield transfer("all the credits that can be move", INTEGER_MAX, source=Account(available_micro=INTEGER_MAX))
    yield transfer("to itself", 1, to=CLIENT.account)
    yield transfer("one more than is available", 1_000_001)
    yield transfer("what is locked and bonded", 1, source=Account(locked_micro=9, bonded_micro=9))
    full = Account(available_micro=INTEGER_MAX - 2, locked_micro=1, bonded_micro=1)
    yield transfer("more than the receiver can hold", 1, target=full)


def offer_cases() -> Iterator[Case]:
    def offer(name: str, *, listed: int = 0, account: Account = RICH, **changes) -> Case:
        offers = {
            named(f"offer {i}"): ListedOffer(provider=PROVIDER.account, offer=make_offer()) for i in range(listed)
        }
        book = DictBook(now_ms=NOW, accounts={PROVIDER.account: account}, offers=offers)
        body = make_offer(**changes)
        return Case(name=name, book=book, author=PROVIDER.account, entry=ENTRY, body=body)

    def withdrawal(name: str, author: AccountId, offer: EntryId = OFFER) -> Case:
        book = DictBook(
            now_ms=NOW,
            accounts={PROVIDER.account: Account(available_micro=1, locked_micro=2, bonded_micro=5_003)},
            offers={OFFER: ListedOffer(provider=PROVIDER.account, offer=make_offer())},
        )
        return Case(name=name, book=book, author=author, entry=ENTRY, body=Withdrawal(offer=offer))

    yield offer("listed, and its bond bonded")
    yield offer("listed without a bond", bond_micro=0, account=Account())
    yield offer("valid for 30 days, from in 30 days", valid_from_ms=NOW + 30 * DAY_MS, valid_until_ms=NOW + 60 * DAY_MS)
    yield offer("valid for one more millisecond", valid_from_ms=NOW - DAY_MS, valid_until_ms=NOW + 1)
    yield offer("its provider's sixty-fourth is listed", listed=63)
    yield offer("valid for no time", valid_from_ms=NOW + 5, valid_until_ms=NOW + 5)
    yield offer("ends before it starts", valid_from_ms=NOW + DAY_MS, valid_until_ms=NOW + 1)
    yield offer("valid for more than 30 days", valid_until_ms=NOW + 30 * DAY_MS + 1)
    yield offer("starts too far ahead", valid_from_ms=NOW + 30 * DAY_MS + 1, valid_until_ms=NOW + 31 * DAY_MS)
    yield offer("over by now", valid_from_ms=NOW - DAY_MS, valid_until_ms=NOW)
    yield offer("cached input dearer than input", prices=prices(10, 11, 10))
    yield offer("its provider's sixty-fifth", listed=64)
    yield offer("a bond that is not available", account=Account(available_micro=4_999, bonded_micro=9_999))
    yield withdrawal("withdrawn, and its bond returned", PROVIDER.account)
    yield withdrawal("an offer that is not listed", PROVIDER.account, RIVAL_OFFER)
    yield withdrawal("another's offer", RIVAL.account)


def offer_v2_cases() -> Iterator[Case]:
    yield from offer_cases()
    penalised = ListedOffer(provider=PROVIDER.account, offer=make_offer(), penalised_micro=4_000)
    spent = ListedOffer(provider=PROVIDER.account, offer=make_offer(), penalised_micro=5_000)
    for name, listed, unbonding_ms in (
        ("withdrawn, and what is left of its bond returns later", penalised, 3_600_000),
        ("withdrawn with nothing left of its bond", spent, 3_600_000),
        ("withdrawn where bonds return with the next mark", penalised, 0),
    ):
        book = DictBook(now_ms=NOW, offers={OFFER: listed}, parameters=Parameters(unbonding_ms=unbonding_ms))
        yield Case(name=name, book=book, author=PROVIDER.account, entry=ENTRY, body=Withdrawal(offer=OFFER))


def auction(name: str, *, case=None, bid=None, ask=None, rival=None, offer=None, award=None, signers=None) -> Case:
    """An award in which everything fits, but for the changes to each part; ``rival=False`` leaves the rival out."""
    the_bid = make_bid(**(bid or {}))
    the_offer = make_offer(**(offer or {}))
    first, second = signers or (PROVIDER, RIVAL)
    winner = make_ask(first, the_bid, OFFER, **(ask or {}))
    runner_up = None
    if rival is not False:
        dearer = {"prices": prices(150_000, 40_000, 500_000)} | (rival or {})
        runner_up = make_ask(second, the_bid, RIVAL_OFFER if second is not PROVIDER else OFFER, **dearer)
    body = make_award(the_bid, winner, the_offer, runner_up, **(award or {}))
    listed = {
        OFFER: ListedOffer(provider=PROVIDER.account, offer=the_offer),
        RIVAL_OFFER: ListedOffer(provider=RIVAL.account, offer=make_offer()),
    }
    book = DictBook(now_ms=NOW, accounts={CLIENT.account: RICH}, offers=listed)
    made = Case(name=name, book=book, author=CLIENT.account, entry=ENTRY, body=body, facts=facts_of(body))
    return replace(made, **(case or {}))


def award_cases() -> Iterator[Case]:
    yield from _cleared_awards()
    yield from _refused_bids()
    yield from _refused_asks()
    yield from _refused_auctions()


def _cleared_awards() -> Iterator[Case]:
    yield auction("paid what would have tied with the runner-up")
    yield auction("paid its offer where there is no runner-up", rival=False)
    yield auction(
        "paid at most its offer", rival={"predicted_finish_ms": 16_000, "prices": prices(200_000, 0, 600_000)}
    )
    yield auction(
        "a slower rival's time is worth money",
        bid={"time_value_micro_per_s": 100},
        rival={"predicted_finish_ms": 6_500},
    )
    yield auction("paid less where the maximum price is near", bid={"max_price_micro": 300}, rival=False)
    yield auction("paid its ask where the maximum price is just that", bid={"max_price_micro": 270}, rival=False)
    yield auction("tied, and first by digest", rival=_tie())
    yield auction("nothing to lock", ask={"prices": prices(0, 0, 0)}, offer={"prices": prices(0, 0, 0)})
    yield auction(
        "one of the accepted precisions", bid={"model": ModelRequirement(name="qwen3-8b", precisions=("fp8", "bf16"))}
    )
    latest = {"claim_after_ms": NOW, "expires_ms": NOW + 70 * 60_000}
    yield auction("claimable at once, open as long as can be", award=latest)
    just_enough = Account(available_micro=_fitting().locked_micro)
    yield auction("all that the client has", case={"book": _book(make_offer(), client=just_enough)})


def _refused_bids() -> Iterator[Case]:
    yield auction("by another than the client", case={"author": STRANGER.account})
    yield auction("of a bid that expired", bid={"expires_ms": NOW - 1})
    yield auction("more input expected than allowed", bid={"input_tokens": 1_201})
    yield auction("more output expected than allowed", bid={"expected_output_tokens": 501})
    yield auction("claimable before now", award={"claim_after_ms": NOW - 1})
    yield auction("never claimable", award={"claim_after_ms": NOW + 120_000})
    yield auction("open for too long", award={"expires_ms": NOW + 70 * 60_000 + 1})


def _refused_asks() -> Iterator[Case]:
    yield auction("the winner's ask answers another bid", ask={"bid": "3" * 64})
    yield auction("the runner-up's ask answers another bid", rival={"bid": "3" * 64})
    asks = _fitting().asks
    yield auction("asks out of order", award={"asks": asks[::-1]})
    yield auction("an ask twice", award={"asks": (asks[0], *asks)})
    facts = facts_of(_fitting())
    yield auction("the winner's ask is not listed", award={"asks": (facts.runner_up_ask_digest,)})
    yield auction("the runner-up's ask is not listed", award={"asks": (facts.winner_ask_digest,)})
    yield auction("the winner's offer is not listed", case={"book": DictBook(now_ms=NOW)})
    without = {OFFER: ListedOffer(provider=PROVIDER.account, offer=make_offer())}
    yield auction("the runner-up's offer is not listed", case={"book": DictBook(now_ms=NOW, offers=without)})
    yield auction("the winner's ask is signed by another", signers=(STRANGER, RIVAL))
    yield auction("the runner-up's ask is signed by another", signers=(PROVIDER, STRANGER))
    yield auction("an offer that starts after the bid", offer={"valid_from_ms": NOW + 60_001})
    model = make_offer().model
    yield auction("of another model", bid={"model": ModelRequirement(name="qwen3-4b")})
    yield auction("of another precision", bid={"model": ModelRequirement(name="qwen3-8b", precisions=("fp8",))})
    small = Model(name=model.name, revision=model.revision, precision=model.precision, context_tokens=1_699)
    yield auction("a context too small by one", offer={"model": small})
    for field in ("input", "cached", "output"):
        dear = {"input": 200_000, "cached": 25_000, "output": 300_000}
        dear[field] = {"input": 200_001, "cached": 50_001, "output": 600_001}[field]
        yield _unclearable(f"asks more than its offer for {field}", prices(*dear.values()))
    yield auction("asks more for cached input than for input", ask={"prices": prices(100, 101, 300_000)})
    yield auction("predicts its first token too late", ask={"predicted_ttft_ms": 1_001})
    yield auction("predicts its finish too late", bid={"slo": Slo(ttft_ms=999, tpot_ms=16)}, rival=False)
    yield auction("the runner-up predicts its finish too late", rival={"predicted_finish_ms": 16_001})
    yield auction("asks for more than the maximum price", bid={"max_price_micro": 269})
    yield auction("the runner-up asks for more than the maximum price", bid={"max_price_micro": 429})


def _refused_auctions() -> Iterator[Case]:
    yield auction("one provider is winner and runner-up", signers=(PROVIDER, PROVIDER))
    yield auction("the runner-up is cheaper", rival={"prices": prices(99_000, 25_000, 300_000)})
    yield auction("tied, and second by digest", rival=_tie(first=False))
    fitting = _fitting()
    for field in fitting.prices.__struct_fields__:
        for step in (-1, 1):
            other = replace(fitting.prices, **{field: getattr(fitting.prices, field) + step})
            yield auction(f"{field} {step:+}", award={"prices": other})
    yield auction("locked a little more", award={"locked_micro": fitting.locked_micro + 1})
    yield auction("locked a little less", award={"locked_micro": fitting.locked_micro - 1})
    poor = Account(available_micro=fitting.locked_micro - 1, locked_micro=999, bonded_micro=999)
    yield auction("a client who has too little", case={"book": _book(make_offer(), client=poor)})


def _fitting() -> Award:
    award = auction("").body
    assert isinstance(award, Award)
    return award


def _book(offer, client: Account) -> DictBook:
    listed = {
        OFFER: ListedOffer(provider=PROVIDER.account, offer=offer),
        RIVAL_OFFER: ListedOffer(provider=RIVAL.account, offer=make_offer()),
    }
    return DictBook(now_ms=NOW, accounts={CLIENT.account: client}, offers=listed)


def _tie(*, first: bool = True) -> dict[str, Any]:
    """Changes to the rival's ask by which it ties with the winner's, its digest being the larger (or the smaller)."""
    for held_ms in range(1_000):
        changes = {"prices": prices(100_000, 25_000, 300_000), "held_until_ms": NOW + held_ms}
        case = auction("", rival=changes)
        assert case.facts is not None
        assert case.facts.runner_up_ask_digest is not None
        if (case.facts.winner_ask_digest < case.facts.runner_up_ask_digest) == first:
            return changes
    raise AssertionError


def _unclearable(name: str, dear) -> Case:
    """An ask above its offer has no clearing: the award is made with a dearer offer than the listed one."""
    dearer = prices(900_000, 900_000, 900_000)
    return auction(name, ask={"prices": dear}, offer={"prices": dearer}, case={"book": _book(make_offer(), RICH)})


def settlement_cases() -> Iterator[Case]:
    yield from _paid()
    yield from _refused_settlements()


def settlement(
    name: str, *, author=CLIENT, now_ms=NOW, attested=None, received=None, by=PROVIDER, to=CLIENT, own=False
) -> Case:
    """A settlement in which everything fits, but for the changes; ``received=False`` leaves the receipt out."""
    award = _fitting()
    opened = OpenAward(
        client=CLIENT.account,
        provider=CLIENT.account if own else PROVIDER.account,
        award=award,
        awarded_ms=NOW - 10,
    )
    book = DictBook(
        now_ms=now_ms,
        accounts={CLIENT.account: Account(available_micro=7, locked_micro=award.locked_micro + 1, bonded_micro=3)},
        awards={AWARD: opened},
    )
    attestation = make_attestation(CLIENT if own else by, AWARD, **(attested or {}))
    receipt = None if received is False else make_receipt(to, AWARD, **(received or {}))
    body = make_settlement(AWARD, attestation, receipt)
    return Case(name=name, book=book, author=author.account, entry=ENTRY, body=body)


def settlement_v2_cases() -> Iterator[Case]:
    yield from settlement_cases()
    yield from _late()
    yield from _fees()
    yield from _disputes()
    yield from _with_keys()


def _late() -> Iterator[Case]:
    """The bid's objective: first token within 1,000 ms, 50 ms a token: 13,500 ms for 250 tokens; predicted 2,500 ms or
    so, at 10 micro-credits a second.
    """
    yield settlement("as late as is nobody's fault", received={"ttft_ms": 2_100})
    yield settlement("the first token late by a quarter", received={"ttft_ms": 2_350})
    yield settlement("the end late by a tenth", received={"latency_ms": 17_200})
    yield settlement("late by more than half", received={"ttft_ms": 9_000, "latency_ms": 60_000})
    yield settlement("in time, and later than predicted", received={"latency_ms": 11_000})
    yield settlement("no first token is not a late one", received={"ttft_ms": None})
    yield settlement(
        "late, and failed", attested={"outcome": "failed", "usage": NO_USAGE}, received={"latency_ms": 99_000}
    )


def _fees() -> Iterator[Case]:
    for name, ppm, own in (
        ("a fee of a tenth", 100_000, False),
        ("a fee of less than one", 1, False),
        ("a fee of everything", 1_000_000, False),
        ("no fee on one's own work", 100_000, True),
    ):
        case = settlement(name, own=own)
        yield replace(case, book=replace(case.book, parameters=Parameters(fee_ppm=ppm)))
    case = settlement("the operator is the client")
    yield replace(case, book=replace(case.book, parameters=Parameters(fee_ppm=500_000), operator=CLIENT.account))
    case = settlement("the operator is the provider")
    yield replace(case, book=replace(case.book, parameters=Parameters(fee_ppm=500_000), operator=PROVIDER.account))


def _disputes() -> Iterator[Case]:
    def dispute(name: str, now_ms: int, *, author=CLIENT, award=AWARD, **changes) -> Case:
        case = settlement(name, now_ms=now_ms)
        opened = replace(case.book.awards[AWARD], **changes)
        book = replace(case.book, awards={AWARD: opened})
        return replace(case, book=book, author=author.account, body=Dispute(award=award))

    claim_ms, expires_ms = _fitting().claim_after_ms, _fitting().expires_ms
    yield dispute("disputed as early as can be", claim_ms)
    yield dispute("disputed as late as can be", expires_ms - 30_000)
    yield dispute("disputed too early", claim_ms - 1)
    yield dispute("disputed too late", expires_ms - 29_999)
    yield dispute("disputed twice", claim_ms, disputed_ms=claim_ms)
    yield dispute("disputed by the provider", claim_ms, author=PROVIDER)
    yield dispute("an award that is not open is disputed", claim_ms, award=ENTRY)
    under = settlement("settled under a dispute")
    opened = replace(under.book.awards[AWARD], disputed_ms=claim_ms)
    yield replace(under, book=replace(under.book, awards={AWARD: opened}))


def _paid() -> Iterator[Case]:
    alone = partial(settlement, author=PROVIDER, now_ms=NOW + 60_000, received=False)
    yield settlement("agreed, settled by the client")
    yield settlement("agreed, settled by the provider", author=PROVIDER)
    yield settlement(
        "the smaller counts and the larger cache", received={"usage": usage(900, 500, 200), "verdict": "disputed"}
    )
    yield settlement("the provider counts less", attested={"usage": usage(800, 0, 100)})
    yield settlement("the client counts nothing", received={"usage": NO_USAGE, "verdict": "disputed"})
    yield settlement("cancelled, for what was delivered", attested={"outcome": "cancelled"})
    yield settlement(
        "more cache than input", attested={"usage": usage(100, 900, 0)}, received={"usage": usage(100, 900, 0)}
    )
    most = usage(2**32, 0, 2**32)
    yield settlement("counts beyond the bounds", attested={"usage": most}, received={"usage": most})
    yield settlement("failed, with a receipt", attested={"outcome": "failed", "usage": NO_USAGE})
    yield settlement("failed, without one, at once", attested={"outcome": "failed", "usage": NO_USAGE}, received=False)
    yield alone("the provider alone, once it may")
    yield alone("the provider alone, beyond the bounds", attested={"usage": most})
    yield settlement("a client who is its own provider", own=True)


def _refused_settlements() -> Iterator[Case]:
    case = settlement("an award that is not open")
    yield replace(case, book=DictBook(now_ms=NOW))
    yield settlement("by a stranger", author=STRANGER)
    yield settlement("attested by another", by=STRANGER)
    yield settlement("attested about another award", attested={"award": OFFER})
    yield settlement("attested about another request", attested={"request_digest": "2" * 64})
    for field, tokens in {"input": usage(1, 0, 0), "cached": usage(0, 1, 0), "output": usage(0, 0, 1)}.items():
        yield settlement(
            f"failed, and {field} counted", attested={"outcome": "failed", "usage": tokens}, received=False
        )
    yield settlement("received by another", to=STRANGER)
    yield settlement("received about another award", received={"award": OFFER})
    yield settlement("the client alone", received=False, now_ms=NOW + 60_000)
    yield settlement("the provider alone, too early", author=PROVIDER, received=False, now_ms=NOW + 59_999)


def account_v2_cases() -> Iterator[Case]:
    yield from account_cases()
    owners = {PROVIDER.account: Keys(owner=NEXT_KEY.account, machines=(MACHINE.account,))}
    book = DictBook(now_ms=NOW, accounts={CLIENT.account: RICH}, owners=owners)
    for name, to in (
        ("to an account that another key owns now", PROVIDER),
        ("to the key that owns another account", NEXT_KEY),
        ("to a machine of another account", MACHINE),
    ):
        body = Transfer(to=to.account, amount_micro=1)
        yield Case(name=name, book=book, author=CLIENT.account, entry=ENTRY, body=body)


def _owned_by_next(**changes) -> dict[AccountId, Keys]:
    keys = replace(Keys(owner=NEXT_KEY.account, machines=(MACHINE.account,)), **changes)
    return {PROVIDER.account: keys}


def award_v2_cases() -> Iterator[Case]:
    yield from award_cases()
    for name, signer in (
        ("asked by the key that owns the provider now", NEXT_KEY),
        ("asked by a machine of the provider", MACHINE),
        ("asked by the key that owned the provider before", PROVIDER),
    ):
        case = auction(name, signers=(signer, RIVAL))
        yield replace(case, book=replace(case.book, owners=_owned_by_next()))
    case = auction("asked by two machines of one provider", signers=(MACHINE, NEXT_KEY))
    book = replace(
        case.book, owners=_owned_by_next(), offers=dict.fromkeys((OFFER, RIVAL_OFFER), case.book.offers[OFFER])
    )
    yield replace(case, book=book)


def _with_keys() -> Iterator[Case]:
    """Settlements of accounts that other keys own now."""
    for name, changes in {
        "attested by the provider's next key": {"by": NEXT_KEY},
        "attested by a machine of the provider": {"by": MACHINE},
        "attested by the provider's replaced key": {},
    }.items():
        case = settlement(name, **changes)
        yield replace(case, book=replace(case.book, owners=_owned_by_next()))
    owners = {CLIENT.account: Keys(owner=STOLEN.account, machines=(MACHINE.account,))}
    for name, to in (
        ("received by the client's next key", STOLEN),
        ("received by a machine of the client", MACHINE),
        ("received by the client's replaced key", CLIENT),
    ):
        case = settlement(name, to=to)
        yield replace(case, book=replace(case.book, owners=owners))


def keys_cases() -> Iterator[Case]:
    yield from _rotations()
    yield from _recoveries()
    yield from _machines()


def _of_keys(name: str, body: Body, *, author=PROVIDER, keys: Keys | None = None, **changes) -> Case:
    owners = {} if keys is None else {PROVIDER.account: keys}
    book = replace(DictBook(now_ms=NOW, accounts={PROVIDER.account: RICH}, owners=owners), **changes)
    return Case(name=name, book=book, author=author.account, entry=ENTRY, body=body)


def _rotation(key=NEXT_KEY, account=PROVIDER, role="owner") -> Rotation:
    return Rotation(account=PROVIDER.account, consent=consent(key, account, role))


def _rotations() -> Iterator[Case]:
    yield _of_keys("rotated for the first time", _rotation())
    keys = Keys(
        owner=STOLEN.account, machines=(MACHINE.account,), recovery=RECOVERY.account, successor=STRANGER.account
    )
    yield _of_keys("rotated again: machines and guard stay, an announcement does not", _rotation(), keys=keys)
    yield _of_keys("rotated by a stranger", _rotation(), author=STRANGER)
    yield _of_keys("the operator's key", _rotation(), operator=PROVIDER.account)
    yield _of_keys("to a key that consents to another account", _rotation(account=CLIENT))
    yield _of_keys("to a key that consents to be a machine", _rotation(role="machine"))
    yield _of_keys("to a key that has credits", _rotation(), accounts={NEXT_KEY.account: RICH})
    yield _of_keys("to a key that has written", _rotation(), used=(NEXT_KEY.account,))
    yield _of_keys(
        "to a machine's key", _rotation(MACHINE), keys=Keys(owner=STOLEN.account, machines=(MACHINE.account,))
    )
    yield _of_keys("back to the first key", _rotation(PROVIDER), keys=Keys(owner=STOLEN.account))


def _recoveries() -> Iterator[Case]:
    guarded = Keys(owner=PROVIDER.account, recovery=RECOVERY.account)
    announced = replace(guarded, successor=NEXT_KEY.account, successor_from_ms=NOW)
    yield _of_keys("guarded", Guard(recovery=RECOVERY.account))
    yield _of_keys("guarded no more", Guard(recovery=None), keys=guarded)
    yield _of_keys("an announcement is voided", Guard(recovery=RECOVERY.account), keys=announced)
    yield _of_keys("guarded by its own key", Guard(recovery=PROVIDER.account))
    machine = Keys(owner=PROVIDER.account, machines=(MACHINE.account,))
    yield _of_keys("guarded by its machine", Guard(recovery=MACHINE.account), keys=machine)
    yield _of_keys("an empty account is guarded", Guard(recovery=RECOVERY.account), accounts={})
    yield _of_keys("a recovery is announced", _rotation(), author=RECOVERY, keys=guarded)
    yield _of_keys("a recovery is complete", _rotation(), author=RECOVERY, keys=announced)
    paid = {PROVIDER.account: RICH, NEXT_KEY.account: RICH}
    yield _of_keys(
        "a recovery is complete, whoever paid its key", _rotation(), author=RECOVERY, keys=announced, accounts=paid
    )
    elsewhere = {PROVIDER.account: announced, CLIENT.account: Keys(owner=NEXT_KEY.account)}
    yield _of_keys("a recovery to a key that went elsewhere", _rotation(), author=RECOVERY, owners=elsewhere)
    early = replace(announced, successor_from_ms=NOW + 1)
    yield _of_keys("a recovery is completed too early", _rotation(), author=RECOVERY, keys=early)
    yield _of_keys("another recovery is announced", _rotation(STOLEN), author=RECOVERY, keys=announced)


def _machines() -> Iterator[Case]:
    delegation = Delegation(consent=consent(MACHINE, PROVIDER, "machine"))
    machine = Keys(owner=PROVIDER.account, machines=(MACHINE.account,))
    yield _of_keys("a machine is added", delegation)
    full = [key(f"machine {number}").account for number in range(64)]
    yield _of_keys("the sixty-fourth machine", delegation, keys=replace(machine, machines=tuple(sorted(full[:63]))))
    yield _of_keys("the sixty-fifth machine", delegation, keys=replace(machine, machines=tuple(sorted(full))))
    yield _of_keys("a machine twice", delegation, keys=machine)
    yield _of_keys("a key that consents to own it", Delegation(consent=consent(MACHINE, PROVIDER)))
    yield _of_keys("a machine of an empty account", delegation, accounts={})
    yield _of_keys("a machine is revoked", Revocation(key=MACHINE.account), keys=machine)
    yield _of_keys("the owner is revoked", Revocation(key=PROVIDER.account), keys=machine)


TAB = named("the tab")
HOUR_MS = 3_600_000


def tab_cases() -> Iterator[Case]:
    yield from _openings()
    yield from _vouched()
    yield from _unvouched()


def _openings() -> Iterator[Case]:
    def opening(name: str, *, book=None, **changes) -> Case:
        body = TabOpening(provider=PROVIDER.account, locked_micro=1_000, expires_ms=NOW + HOUR_MS)
        held = DictBook(now_ms=NOW, accounts={CLIENT.account: RICH})
        made = replace(held, **(book or {}))
        return Case(name=name, book=made, author=CLIENT.account, entry=ENTRY, body=replace(body, **changes), facts=())

    yield opening("a tab is opened")
    yield opening(
        "with all that the client has, for as long as can be", locked_micro=1_000_000, expires_ms=NOW + 25 * HOUR_MS
    )
    yield opening("at oneself", provider=CLIENT.account)
    yield opening("at a key of another account", provider=NEXT_KEY.account, book={"owners": _owned_by_next()})
    yield opening("that ends now", expires_ms=NOW)
    yield opening("for too long", expires_ms=NOW + 25 * HOUR_MS + 1)
    yield opening("with more than the client has", locked_micro=1_000_001)


def tab_settlement(name: str, *, voucher=None, unvouched=(), costs=(), author=PROVIDER, **book) -> Case:
    opened = OpenTab(client=CLIENT.account, provider=PROVIDER.account, locked_micro=1_000, expires_ms=NOW + HOUR_MS)
    held = DictBook(
        now_ms=NOW + 60_000,
        accounts={CLIENT.account: Account(available_micro=7, locked_micro=1_003)},
        tabs={TAB: opened},
    )
    facts = tuple(
        UnvouchedFacts(id=one.attestation.body.award, cost_micro=cost)
        for one, cost in zip(unvouched, costs or (1,) * len(unvouched), strict=True)
    )
    body = TabSettlement(tab=TAB, voucher=voucher, unvouched=unvouched)
    return Case(name=name, book=replace(held, **book), author=author.account, entry=ENTRY, body=body, facts=facts)


def _vouched() -> Iterator[Case]:
    voucher = make_voucher(CLIENT, TAB)
    yield tab_settlement("settled by a voucher", voucher=voucher)
    yield tab_settlement("settled for nothing")
    yield tab_settlement("all of the lock", voucher=make_voucher(CLIENT, TAB, cost_micro=1_000, paid_micro=1_000))
    yield tab_settlement("a fee of a tenth, rounded down", voucher=voucher, parameters=Parameters(fee_ppm=100_001))
    yield tab_settlement(
        "the operator is the client", voucher=voucher, parameters=Parameters(fee_ppm=100_000), operator=CLIENT.account
    )
    yield tab_settlement("a tab that is not open", voucher=voucher, tabs={})
    yield tab_settlement("by the client", voucher=voucher, author=CLIENT)
    yield tab_settlement("vouched by another", voucher=make_voucher(STRANGER, TAB))
    yield tab_settlement("vouched of another tab", voucher=make_voucher(CLIENT, OFFER))
    yield tab_settlement("more paid than it cost", voucher=make_voucher(CLIENT, TAB, paid_micro=901))
    yield tab_settlement("more than the lock", voucher=make_voucher(CLIENT, TAB, cost_micro=1_001, paid_micro=1_001))
    yield tab_settlement(
        "vouched by the client's next key",
        voucher=make_voucher(STOLEN, TAB),
        owners={CLIENT.account: Keys(owner=STOLEN.account)},
    )


def _unvouched() -> Iterator[Case]:
    voucher, award = make_voucher(CLIENT, TAB), _fitting()
    one = partial(make_unvouched, award, TAB)
    yield tab_settlement(
        "what is open and what came later is claimed", voucher=voucher, unvouched=(one(2), one(4), one(9))
    )
    yield tab_settlement("all is claimed without a voucher", unvouched=(one(0), one(1)), costs=(400, 600))
    yield tab_settlement("cancelled, and claimed", unvouched=(one(0, outcome="cancelled"),))
    yield tab_settlement("together more than the lock", voucher=voucher, unvouched=(one(2), one(4)), costs=(100, 101))
    yield tab_settlement("claimed of another's award", unvouched=(one(0, client=STRANGER),))
    yield tab_settlement("claimed under another tab", unvouched=(make_unvouched(award, OFFER, 0),))
    stranger = replace(award, bid=replace(award.bid, client=STRANGER.account))
    yield tab_settlement("claimed of another's bid", unvouched=(make_unvouched(stranger, TAB, 0),))
    rival = replace(award, winner=replace(award.winner, signer=RIVAL.account))
    yield tab_settlement("claimed of a rival's award", unvouched=(make_unvouched(rival, TAB, 0),))
    yield tab_settlement("claimed and vouched for", voucher=voucher, unvouched=(one(3),))
    yield tab_settlement("claimed twice", voucher=voucher, unvouched=(one(2), one(2)))
    yield tab_settlement("claimed out of order", voucher=voucher, unvouched=(one(4), one(2)))
    yield tab_settlement("claimed too early", unvouched=(one(0),), now_ms=NOW + 59_999)
    yield tab_settlement("attested by another", unvouched=(one(0, provider=RIVAL),))
    yield tab_settlement("attested as failed", unvouched=(one(0, outcome="failed", usage=NO_USAGE),))
    yield tab_settlement("attested of another request", unvouched=(one(0, request_digest="2" * 64),))
    other = tab_settlement("attested of another award", unvouched=(one(0),))
    yield replace(other, facts=(UnvouchedFacts(id=AWARD, cost_micro=1),))
    yield tab_settlement(
        "attested by a machine of the provider",
        unvouched=(one(0, provider=MACHINE),),
        owners={PROVIDER.account: Keys(owner=PROVIDER.account, machines=(MACHINE.account,))},
    )


def tab_v2_cases() -> Iterator[Case]:
    """Version 1's; and who speaks for the client of a tab that has a key."""
    yield from tab_cases()
    opened = OpenTab(
        client=CLIENT.account,
        provider=PROVIDER.account,
        locked_micro=1_000,
        expires_ms=NOW + HOUR_MS,
        key=CLIENT.account,
    )
    keyed = {"tabs": {TAB: opened}}
    rotated = keyed | {"owners": {CLIENT.account: Keys(owner=STOLEN.account)}}
    award = _fitting()
    yield tab_settlement("vouched by the tab's key", voucher=make_voucher(CLIENT, TAB), **keyed)
    yield tab_settlement("vouched by it after the client rotated", voucher=make_voucher(CLIENT, TAB), **rotated)
    yield tab_settlement("vouched by the key after it", voucher=make_voucher(STOLEN, TAB), **rotated)
    claimed = (make_unvouched(award, TAB, 0),)
    yield tab_settlement("claimed of an award by the tab's key", unvouched=claimed, **rotated)
    other = (make_unvouched(award, TAB, 0, client=STOLEN),)
    yield tab_settlement("claimed of an award by the key after it", unvouched=other, **rotated)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "account/v1": account_cases,
    "award/v1": award_cases,
    "offer/v1": offer_cases,
    "settlement/v1": settlement_cases,
    "offer/v2": offer_v2_cases,
    "settlement/v2": settlement_v2_cases,
    "account/v2": account_v2_cases,
    "award/v2": award_v2_cases,
    "keys/v1": keys_cases,
    "tab/v1": tab_cases,
    "tab/v2": tab_v2_cases,
    "reputation/v1": lambda: iter(()),
}


def path_of(contract: str) -> Path:
    return FOLDER / f"{contract.replace('/', '-')}.json"


def main() -> None:
    for contract, cases in CASES.items():
        if path_of(contract).exists():
            continue
        made = [follow(contract, case) for case in cases()]
        vectors = Vectors(contract=contract, sha256=REGISTRY.hashes[contract], cases=made)
        path_of(contract).write_bytes(msgspec.json.format(canonical.encode(vectors), indent=1) + b"\n")
        for case in made:
            sys.stdout.write(f"{contract}: {case.name}: {'rows' if case.rows is not None else case.refusal}\n")


if __name__ == "__main__":
    main()
