"""A small log as files, honest or not: who keeps which key decides what a forger can do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    Ledger,
    make_attestation,
    make_genesis,
    make_receipt,
    make_settlement,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, entry_id, sign_entry, verified_own
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Body, Entry, Mark, Transfer
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from wwwmarket.ledger.export import files
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.ledger.note import Signer, VerifierKey
from wwwmarket.market.audit import Auditor, Finding, Report, follow
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry

ORIGIN = "test.example/log"
SIGNER = Signer(ORIGIN, OPERATOR)
BODY = canonical._decoder(Body)

GENESIS, OFFER, RIVALS_OFFER, AWARD, MARK, SETTLEMENT, TRANSFER, SECOND_AWARD, SECOND_MARK, LAST_MARK = range(10)
"""The entries of ``story``: the second award expires unsettled with the second mark."""


class Forge(Ledger):
    """A ledger that also keeps its entries' bytes, and writes entries that no contract accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[bytes] = []
        self.astray: dict[str, tuple[int, EntryId]] = {}

    def entry(self, author: KeyPair, body: Body):
        seq, prev = self.astray.get(author.account) or self.state.chain_head(author.account)
        entry = sign_entry(author, seq=seq, prev=prev, body=body)
        self.leaves.append(canonical.encode(entry))
        return check(verified_own(entry))

    def force(self, author: KeyPair, body: Body) -> int:
        """An entry that no state has followed; gives its index."""
        seq, prev = self.astray.get(author.account) or self.state.chain_head(author.account)
        entry = sign_entry(author, seq=seq, prev=prev, body=body)
        self.leaves.append(canonical.encode(entry))
        self.astray[author.account] = (seq + 1, entry_id(entry))
        return len(self.leaves) - 1

    def marked(self) -> list[bytes]:
        """The entries, the last one a mark of the state that there is without the forced ones."""
        self.force(OPERATOR, Mark(at_ms=NOW, state_root=self.state.root()))
        return self.leaves

    def settlement_body(self, award: EntryId, **changes):
        return make_settlement(award, make_attestation(PROVIDER, award, **changes), make_receipt(CLIENT, award))

    def settle(self, award: EntryId, **changes):
        return self.submit(CLIENT, self.settlement_body(award, **changes))


def begun() -> Forge:
    ledger = Forge()
    ledger.submit(OPERATOR, make_genesis())
    return ledger


def story() -> Forge:
    """One of everything."""
    ledger = begun()
    offers = ledger.list_offers()
    award = ledger.award(offers)
    ledger.mark(NOW + 1_000)
    ledger.settle(award)
    ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=10))
    ledger.award(offers)
    ledger.mark(NOW + 130_000)
    ledger.mark(NOW + 130_001)
    return ledger


def long_story(transfers: int) -> Forge:
    """The same, after so many transfers."""
    ledger = begun()
    for number in range(transfers):
        ledger.submit((CLIENT, RIVAL)[number % 2], Transfer(to=PROVIDER.account, amount_micro=1))
        if number % 50 == 49:
            ledger.mark(NOW + number)
    ledger.mark(NOW + transfers)
    return ledger


def log_files(leaves: Sequence[bytes], signer: Signer = SIGNER) -> dict[str, bytes]:
    """Every file of a log whose tree and note whoever has ``signer`` has made anew."""
    root = root_of(map(leaf_hash, leaves))
    note = sign_checkpoint(signer, Checkpoint(origin=signer.verifier.name, size=len(leaves), root=root))
    return dict(files(open_checkpoint(note, signer.verifier), lambda start, end: leaves[start:end]))


def edited(leaf: bytes, change: Callable[[Body], Body], key: KeyPair | None = None) -> bytes:
    """An entry with another body: signed by ``key``, or under its old signature."""
    entry = canonical.decode(leaf, Entry)
    body = change(BODY.decode(entry.body))
    if key is None:
        return canonical.encode(replace(entry, body=canonical.Raw(canonical.encode(body))))
    return canonical.encode(sign_entry(key, seq=entry.seq, prev=entry.prev, body=body))


class FilesLog:
    """A log in a dictionary."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self._content = content

    def read(self, path: str, *, bytes_max: int) -> bytes | None:
        content = self._content.get(path)
        return None if content is None else content[: bytes_max + 1]


def audit(content: Mapping[str, bytes], *, key: VerifierKey = SIGNER.verifier, registry: Registry = REGISTRY) -> Report:
    auditor = Auditor(registry, key)
    for _ in follow(auditor, FilesLog(content)):
        pass
    return auditor.report()


def audit_leaves(leaves: Sequence[bytes]) -> Report:
    """The audit of a log whose operator has made tree and note of exactly these entries."""
    return audit(log_files(leaves))


def blamed(report: Report) -> list[tuple[int, int | None]]:
    """The violations, as (check, entry)."""
    assert report.verdict == ("findings" if report.violations else "pass")
    return [(int(each.check), each.entry) for each in report.findings if each.severity == "violation"]


def followed(report: Report) -> list[tuple[int, int | None]]:
    """The consequences, as (check, entry)."""
    return [(int(each.check), each.entry) for each in report.findings if each.severity == "consequence"]


def first(report: Report) -> Finding:
    return report.findings[0]


def write(content: Mapping[str, bytes], folder: Path) -> Path:
    """The files in a folder, with the log's key beside them."""
    for path, data in {**content, "vkey": f"{SIGNER.verifier.text}\n".encode()}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder
