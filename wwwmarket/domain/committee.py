"""Who makes history final: mirrors, n = 3f + 1 of them, of whom f may lie (the bound of Castro and Liskov, 1999)."""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.shape import Value

MEMBERS_MAX: Final = 31
"""f = 10. A note may have 100 signatures, and every reader of a final checkpoint verifies a quorum of these."""

CosignerName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z")]
"""A cosigner's name (C2SP tlog-cosignature: best a schema-less URL), unique within a committee."""
BaseUrl: TypeAlias = Annotated[str, Meta(pattern=r"^https?://[0-9A-Za-z.:\[\]-]{1,255}(/[0-9A-Za-z._~/-]{0,128})?\Z")]


class Member(Value):
    """A mirror: ``account`` signs the committee's decrees, ``cosigner`` its checkpoints and nothing else.

    ``url`` is where it takes checkpoints (C2SP tlog-witness) and serves what it has stored (tlog-mirror).
    """

    name: CosignerName
    account: AccountId
    cosigner: AccountId
    url: BaseUrl


class Committee(Value):
    """Its members, each name, account and key once. None at all: the log's operator alone says what stands."""

    members: Annotated[tuple[Member, ...], Meta(max_length=MEMBERS_MAX)] = ()

    @property
    def faults_max(self) -> int:
        """f: how many members may lie or be silent."""
        return max(len(self.members) - 1, 0) // 3

    @property
    def quorum(self) -> int:
        """How many must agree, 2f + 1 of n = 3f + 1: any two such groups share an honest member. 0 without members."""
        return len(self.members) - self.faults_max
