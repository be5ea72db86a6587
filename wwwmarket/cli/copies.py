"""Other sources of an audited log: held against it, and what proves a split view kept."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from wwwmarket.adapters.evidence_files import EvidenceFolder
from wwwmarket.adapters.log_reader import FolderLog, HttpLog, open_log
from wwwmarket.cli.output import say
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Malformed, NotFound, Refusal, Unauthorised, Unavailable
from wwwmarket.ledger.evidence import name_of
from wwwmarket.market.audit import FAULTS, Auditor, Copy, CopyCompared, Log, Shown, compare

TRIED_AGAIN_S: Final = 30.0
"""How often a watch tries a source that was out of reach: each try may take as long."""


class ComparedSource(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` says of a source: ``evidence`` are the files that prove who signed both sides."""

    source: str
    verdict: str
    entries: int | None
    message: str
    evidence: tuple[str, ...] = ()


def open_first(sources: Iterable[str]) -> tuple[str, FolderLog | HttpLog, list[str]]:
    """The first source that is there, to be audited, and the others, to be held against it.

    Raises:
        NotFound, Malformed, Unavailable: none is there; this is why the last one is not.
    """
    missed: list[str] = []
    left = iter(sources)
    trouble: Refusal = NotFound("no source is named")
    for source in left:
        try:
            return source, open_log(source), [*missed, *left]
        except (NotFound, Unavailable) as refusal:
            trouble = refusal
            missed.append(source)
    raise trouble


class Copies:
    def __init__(self, sources: Iterable[str], folder: Path) -> None:
        """Evidence goes to ``folder``."""
        self._folder = EvidenceFolder(folder)
        self._sources = list(sources)
        self._logs: dict[str, FolderLog | HttpLog] = {}
        self._again_s: dict[str, float] = {}
        self._told: dict[str, ComparedSource] = {}

    def compare(self, auditor: Auditor, audited: Log) -> None:
        """Hold each against what was audited, which the auditor hears of."""
        for source in self._sources:
            self._compare(source, auditor, audited)

    @property
    def told(self) -> tuple[ComparedSource, ...]:
        """What was last said of each."""
        return tuple(self._told.values())

    def close(self) -> None:
        for log in self._logs.values():
            log.close()

    def _compare(self, source: str, auditor: Auditor, audited: Log) -> None:
        if auditor.note is None or time.monotonic() < self._again_s.get(source, 0.0):
            return
        log = self._open(source)
        if isinstance(log, Copy):
            copy = log
        else:
            try:
                copy = compare(Shown(auditor.note, audited), log, auditor.keys, auditor.state.governance.committee)
            except (Malformed, Unauthorised):
                return  # of what was audited: check 1 has found it
        told = ComparedSource(
            source=source,
            verdict=copy.verdict,
            entries=copy.size,
            message=copy.message,
            evidence=tuple(self._keep(copy)),
        )
        if copy.verdict == "out_of_reach":
            self._again_s[source] = time.monotonic() + TRIED_AGAIN_S
            if source not in self._told or self._told[source].verdict != "out_of_reach":
                say(f"{source} is out of reach, and not compared: {copy.message}")
        else:
            auditor.step(CopyCompared(source=source, fault=copy.message if copy.verdict in FAULTS else None))
        self._told[source] = told

    def _open(self, source: str) -> FolderLog | HttpLog | Copy:
        """Raises Malformed: that is no address."""
        log = self._logs.get(source)
        if log is None:
            try:
                log = self._logs[source] = open_log(source)
            except (NotFound, Unavailable) as refusal:
                return Copy("out_of_reach", refusal.message)
        return log

    def _keep(self, copy: Copy) -> Iterator[str]:
        for evidence in copy.evidence:
            try:
                yield str(self._folder.keep(name_of(evidence), canonical.encode(evidence)))
            except OSError as error:
                say(f"Evidence could not be kept: {error}")
