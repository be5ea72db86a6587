"""Both sides of a tab: the same tally kept twice, and every word in between checked against it.

It promises: what the client's latest voucher says is what the provider has counted too; no number is given twice;
never more is at work under a tab than it locks; and what both sides hold proves each answer against the root on the
ledger. Awards may arrive in any order, and vouchers again after they were lost. It does not know who talks to whom,
nor where receipts are kept: what each side keeps of every step makes the same tally again (``restore``).

A voucher is refused by its provider unless

1. it is signed by the tab's client (``not_by_client``),
2. it is about this tab, and the next one (``other_voucher``),
3. its receipt is of an award at work here, and signed by both sides (``other_receipt``),
4. its sums are what the settlement contract makes of the receipts (``other_sums``),
5. its root is that of the receipts (``other_root``),
6. and whatever else is at work here is still open by it (``number_closed``).
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Protocol

from msgspec import Meta

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, Verified, sign, verify
from wwwmarket.domain.book import OpenTab
from wwwmarket.domain.errors import Conflict, Exhausted, Malformed, Refusal, Stale, TooLarge, Unauthorised
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices, Usage
from wwwmarket.domain.records import (
    TAB_OPEN_MAX,
    Attestation,
    Award,
    Receipt,
    Signed,
    TabAward,
    TabReceipt,
    TabSettlement,
    Unvouched,
    Voucher,
)
from wwwmarket.domain.shape import Record, Value
from wwwmarket.ledger.merkle import Frontier, complete_root, leaf_hash
from wwwmarket.ledger.proofs import Proof, inclusion_proof, verify_inclusion

RETRY_MS: Final = 1_000

AWARD_BYTES_MAX: Final = 6_500
"""Canonical: eight of these with their attestations are one entry, so that nothing at work is beyond claiming. An award
that lists 64 asks, the most there can be, is about that large.
"""

CLAIMABLE_MS: Final = 60_000
"""Before the tab's end everything at work under it can be claimed for so long: a restart of its provider and more."""

AccountOf = Callable[[AccountId], AccountId | None]
"""For which account a key speaks: ``domain.book.Book.account_of``."""


class Kept(Value):
    """What both sides keep of an answer, in the order of the tree: its receipt, and the client's word on all so far."""

    receipt: TabReceipt
    voucher: Signed[Voucher]


class PaymentRule(Protocol):
    """What the settlement contract makes of an answer."""

    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def count(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> Usage: ...
    def payment(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits: ...


class Worth(Value):
    """What one answer costs, and what of it is paid."""

    cost_micro: MicroCredits
    paid_micro: MicroCredits


def worth(rule: PaymentRule, award: Award, attestation: Attestation, receipt: Receipt | None) -> Worth:
    paid = rule.payment(award, attestation, receipt)
    if attestation.outcome == "failed":
        return Worth(cost_micro=0, paid_micro=paid)
    cost = rule.cost(award.prices, rule.count(award, attestation, receipt))
    return Worth(cost_micro=min(cost, award.locked_micro), paid_micro=paid)


def name_of(award: TabAward) -> EntryId:
    """By this its attestation and its receipt call it."""
    return EntryId(digest(award))


def speaks(opened: OpenTab, key: AccountId, account_of: AccountOf) -> bool:
    """Whether a key binds the tab's client: the one that opened it, or, of a tab without, one that acts for it."""
    return key == opened.key if opened.key is not None else account_of(key) == opened.client


class Tally:
    """The answers of a tab so far: their tree, their sums, and the awards at work."""

    def __init__(self, tab: EntryId, opened: OpenTab, rule: PaymentRule) -> None:
        self.tab: Final = tab
        self.opened: Final = opened
        self.next_number: Count = 0
        self.at_work: dict[Count, Verified[TabAward]] = {}
        self.missing: set[Count] = set()
        """Numbers below the next that were given and have not come here."""
        self.cost_micro: MicroCredits = 0
        self.paid_micro: MicroCredits = 0
        self._rule = rule
        self._tree = Frontier()

    @property
    def count(self) -> Count:
        return self._tree.size

    def check_room(self, award: Award, unheard: Sequence[Award] = (), overtaken: Count = 0) -> None:
        """``unheard`` are answers that the other side may still hold for being at work; ``overtaken`` awards have been
        given and are on their way here.

        Raises TooLarge, Exhausted, Conflict or Stale: the tab takes no such award now.
        """
        if len(canonical.encode(award)) > AWARD_BYTES_MAX:
            raise TooLarge(f"an award under a tab is at most {AWARD_BYTES_MAX} bytes: list fewer asks")
        if len(self.at_work) + overtaken + len(unheard) >= TAB_OPEN_MAX:
            raise Exhausted(f"{TAB_OPEN_MAX} awards are at work under this tab", retry_after_ms=RETRY_MS)
        held = sum(one.locked_micro for one in (*(work.body.award for work in self.at_work.values()), *unheard))
        if self.paid_micro + held + award.locked_micro > self.opened.locked_micro:
            raise Conflict("the tab has not so much left: open another", reason="tab_spent")
        if max(award.expires_ms, award.claim_after_ms + CLAIMABLE_MS) > self.opened.expires_ms:
            raise Stale("the tab ends before this award could: open another", reason="tab_ends")

    def begin(self, award: Verified[TabAward]) -> None:
        number = award.body.number
        self.at_work[number] = award
        self.missing |= set(range(self.next_number, number))
        self.missing.discard(number)
        self.next_number = max(self.next_number, number + 1)

    def add(self, receipt: TabReceipt) -> None:
        """One more answer, of which everything was checked."""
        made = worth(self._rule, receipt.award.body.award, receipt.attestation.body, receipt.receipt.body)
        self.cost_micro += made.cost_micro
        self.paid_micro += made.paid_micro
        self._tree.append(leaf_hash(canonical.encode(receipt)))
        self.at_work.pop(receipt.award.body.number, None)

    def copy(self) -> "Tally":
        """As it is now, to try a receipt on."""
        copied = Tally(self.tab, self.opened, self._rule)
        copied.next_number, copied.at_work, copied.missing = self.next_number, dict(self.at_work), set(self.missing)
        copied.cost_micro, copied.paid_micro = self.cost_micro, self.paid_micro
        copied._tree = Frontier(self._tree.size, self._tree.peaks)
        return copied

    def voucher(self) -> Voucher:
        return Voucher(
            tab=self.tab,
            count=self.count,
            root=Digest(self._tree.root().hex()),
            cost_micro=self.cost_micro,
            paid_micro=self.paid_micro,
            next_number=self.next_number,
            open=tuple(sorted(self.at_work)),
        )


def _restore(tally: Tally, kept: Sequence[Kept], at_work: Sequence[Signed[TabAward]]) -> None:
    """The tally over what was kept of it, which was checked when it was: by its own side."""
    for one in kept:
        tally.add(one.receipt)
    for award in sorted(at_work, key=lambda signed: signed.body.number):
        tally.at_work[award.body.number] = verify(award)
    numbers = {*tally.at_work, *(one.receipt.award.body.number for one in kept)}
    tally.next_number = max(numbers, default=-1) + 1


class Payer:
    """The client's side. ``key`` is the one that opened the tab."""

    def __init__(self, key: KeyPair, tally: Tally) -> None:
        self._key = key
        self._tally = tally
        self._unheard: deque[Award] = deque()

    @classmethod
    def restore(cls, key: KeyPair, tally: Tally, kept: Sequence[Kept], at_work: Sequence[Signed[TabAward]]) -> "Payer":
        """After a restart, over an empty tally. Nothing of what was kept is known to have been heard."""
        _restore(tally, kept, at_work)
        payer = cls(key, tally)
        payer._unheard.extend(one.receipt.award.body.award for one in kept)
        return payer

    @property
    def voucher(self) -> Voucher:
        return self._tally.voucher()

    @property
    def heard(self) -> Count:
        """How many receipts the provider is known to hold."""
        return self._tally.count - len(self._unheard)

    def award(self, award: Award) -> Verified[TabAward]:
        """Sign the next award of the tab. Raises as ``Tally.check_room``."""
        self._tally.check_room(award, tuple(self._unheard))
        signed = sign(self._key, TabAward(tab=self._tally.tab, number=self._tally.next_number, award=award))
        self._tally.begin(signed)
        return signed

    def vouch(self, number: Count, attestation: Verified[Attestation], receipt: Verified[Receipt]) -> Kept:
        """Take an answer into the tally: what both sides keep.

        Raises:
            Conflict: no award of that number is at work, or these are about another one.
        """
        award = self._tally.at_work.get(number)
        if award is None or {attestation.body.award, receipt.body.award} != {name_of(award.body)}:
            raise Conflict("no such award is at work under this tab", reason="other_receipt")
        kept = TabReceipt(award=award.signed, attestation=attestation.signed, receipt=receipt.signed)
        self._tally.add(kept)
        self._unheard.append(award.body.award)
        return Kept(receipt=kept, voucher=sign(self._key, self._tally.voucher()).signed)

    def is_heard(self, count: Count) -> None:
        """The provider holds so many receipts: what it held before, it does not forget."""
        for _ in range(min(count, self._tally.count) - self.heard):
            self._unheard.popleft()


class Payee:
    """The provider's side. ``account_of`` is the ledger's word on whose a key is."""

    def __init__(self, tally: Tally, account_of: AccountOf) -> None:
        self._tally = tally
        self._account_of = account_of
        self._voucher: Signed[Voucher] | None = None
        self._attested: dict[Count, Signed[Attestation]] = {}

    @classmethod
    def restore(
        cls, tally: Tally, account_of: AccountOf, kept: Sequence[Kept], at_work: Sequence[Unvouched | Signed[TabAward]]
    ) -> "Payee":
        """After a restart, over an empty tally; of what is at work, with its attestation where there is one."""
        awards = [one.award if isinstance(one, Unvouched) else one for one in at_work]
        _restore(tally, kept, awards)
        payee = cls(tally, account_of)
        known = {*tally.at_work, *(one.receipt.award.body.number for one in kept)}
        payee._voucher = kept[-1].voucher if kept else None
        tally.missing = {n for n in range(tally.next_number) if n not in known and payee._is_open(n)}
        for one in at_work:
            if isinstance(one, Unvouched):
                payee._attested[one.award.body.number] = one.attestation
        return payee

    @property
    def count(self) -> Count:
        """How many receipts it holds."""
        return self._tally.count

    @property
    def at_work(self) -> dict[Count, Signed[TabAward]]:
        return {number: award.signed for number, award in self._tally.at_work.items()}

    def take(self, award: Signed[TabAward]) -> None:
        """Take an award to work on.

        Raises:
            Unauthorised, Conflict: it is not this client's, of this tab, with a new number, to this provider.
            TooLarge, Exhausted, Conflict, Stale: as ``Tally.check_room``.
        """
        tally, verified = self._tally, verify(award)
        opened, body = tally.opened, verified.body
        if not speaks(opened, verified.by, self._account_of):
            raise Unauthorised("the award is not by the tab's client", reason="not_by_client")
        parties = (body.award.bid.client, self._account_of(body.award.winner.signer))
        if body.tab != tally.tab or parties != (opened.client, opened.provider):
            raise Conflict("the award is under another tab, or between others", reason="other_tab")
        is_new = body.number >= tally.next_number or body.number in tally.missing
        if not is_new or not self._is_open(body.number):
            raise Conflict("the award's number was given before", reason="number_settled")
        tally.check_room(body.award, overtaken=self._overtaken(body.number))
        tally.begin(verified)

    def _overtaken(self, number: Count) -> Count:
        """How many numbers would be missing, were this one here."""
        tally = self._tally
        return len(tally.missing) - (number in tally.missing) + max(0, number - tally.next_number)

    def _is_open(self, number: Count) -> bool:
        """Whether the ledger would still take a claim of that number beside the latest voucher."""
        if self._voucher is None:
            return True
        said = self._voucher.body
        return number >= said.next_number or number in said.open

    def attested(self, number: Count, attestation: Signed[Attestation]) -> None:
        """What this provider says of an answer: it claims with that, should no voucher come."""
        if number in self._tally.at_work:
            self._attested[number] = attestation

    def attestation(self, number: Count) -> Signed[Attestation] | None:
        return self._attested.get(number)

    def hear(self, kept: TabReceipt, voucher: Signed[Voucher]) -> None:
        """Take the client's word, after its numbered checks. Raises Unauthorised, Conflict, Malformed."""
        tally, said = self._tally, verify(voucher)
        if not speaks(tally.opened, said.by, self._account_of):
            raise Unauthorised("the voucher is not by the tab's client", reason="not_by_client")  # 1
        if (said.body.tab, said.body.count) != (tally.tab, tally.count + 1):
            raise Conflict("the voucher is not the next of this tab", reason="other_voucher")  # 2
        self._check_receipt(kept)
        expected = self._after(kept)
        if (said.body.cost_micro, said.body.paid_micro) != (expected.cost_micro, expected.paid_micro):
            raise Conflict("the voucher's sums are not those of the receipts", reason="other_sums")  # 4
        if said.body.root != expected.root:
            raise Conflict("the voucher's root is not that of the receipts", reason="other_root")  # 5
        closed = [n for n in expected.open if n < said.body.next_number and n not in said.body.open]
        if closed:
            raise Conflict(f"the voucher closes award {closed[0]}, which is at work", reason="number_closed")  # 6
        tally.add(kept)
        self._attested.pop(kept.award.body.number, None)
        self._voucher = voucher
        tally.missing = {number for number in tally.missing if self._is_open(number)}

    def is_due(self, now_ms: Millis) -> bool:
        """Whether nothing more is to be waited for: all that is at work is attested, and paid for nothing or due."""
        return all(
            (said := self._attested.get(number)) is not None
            and (said.body.outcome == "failed" or award.body.award.claim_after_ms <= now_ms)
            for number, award in self._tally.at_work.items()
        )

    def settlement(self, now_ms: Millis) -> TabSettlement:
        """What to settle with now: the latest voucher, and what of the rest is due for claiming."""
        due = [
            Unvouched(award=self._tally.at_work[number].signed, attestation=attestation)
            for number, attestation in sorted(self._attested.items())
            if attestation.body.outcome != "failed" and self._tally.at_work[number].body.award.claim_after_ms <= now_ms
        ]
        return TabSettlement(tab=self._tally.tab, voucher=self._voucher, unvouched=tuple(due))

    def _check_receipt(self, kept: TabReceipt) -> None:
        award = self._tally.at_work.get(kept.award.body.number)
        attested = None if award is None else self._attested.get(award.body.number)
        if award is None or award.signed != kept.award or attested != kept.attestation:
            raise Conflict("the receipt is of no award at work here", reason="other_receipt")  # 3
        received = verify(kept.receipt)
        by_client = speaks(self._tally.opened, received.by, self._account_of)
        if not by_client or received.body.award != name_of(award.body):
            raise Conflict("the receipt is not the client's, of this award", reason="other_receipt")

    def _after(self, kept: TabReceipt) -> Voucher:
        """The voucher that is due with this receipt, without taking it."""
        trial = self._tally.copy()
        trial.add(kept)
        return trial.voucher()


class Fault(Value):
    """``receipt`` is the index in the tree, where one receipt is to blame."""

    message: str
    receipt: Count | None = None


def examine(  # noqa: PLR0913, PLR0917 - what a tab is, and who looks
    tab: EntryId,
    opened: OpenTab,
    voucher: Voucher,
    leaves: Sequence[bytes],
    rule: PaymentRule,
    account_of: AccountOf,
) -> list[Fault]:
    """Whether the receipts of a tab, as either side keeps them, are what its voucher on the ledger says.

    1. There are as many as it counts, and their tree has its root.
    2. Each is canonical, and its award, attestation and receipt are signed, by the tab's client and provider.
    3. Each is under this tab, and its parts are about one award and the request that was bid for.
    4. No number is there twice, none is open by the voucher, and none is beyond it.
    5. All together cost and pay what it says.
    """
    faults, tally, numbers = [], Tally(tab, opened, rule), set[int]()
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    if (len(leaves), tree.root().hex()) != (voucher.count, voucher.root):  # 1
        faults.append(Fault(message=f"the voucher is of {voucher.count} other receipts"))
    for index, leaf in enumerate(leaves):
        try:
            kept = read_receipt(leaf)
            _check_kept(kept, tab, opened, account_of)  # 2, 3
        except Refusal as refusal:
            faults.append(Fault(message=refusal.message, receipt=index))
            continue
        number = kept.award.body.number
        if number in numbers or number in voucher.open or number >= voucher.next_number:  # 4
            faults.append(Fault(message=f"award {number} is not one that the voucher can pay", receipt=index))
        numbers.add(number)
        tally.add(kept)
    if (tally.cost_micro, tally.paid_micro) != (voucher.cost_micro, voucher.paid_micro):  # 5
        said = f"{voucher.paid_micro} of {voucher.cost_micro}"
        faults.append(Fault(message=f"the receipts pay {tally.paid_micro} of {tally.cost_micro}, the voucher {said}"))
    return faults


def read_receipt(leaf: bytes) -> TabReceipt:
    """A leaf whose three signatures hold. Raises Malformed, Unauthorised."""
    kept = canonical.decode(leaf, TabReceipt)
    verify(kept.award)
    verify(kept.attestation)
    verify(kept.receipt)
    return kept


def _check_kept(kept: TabReceipt, tab: EntryId, opened: OpenTab, account_of: AccountOf) -> None:
    award, name = kept.award.body, name_of(kept.award.body)
    by_client = all(speaks(opened, signer, account_of) for signer in (kept.award.signer, kept.receipt.signer))
    sellers = {account_of(signer) for signer in (kept.attestation.signer, award.award.winner.signer)}
    if not by_client or sellers != {opened.provider}:
        raise Unauthorised("it is not signed by the tab's client and provider")
    if award.tab != tab or {kept.attestation.body.award, kept.receipt.body.award} != {name}:
        raise Malformed("it is not of one award under this tab")
    if kept.attestation.body.request_digest != award.award.bid.request_digest:
        raise Malformed("it attests another request than was bid for")


def proof_of(leaves: Sequence[bytes], index: int) -> Proof:
    """That a receipt is under the root of all of them: at 1,000 receipts ten hashes."""
    hashes = [leaf_hash(leaf) for leaf in leaves]

    def node(level: int, place: int) -> bytes:
        return complete_root(hashes[place << level : (place + 1) << level])

    return inclusion_proof(index, len(leaves), node)


class TabProof(Record, tag="tab-proof/v1"):
    """That an answer is among those that a tab pays for: its receipt, leaf ``index`` of ``count``, and the ``hashes``
    from there to the root of all of them (RFC 6962, section 2.1.1).
    """

    tab: EntryId
    receipt: TabReceipt
    index: Count
    count: Count
    hashes: Annotated[tuple[Digest, ...], Meta(max_length=63)]


def prove(tab: EntryId, receipts: Sequence[TabReceipt], index: Count) -> TabProof:
    hashes = proof_of([canonical.encode(one) for one in receipts], index)
    told = tuple(Digest(each.hex()) for each in hashes)
    return TabProof(tab=tab, receipt=receipts[index], index=index, count=len(receipts), hashes=told)


def verify_proof(proof: TabProof, opened: OpenTab, voucher: Voucher, rule: PaymentRule, account_of: AccountOf) -> Worth:
    """What an answer came to, by a proof and the voucher that its tab was settled with.

    1. The voucher is of as many receipts, and this one is under its root, at that place.
    2. It is signed by the tab's client and provider, and under this tab.

    Raises:
        Malformed, Unauthorised: it does not show that.
    """
    leaf = canonical.encode(proof.receipt)
    if (voucher.tab, voucher.count) != (proof.tab, proof.count):
        raise Malformed(f"the tab was settled for {voucher.count} answers, and this proof is of {proof.count}")
    check_proof(voucher, leaf, proof.index, [bytes.fromhex(each) for each in proof.hashes])  # 1
    kept = read_receipt(leaf)
    _check_kept(kept, proof.tab, opened, account_of)  # 2
    return worth(rule, kept.award.body.award, kept.attestation.body, kept.receipt.body)


def check_proof(voucher: Voucher, leaf: bytes, index: int, proof: Sequence[bytes]) -> None:
    """Raises Malformed: the receipt is not the ``index``-th that the voucher is of."""
    verify_inclusion(index, voucher.count, leaf_hash(leaf), proof, bytes.fromhex(voucher.root))
