"""``wwwmarket audit --evidence``: whether one record proves that somebody did wrong, from itself alone."""

from pathlib import Path
from typing import Final, cast

import msgspec
import typer

from wwwmarket.cli.output import emit, fail
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.evidence import LogEvidence
from wwwmarket.domain.records import Evidence
from wwwmarket.ledger import evidence as log_evidence
from wwwmarket.ledger.evidence import Guilt
from wwwmarket.market.evidence import EVIDENCE_BYTES_MAX, Proven, judge
from wwwmarket.rules.registry import Registry

_ANY: Final = cast("type[Evidence | LogEvidence]", Evidence | LogEvidence)

_UNREADABLE: Final = 2


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints: the proven fault, or why nothing is proven."""

    verdict: str
    proven: Proven | Guilt | None
    reason: str


def judge_file(file: Path, *, json: bool) -> None:
    """Judge a file of canonical bytes; a final line feed may follow them.

    Leaves with 1 when it proves the fault, 0 when it proves nothing, 2 when it is not evidence at all.
    """
    evidence = _read(file)
    try:
        proven = _judge(evidence)
    except Refusal as refusal:
        judgement = Judgement(verdict="not proven", proven=None, reason=refusal.message)
    else:
        judgement = Judgement(verdict="proven", proven=proven, reason=proven.message)
    if json:
        emit(judgement, json)
    else:
        if judgement.proven is not None:
            emit(judgement.proven, json=False)
        emit(f"evidence: {judgement.verdict}: {judgement.reason}", json=False)
    if judgement.proven is not None:
        raise typer.Exit(1)


def _judge(evidence: Evidence | LogEvidence) -> Proven | Guilt:
    if isinstance(evidence, Evidence):
        return judge(evidence, Registry.load().current.award)
    return log_evidence.judge(evidence)


def _read(file: Path) -> Evidence | LogEvidence:
    try:
        with file.open("rb") as opened:
            data = opened.read(EVIDENCE_BYTES_MAX + 2)
        return canonical.decode(data.removesuffix(b"\n"), _ANY, bytes_max=EVIDENCE_BYTES_MAX)
    except (OSError, Refusal) as error:
        why = error.message if isinstance(error, Refusal) else str(error)
        fail(f"the evidence could not be read: {why}", _UNREADABLE)
