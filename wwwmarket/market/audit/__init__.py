"""The audit: a whole log read again by somebody who trusts nobody, and every claim in it recomputed.

It promises: each check below either holds for every entry that was read, or is named in a finding; one fault gives one
violation, and what only follows from it is told as a consequence. It needs no copy of anything but the log's own files
and, to know whose log it is, the log's verifier key. It refuses to know where the files come from.

Of the files

1. the checkpoint is signed by the log's key, under the log's name: those of the genesis and its operator, or of the
   latest succession by which a quorum of the committee gave the log to another operator,
2. there are as many entries as the checkpoint covers, in bundles of the stated width, and at least a genesis,
3. the tree over the entries has the checkpoint's root,
4. every tile of hashes is that of the entries,
5. entries are proven to be in the tree from the tiles alone (all in a small log, evenly spread samples of a large one);

of each entry

6. its bytes are canonical, of a known kind, and signed by its author,
7. it is the next of its account's chain,
8. the asks, attestations, receipts, vouchers and consents inside it are signed by their signers;

of the market

9. the contracts that the genesis puts in force are those of this program, by source hash,
10. the contract of its kind accepts each entry,
11. ledger time never goes back, each mark has the root of the replayed state, and the checkpoint follows a mark,
12. the award is the auction's outcome: the best ask won, prices and lock are those of the clearing,
13. an award is settled once, and pays what the counted tokens cost; a tab once, what was vouched for and claimed,
14. nobody spends what it has not, and all accounts together always hold what the genesis granted,
15. what is locked or bonded belongs to an open award or tab, or a listed offer, and none outlives its expiry,
16. balances claimed outside of the log are those of the replay,
17. and other sources that were named show the same log: of two checkpoints one tree is the beginning of the other.

The ids are stable. Out of scope: asks that an award knows by digest only (their signers can prove an omission), a log
that was cut back to an older checkpoint of its own (name another source of it), and an operator that stops marking.
"""

from wwwmarket.market.audit.auditor import Auditor
from wwwmarket.market.audit.copies import FAULTS, Copy, Shown, compare
from wwwmarket.market.audit.events import (
    BalanceClaimed,
    BundleRead,
    CheckpointRead,
    CopyCompared,
    Event,
    StretchRead,
    TileRead,
)
from wwwmarket.market.audit.findings import Check, CheckResult, Finding, Report
from wwwmarket.market.audit.opening import Fault, Opener, open_bundle
from wwwmarket.market.audit.reading import Log, follow, read_note

__all__ = [
    "FAULTS",
    "Auditor",
    "BalanceClaimed",
    "BundleRead",
    "Check",
    "CheckResult",
    "CheckpointRead",
    "Copy",
    "CopyCompared",
    "Event",
    "Fault",
    "Finding",
    "Log",
    "Opener",
    "Report",
    "Shown",
    "StretchRead",
    "TileRead",
    "compare",
    "follow",
    "open_bundle",
    "read_note",
]
