"""How an audit goes on: from where the last one was put aside, over all cores, and for as long as a log is watched."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from wwwmarket.adapters.openers import ProcessOpener
from wwwmarket.cli.copies import Copies
from wwwmarket.cli.output import say
from wwwmarket.cli.progress import Tell
from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unavailable
from wwwmarket.ledger.checkpoint import parse_checkpoint
from wwwmarket.ledger.note import VerifierKey, parse_note
from wwwmarket.market.audit import Auditor, Finding, Log, Opener, follow, open_bundle, read_note
from wwwmarket.market.audit.saved import SAVED_BYTES_MAX
from wwwmarket.rules.registry import Registry

SILENT_S_MAX: Final = 120.0
"""How long a watched log may be out of reach, or behind what it has shown already, before that is an alarm too."""


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def opening(processes: int) -> Iterator[Opener | None]:
    """Verification in so many processes; in one, here."""
    if processes == 1:
        yield None
        return
    opener = ProcessOpener(processes, open_bundle)
    try:
        yield opener
    finally:
        opener.close()


class Resumption:
    """The file in which an audit is put aside; None: nowhere."""

    def __init__(self, file: Path | None, digest: str | None) -> None:
        self._file = file
        self._digest = digest
        self.digest: str | None = None

    def begin(self, registry: Registry, key: VerifierKey) -> Auditor:
        """An auditor at entry 0, or where the file has it.

        Raises:
            Conflict: the file is not the one that was expected.
            Malformed: it is no saved audit of this log.
        """
        if self._file is None:
            return Auditor(registry, key)
        if self._file.exists():
            with self._file.open("rb") as opened:
                data = opened.read(SAVED_BYTES_MAX + 1)
            found = sha256(data).hexdigest()
            if self._digest not in {None, found}:
                raise Conflict(f"{self._file} has the SHA-256 {found}, and not the one that was put aside")
            auditor = Auditor.resume(registry, key, data)
            say(f"Going on at entry {auditor.size:,}, where {self._file} has it.")
        elif self._digest is not None:
            raise Conflict(f"there is no {self._file}, though its SHA-256 is given")
        else:
            auditor = Auditor(registry, key)
        auditor.will_save()
        return auditor

    def keep(self, auditor: Auditor) -> None:
        """Put aside what passed, whole or not at all. An audit that found something is not gone on with."""
        data = None if self._file is None else auditor.saved()
        if data is None or self._file is None:
            return
        part = self._file.with_name(f"{self._file.name}.part")
        part.write_bytes(data)
        part.replace(self._file)
        self.digest = sha256(data).hexdigest()


def audit_once(auditor: Auditor, log: Log, opener: Opener | None, tell: Tell) -> None:
    """Up to the log's checkpoint. Raises as ``follow``."""
    for entries in follow(auditor, log, opener):
        tell(entries, auditor.target)


class Watch:
    """Follows a live log until something is found, and says so at once."""

    def __init__(
        self, auditor: Auditor, log: Log, opener: Opener | None, resumption: Resumption, copies: Copies | None = None
    ) -> None:
        """``copies`` are held against the log at each look."""
        self.auditor: Final = auditor
        self._copies = copies
        self._log = log
        self._opener = opener
        self._resumption = resumption
        self._note: bytes | None = None
        self._well_s = time.monotonic()

    def run(self, tell: Tell, poll_s: float) -> None:
        """Return with the first finding. Raises Unavailable: the log was out of reach for too long."""
        while not self.look(tell):
            time.sleep(poll_s)

    def look(self, tell: Tell) -> bool:
        """Audit what is new; whether something was found. Raises as ``run``."""
        try:
            note = read_note(self._log)
            shown = _size_of(note)
            if shown is not None and shown < self.auditor.size:
                # No evidence by itself: old checkpoints are true, and a cache or a replica may be behind.
                self._bear(f"it shows {shown:,} entries, after {self.auditor.size:,}")
                return False
            if note != self._note:
                self._follow(note, tell)
            else:
                self._compare()
        except Refusal as refusal:
            self._bear(refusal.message)
            return False
        self._well_s = time.monotonic()
        return self.auditor.violations > 0

    def _follow(self, note: bytes, tell: Tell) -> None:
        size = self.auditor.size
        for entries in follow(self.auditor, self._log, self._opener, note=note):
            tell(entries, self.auditor.target)
            if self.auditor.violations:
                return
        self._note = note
        self._compare()
        if self.auditor.size > size:
            self._resumption.keep(self.auditor)

    def _compare(self) -> None:
        if self._copies is not None:
            self._copies.compare(self.auditor, self._log)

    def _bear(self, trouble: str) -> None:
        """Trouble that may pass: a log out of reach, a copy that lags. Raises Unavailable once it has lasted."""
        if time.monotonic() - self._well_s > SILENT_S_MAX:
            raise Unavailable(f"for {SILENT_S_MAX:.0f} s: {trouble}", retry_after_ms=1_000)


def _size_of(note: bytes) -> int | None:
    """What a checkpoint says of itself, if it is one."""
    try:
        return parse_checkpoint(parse_note(note).text).size
    except Malformed:
        return None


def told(finding: Finding) -> str:
    """A finding in a line."""
    where = "" if finding.entry is None else f" entry {finding.entry}:"
    return f"ALARM: check {int(finding.check)}:{where} {finding.message}"
