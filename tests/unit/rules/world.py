"""A small market to test contracts and rules with: people with keys, records with defaults, a book, a ledger."""

from hashlib import sha256

from msgspec import field
from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, Verified, open_entry, sign, sign_entry
from wwwmarket.domain.book import Account, AwardFacts, ListedOffer, OpenAward, OpenTab
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.keys import Consent, Keys, Role
from wwwmarket.domain.model import EngineFingerprint, Model, ModelRequirement
from wwwmarket.domain.quantity import Millis, Prices, Slo, Usage
from wwwmarket.domain.records import (
    Ask,
    Attestation,
    Award,
    Bid,
    Body,
    Capacity,
    Genesis,
    Grant,
    Mark,
    NodeAddress,
    Offer,
    Parameters,
    Promise,
    Receipt,
    Settlement,
    Signed,
    TabAward,
    Unvouched,
    Voucher,
)
from wwwmarket.domain.shape import Value
from wwwmarket.rules.check import Checked, check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import Applied, State

NOW = 1_700_000_000_000
REGISTRY = Registry.load()


def key(name: str) -> KeyPair:
    return KeyPair(sha256(name.encode()).digest())


def named(name: str) -> EntryId:
    return EntryId(sha256(name.encode()).hexdigest())


OPERATOR, CLIENT, PROVIDER, RIVAL, STRANGER = map(key, ("operator", "client", "provider", "rival", "stranger"))
PEOPLE = (OPERATOR, CLIENT, PROVIDER, RIVAL, STRANGER)
ADDRESS = NodeAddress(node=OPERATOR.account, sockets=("127.0.0.1:9000",))


def prices(input_price: int, cached: int, output: int) -> Prices:
    return Prices(input_micro_per_mtok=input_price, cached_input_micro_per_mtok=cached, output_micro_per_mtok=output)


def usage(input_tokens: int, cached: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, cached_input_tokens=cached, output_tokens=output_tokens)


def make_offer(**changes) -> Offer:
    offer = Offer(
        model=Model(name="qwen3-8b", revision="main", precision="bf16", context_tokens=32_768),
        prices=prices(200_000, 50_000, 600_000),
        capacity=Capacity(sequences=16, tokens_per_s=1_000),
        promise=Promise(slo=Slo(ttft_ms=500, tpot_ms=30), percentile_ppm=950_000),
        accept_ppm=1_000_000,
        bond_micro=5_000,
        valid_from_ms=NOW,
        valid_until_ms=NOW + 86_400_000,
        address=ADDRESS,
        sealing_key="0" * 64,
    )
    return replace(offer, **changes)


def make_bid(**changes) -> Bid:
    bid = Bid(
        client=CLIENT.account,
        model=ModelRequirement(name="qwen3-8b"),
        input_tokens=1_000,
        max_input_tokens=1_200,
        expected_output_tokens=300,
        max_output_tokens=500,
        max_price_micro=10_000,
        time_value_micro_per_s=10,
        slo=Slo(ttft_ms=1_000, tpot_ms=50),
        request_digest="1" * 64,
        auctioneer=OPERATOR.account,
        issued_ms=NOW,
        expires_ms=NOW + 60_000,
    )
    return replace(bid, **changes)


def make_ask(provider: KeyPair, bid: Bid, offer: EntryId, /, **changes) -> Verified[Ask]:
    ask = Ask(
        bid=digest(bid),
        offer=offer,
        prices=prices(100_000, 25_000, 300_000),
        predicted_ttft_ms=200,
        predicted_finish_ms=6_000,
        slo=Slo(ttft_ms=500, tpot_ms=30),
        held_until_ms=NOW + 1_000,
    )
    return sign(provider, replace(ask, **changes))


def make_award(bid: Bid, winner: Verified[Ask], offer: Offer, runner_up: Verified[Ask] | None, **changes) -> Award:
    clearing = REGISTRY.current.award.clear(bid, winner.body, offer, runner_up.body if runner_up else None)
    asks = sorted(digest(ask.body) for ask in (winner, runner_up) if ask)
    award = Award(
        bid=bid,
        winner=winner.signed,
        runner_up=runner_up.signed if runner_up else None,
        asks=tuple(asks),
        prices=clearing.prices,
        locked_micro=clearing.locked_micro,
        claim_after_ms=NOW + 60_000,
        expires_ms=NOW + 120_000,
    )
    return replace(award, **changes)


def facts_of(award: Award) -> AwardFacts:
    return AwardFacts(
        bid_digest=digest(award.bid),
        winner_ask_digest=digest(award.winner.body),
        runner_up_ask_digest=digest(award.runner_up.body) if award.runner_up else None,
    )


def make_attestation(provider: KeyPair, award: EntryId, /, **changes) -> Verified[Attestation]:
    attestation = Attestation(
        award=award,
        outcome="completed",
        request_digest="1" * 64,
        response_digest="2" * 64,
        usage=usage(1_000, 200, 250),
        engine=EngineFingerprint(
            engine="vllm", engine_version="0.20.0", model_revision="main", precision="bf16", gpu_class="H100"
        ),
        started_ms=NOW,
        first_token_ms=NOW + 200,
        finished_ms=NOW + 5_000,
    )
    return sign(provider, replace(attestation, **changes))


def make_receipt(client: KeyPair, award: EntryId, /, **changes) -> Verified[Receipt]:
    receipt = Receipt(
        award=award,
        response_digest="2" * 64,
        usage=usage(1_000, 200, 250),
        ttft_ms=220,
        latency_ms=5_100,
        verdict="agreed",
    )
    return sign(client, replace(receipt, **changes))


def consent(key: KeyPair, account: KeyPair, role: Role = "owner") -> Signed[Consent]:
    return sign(key, Consent(account=account.account, role=role)).signed


def make_voucher(client: KeyPair, tab: EntryId, /, **changes) -> Signed[Voucher]:
    voucher = Voucher(tab=tab, count=3, root="4" * 64, cost_micro=900, paid_micro=800, next_number=5, open=(2, 4))
    return sign(client, replace(voucher, **changes)).signed


def make_unvouched(award: Award, tab: EntryId, number: int, /, client=None, provider=None, **changes) -> Unvouched:
    """An answer under a tab of which the provider has the award and its own attestation."""
    signed = sign(client or CLIENT, TabAward(tab=tab, number=number, award=award))
    attestation = make_attestation(provider or PROVIDER, EntryId(digest(signed.body)), **changes)
    return Unvouched(award=signed.signed, attestation=attestation.signed)


def make_settlement(
    award: EntryId, attestation: Verified[Attestation], receipt: Verified[Receipt] | None
) -> Settlement:
    return Settlement(award=award, attestation=attestation.signed, receipt=receipt.signed if receipt else None)


class DictBook(Value):
    """The dumbest book: dictionaries. Also what a vector's ``book`` says."""

    now_ms: Millis
    accounts: dict[AccountId, Account] = field(default_factory=dict)
    offers: dict[EntryId, ListedOffer] = field(default_factory=dict)
    awards: dict[EntryId, OpenAward] = field(default_factory=dict)
    parameters: Parameters = Parameters()
    operator: AccountId = OPERATOR.account
    owners: dict[AccountId, Keys] = field(default_factory=dict)
    tabs: dict[EntryId, OpenTab] = field(default_factory=dict)
    used: tuple[AccountId, ...] = ()

    def account(self, account: AccountId) -> Account:
        return self.accounts.get(account, Account())

    def offer(self, offer: EntryId) -> ListedOffer | None:
        return self.offers.get(offer)

    def offers_of(self, provider: AccountId) -> int:
        return sum(listed.provider == provider for listed in self.offers.values())

    def unbonding(self, offer: EntryId) -> None:
        """Contracts leave bonds that outlived their offers to the state."""

    def award(self, award: EntryId) -> OpenAward | None:
        return self.awards.get(award)

    def tab(self, tab: EntryId) -> OpenTab | None:
        return self.tabs.get(tab)

    def keys(self, account: AccountId) -> Keys:
        return self.owners.get(account) or Keys(owner=account)

    def account_of(self, key: AccountId) -> AccountId | None:
        acting = (name for name, keys in self.owners.items() if key in {keys.owner, *keys.machines})
        return next(acting, None if key in self.owners else key)

    def owned_by(self, key: AccountId) -> AccountId | None:
        account = self.account_of(key)
        return account if account is not None and self.keys(account).owner == key else None

    def is_fresh(self, key: AccountId) -> bool:
        known = (key in names for names in (self.accounts, self.owners, self.used))
        return not any(known) and self.account_of(key) == key


def make_genesis(**changes) -> Genesis:
    genesis = Genesis(
        origin="test.example/log",
        operator=OPERATOR.account,
        operator_address=ADDRESS,
        contracts=REGISTRY.latest,
        grants=tuple(Grant(account=person.account, amount_micro=1_000_000) for person in PEOPLE),
        at_ms=NOW,
    )
    return replace(genesis, **changes)


class Ledger:
    """A state, and what each person needs in order to add to it."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State(REGISTRY)

    @classmethod
    def begun(cls, **changes) -> "Ledger":
        """With a genesis, as ``make_genesis`` makes it."""
        ledger = cls()
        ledger.submit(OPERATOR, make_genesis(**changes))
        return ledger

    def entry(self, author: KeyPair, body: Body) -> Checked:
        """The author's next entry, through bytes and all checks, not yet applied."""
        seq, prev = self.state.chain_head(author.account)
        entry = sign_entry(author, seq=seq, prev=prev, body=body)
        return check(open_entry(canonical.encode(entry)))

    def submit(self, author: KeyPair, body: Body) -> Applied:
        return self.state.apply(self.entry(author, body))

    def mark(self, at_ms: int) -> Applied:
        return self.submit(OPERATOR, Mark(at_ms=at_ms, state_root=self.state.root()))

    def list_offers(self) -> tuple[EntryId, EntryId]:
        """The provider's and the rival's offer."""
        return tuple(self.submit(person, make_offer()).checked.id for person in (PROVIDER, RIVAL))

    def award(self, offers: tuple[EntryId, EntryId], **changes) -> EntryId:
        """An award to the provider, with the rival as runner-up."""
        return self.submit(CLIENT, self.award_body(offers, **changes)).checked.id

    def award_body(self, offers: tuple[EntryId, EntryId], **changes) -> Award:
        bid = make_bid()
        winner = make_ask(PROVIDER, bid, offers[0])
        rival = make_ask(RIVAL, bid, offers[1], prices=prices(150_000, 40_000, 500_000))
        return make_award(bid, winner, self.state.offer(offers[0]).offer, rival, **changes)
