"""Who said it: a record with one signature, or with many."""

from typing import Annotated, Generic, TypeVar

from msgspec import Meta

from wwwmarket.domain.committee import MEMBERS_MAX
from wwwmarket.domain.identity import AccountId, Signature
from wwwmarket.domain.shape import Value

T = TypeVar("T")


class Signed(Value, Generic[T]):
    """A record with a claim of who said it. Nothing may rest on it before ``crypto.signing.verify``."""

    body: T
    signer: AccountId
    signature: Signature


class Certification(Value):
    """One signature on a record that several sign."""

    signer: AccountId
    signature: Signature


class Certified(Value, Generic[T]):
    """A record with the claim that many said it. Nothing may rest on it before ``crypto.signing.verify_certified``."""

    body: T
    signatures: Annotated[tuple[Certification, ...], Meta(max_length=MEMBERS_MAX)]
