"""Signatures, by one verification rule.

libsodium, through PyNaCl, decides whether an Ed25519 signature is valid, everywhere: libraries disagree on edge cases
(C2SP/CCTV ed25519 vectors), and two replicas that disagree are a split ledger.
What is signed is always a tagged digest (``crypto.digest``), never raw bytes, save the notes of C2SP.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Final, Generic, NoReturn, TypeVar

from nacl import bindings
from nacl.exceptions import BadSignatureError

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest, tagged
from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.domain.identity import AccountId, Digest, EntryId, Signature
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Body, Certification, Certified, Entry, Signed
from wwwmarket.domain.shape import Record, Value

R = TypeVar("R", bound=Record)

SEED_BYTES: Final = 32
_VERDICTS_KEPT_MAX: Final = 8_192


class KeyPair:
    """An Ed25519 key (RFC 8032). Neither its ``repr`` nor a pickle ever shows the private half."""

    __slots__ = ("_secret", "account")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES, "an Ed25519 seed is 32 bytes"
        public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.account: Final = AccountId(public.hex())

    def __repr__(self) -> str:
        return f"KeyPair({self.account})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is neither pickled nor copied; crypto.keyfile keeps it")

    @property
    def seed(self) -> bytes:
        """The private half, 32 bytes. For ``crypto.keyfile`` and the transport only."""
        return self._secret[:SEED_BYTES]

    def sign_bytes(self, message: bytes) -> bytes:
        """64 bytes of signature over ``message`` itself; only notes (C2SP signed-note) are signed so."""
        return bindings.crypto_sign(message, self._secret)[: bindings.crypto_sign_BYTES]


class Verified(Value, Generic[R]):
    """A record whose signature has been checked: ``by`` did say it. Made by ``verify`` and ``sign`` alone."""

    body: R
    by: AccountId
    signed: Signed[R]


@lru_cache(maxsize=_VERDICTS_KEPT_MAX)
def verify_bytes(account: AccountId, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (64 bytes) by ``account`` over ``message`` is valid. The one verification rule.

    Verdicts are kept for a while: an ask is verified when it arrives, and again inside the award that it won.
    """
    if len(signature) != bindings.crypto_sign_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, bytes.fromhex(account))
    except (BadSignatureError, ValueError):
        return False
    return True


def sign(key: KeyPair, record: R) -> Verified[R]:
    signature = Signature(key.sign_bytes(bytes.fromhex(digest(record))).hex())
    return Verified(body=record, by=key.account, signed=Signed(body=record, signer=key.account, signature=signature))


def verify(signed: Signed[R]) -> Verified[R]:
    """Raises Unauthorised when the signature is not the signer's over exactly this record."""
    verified_digest(signed)
    return Verified(body=signed.body, by=signed.signer, signed=signed)


def verified_digest(signed: Signed[R]) -> Digest:
    """The digest of a signed record, whose signature is its signer's. Raises Unauthorised."""
    name = digest(signed.body)
    if not verify_bytes(signed.signer, bytes.fromhex(name), bytes.fromhex(signed.signature)):
        raise Unauthorised(f"the signature on this {type(signed.body).__name__.lower()} is not by {signed.signer}")
    return name


def certify(key: KeyPair, record: Record) -> Certification:
    """One signature on a record that several sign."""
    return Certification(signer=key.account, signature=Signature(key.sign_bytes(bytes.fromhex(digest(record))).hex()))


def verify_certified(certified: Certified[R]) -> frozenset[AccountId]:
    """Who has signed it.

    Raises:
        Malformed: a signer stands in it twice, or the signers do not ascend.
        Unauthorised: a signature is not its signer's over exactly this record.
    """
    signers = [each.signer for each in certified.signatures]
    if any(low >= high for low, high in pairwise(signers)):
        raise Malformed("the signers of a certified record must ascend, each once", param="signatures")
    message = bytes.fromhex(digest(certified.body))
    for each in certified.signatures:
        if not verify_bytes(each.signer, message, bytes.fromhex(each.signature)):
            raise Unauthorised(f"a signature on this {type(certified.body).__name__.lower()} is not by {each.signer}")
    return frozenset(signers)


class _Unsigned(Value):
    """What an entry's signature covers: everything but itself."""

    account: AccountId
    body: canonical.Raw
    prev: EntryId
    seq: Count


def entry_id(entry: Entry) -> EntryId:
    """Digest of an entry without its signature: its name, and what its author signs."""
    return EntryId(tagged("entry/v1", _unsigned(entry)))


def _unsigned(entry: Entry) -> bytes:
    return canonical.encode(_Unsigned(account=entry.account, body=entry.body, prev=entry.prev, seq=entry.seq))


def sign_entry(key: KeyPair, *, seq: int, prev: EntryId, body: Body) -> Entry:
    """The next entry of ``key``'s chain: ``seq`` counts from 0, ``prev`` names the entry before."""
    raw = canonical.Raw(canonical.encode(body))
    name = entry_id(Entry(account=key.account, seq=seq, prev=prev, body=raw, signature=Signature("")))
    signature = Signature(key.sign_bytes(bytes.fromhex(name)).hex())
    return Entry(account=key.account, seq=seq, prev=prev, body=raw, signature=signature)


class VerifiedEntry(Value):
    """An entry whose author did sign it, with its name and its exact leaf bytes. Its body is not yet read."""

    id: EntryId
    entry: Entry
    leaf: bytes


def open_entry(leaf: bytes) -> VerifiedEntry:
    """Read and verify the canonical bytes of an entry.

    Raises:
        TooLarge: over 65,535 bytes.
        Malformed: not the canonical bytes of an entry (the body is checked where it is read, in ``rules``).
        Unauthorised: the signature is not the author's.
    """
    entry = canonical.read(leaf, Entry, bytes_max=canonical.ENTRY_BYTES_MAX)
    unsigned = _unsigned(entry)
    # The signature's key sorts last, so the entry's canonical bytes are these and it: encoded once, for both.
    if leaf != b'%b,"signature":"%b"}' % (unsigned[:-1], entry.signature.encode()):
        raise canonical.not_canonical(Entry)
    name = EntryId(tagged("entry/v1", unsigned))
    if not verify_bytes(entry.account, bytes.fromhex(name), bytes.fromhex(entry.signature)):
        raise Unauthorised(f"entry {entry.seq} of account {entry.account} is not signed by that account")
    return VerifiedEntry(id=name, entry=entry, leaf=leaf)


def verified_own(entry: Entry) -> VerifiedEntry:
    """An entry that this process has just signed itself: nothing to check."""
    return VerifiedEntry(id=entry_id(entry), entry=entry, leaf=canonical.encode(entry))
