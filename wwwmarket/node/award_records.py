"""What a buyer keeps of its awards, for explanations and receipts: the latest in memory, all of them in the store."""

from collections import OrderedDict
from typing import Final

from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Usage
from wwwmarket.domain.records import Attestation, Award, Inclusion, Receipt, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.market import auction
from wwwmarket.market.recount import Recount

AWARD: Final = "award"
_RECENT_MAX: Final = 2_048


class AwardRecord(Value):
    """What a buyer keeps of one award, for explanations and receipts."""

    id: EntryId
    award: Award
    judged: tuple[auction.JudgedAsk, ...]
    attempts: tuple[EntryId, ...]
    auction_us: Count
    outcome: str | None = None
    ttft_ms: Millis | None = None
    latency_ms: Millis | None = None
    usage: Usage | None = None
    cost_micro: MicroCredits | None = None
    inclusion: Signed[Inclusion] | None = None
    attestation: Signed[Attestation] | None = None
    receipt: Signed[Receipt] | None = None
    recount: Recount | None = None


class Recent:
    """The latest records, which may not be durable yet."""

    def __init__(self) -> None:
        self._records: OrderedDict[EntryId, AwardRecord] = OrderedDict()

    def put(self, record: AwardRecord) -> None:
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        if len(self._records) > _RECENT_MAX:
            self._records.popitem(last=False)

    def get(self, award: EntryId) -> AwardRecord | None:
        return self._records.get(award)
