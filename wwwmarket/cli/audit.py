"""``wwwmarket audit``: every claim of a log recomputed, from a folder or from whoever serves it, trusting nobody."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from secrets import SystemRandom
from typing import Annotated, Final, NoReturn

import msgspec
import typer

from wwwmarket.adapters.log_reader import FolderLog, HttpLog
from wwwmarket.cli.auditing import Resumption, Watch, audit_once, cores, opening, told
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.copies import ComparedSource, Copies, open_first
from wwwmarket.cli.evidence import judge_file
from wwwmarket.cli.options import Json, option
from wwwmarket.cli.output import emit, fail, say
from wwwmarket.cli.progress import Tell, progress
from wwwmarket.crypto import canonical
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Malformed, NotFound, Refusal, TooLarge
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.ledger.note import SignatureType, VerifierKey, parse_verifier_key
from wwwmarket.market.audit import Auditor, BalanceClaimed, Finding, Log, Report
from wwwmarket.node.service import AccountView, NodeStatus
from wwwmarket.rules.registry import Registry

VKEY_BYTES_MAX: Final = 1_024
BALANCES_BYTES_MAX: Final = 64 * 1024 * 1024
ASKED_ACCOUNTS_MAX: Final = 256
"""Balances that a node is asked for: all of a small market's, of a large one's a sample that no node can guess."""
AHEAD_S_MAX: Final = 30.0
"""How long the log may take to cover what the node said beyond it; six times what operators promise."""
AHEAD_POLL_S: Final = 0.5
EVIDENCE_FOLDER: Final = Path("evidence")
_COULD_NOT_RUN: Final = 2


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. Where ``key_from`` is the source itself, only consistency is proven, and not whose log
    it is. ``resume_sha256`` is that of what was put aside. ``compared`` are the other sources that were named.
    """

    source: str
    key: str
    key_from: str
    report: Report
    compared: tuple[ComparedSource, ...] = ()
    resume_sha256: str | None = None

    @property
    def out_of_reach(self) -> int:
        return sum(each.verdict == "out_of_reach" for each in self.compared)


class _ClaimedBalance(msgspec.Struct, frozen=True):
    account: AccountId
    available_micro: MicroCredits


def audit(  # noqa: PLR0913 - each is a choice about the audit
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIR|URL...",
            help="A folder of 'ledger export', or a node's or mirror's address; others are held against the first.",
        ),
    ] = None,
    *,
    vkey: Annotated[
        str | None,
        option("--vkey", "The log's verifier key, or a file of it; else the source's own.", metavar="TEXT|FILE"),
    ] = None,
    expect_balance: Annotated[
        list[str] | None,
        typer.Option("--expect-balance", help="Available micro-credits; may be repeated.", metavar="ACCOUNT=MICRO"),
    ] = None,
    evidence: Annotated[
        Path | None,
        option("--evidence", "Instead of a log: one file of evidence that somebody did wrong.", metavar="FILE"),
    ] = None,
    resume: Annotated[
        Path | None,
        option("--resume", "Go on from the audit that is put aside here, and put this one aside.", metavar="FILE"),
    ] = None,
    resume_sha256: Annotated[
        str | None,
        option("--resume-sha256", "What that file must be; the audit before told it.", metavar="HEX"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on as the log grows, until something is found or Ctrl-C.")
    ] = False,
    poll_s: Annotated[float, typer.Option("--poll-s", help="How often --watch looks.", min=0.05, max=3_600)] = 2.0,
    evidence_dir: Annotated[
        Path, option("--evidence-dir", "Where a split view's evidence is kept.", metavar="DIR")
    ] = EVIDENCE_FOLDER,
    processes: Annotated[
        int, option("--processes", "That verify signatures; 0: one for each core.", min=0, max=256)
    ] = 0,
    json: Json = False,
) -> None:
    """Check a whole log: signatures, tree, contracts replayed, awards and payments recomputed, credits conserved.

    Of several sources the first that is there is audited. Each other one's checkpoint is held against it: one tree has
    to be the beginning of the other, or the two views are kept as evidence against whoever signed both.

    Leaves with 0 when every check passes, 1 with findings, 2 when the audit could not run, or a source
    that was named is out of reach. With --watch it leaves when
    there is something to say: 1 with the first finding, 2 when the log is out of reach. With --evidence one record is
    judged, from itself alone: 1 when it proves the fault, 0 when it proves nothing, 2 when it cannot be read.

    What --resume puts aside is held against the log's own signatures; that the entries before it passed is the word of
    whoever wrote the file. Keep it where only you write, or its SHA-256 apart.

    \b
      wwwmarket audit http://127.0.0.1:8080 --watch --resume market.audit
      wwwmarket audit http://127.0.0.1:8080
      wwwmarket audit http://127.0.0.1:8080 http://127.0.0.1:8091 http://127.0.0.1:8092
      wwwmarket audit ./log --vkey market.example/log+1a2b3c4d+AQ…
      wwwmarket audit ./log --json | jq .report.verdict
      wwwmarket audit --evidence ./evidence.json
    """  # noqa: D301 - \b keeps the examples' lines
    if evidence is not None:
        if sources or vkey is not None or expect_balance or resume is not None or watch:
            raise typer.BadParameter("evidence is judged alone, without a log", param_hint="--evidence")
        judge_file(evidence, json=json)
        return
    if not sources:
        raise typer.BadParameter("name a log's folder or address, or --evidence", param_hint="DIR|URL")
    try:
        claims = [_parse_expectation(text) for text in expect_balance or ()]
        source, opened, others = open_first(sources)
        with (
            closing(opened) as log,
            closing(Copies(others, evidence_dir)) as copies,
            opening(processes or cores()) as opener,
            progress("Auditing") as tell,
        ):
            key, key_from = _verifier_key(vkey, log)
            resumption = Resumption(resume, resume_sha256)
            auditor = resumption.begin(Registry.load(), key)
            if watch:
                _watch(Watch(auditor, log, opener, resumption, copies), tell, poll_s)
            else:
                audit_once(auditor, log, opener, tell)
                copies.compare(auditor, log)
                resumption.keep(auditor)
                _hear_claims(auditor, log, claims, tell)
        report = auditor.report()
        done = Audit(
            source=source,
            key=key.text,
            key_from=key_from,
            report=report,
            compared=copies.told,
            resume_sha256=resumption.digest,
        )
    except Refusal as refusal:
        _could_not(refusal.message)
    except OSError as error:
        _could_not(str(error))
    if json:
        emit(done, json)
    else:
        _print(done)
    if watch and report.findings:
        say(told(report.findings[0]))
    _leave(done)


def _leave(done: Audit) -> None:
    if done.report.violations:
        raise typer.Exit(1)
    if done.out_of_reach:
        raise typer.Exit(_COULD_NOT_RUN)


def _could_not(why: str) -> NoReturn:
    fail(f"the audit could not run: {why}", _COULD_NOT_RUN)


def _watch(watch: Watch, tell: Tell, poll_s: float) -> None:
    with suppress(KeyboardInterrupt):
        watch.run(tell, poll_s)


def _verifier_key(given: str | None, log: Log) -> tuple[VerifierKey, str]:
    """The key, and where it is from. Raises NotFound, Malformed."""
    if given is None:
        served = log.read("vkey", bytes_max=VKEY_BYTES_MAX)
        if served is None:
            raise NotFound("the source has no vkey: name the log's verifier key with --vkey")
        text, key_from = _text(served), "source"
    else:
        text = _text(_read(Path(given))) if "+" not in given or Path(given).is_file() else given
        key_from = "given"
    key = parse_verifier_key(text)
    if key.type is not SignatureType.ED25519:
        raise Malformed("that is a cosigner's key, and not a log's")
    return key, key_from


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(VKEY_BYTES_MAX + 1)


def _text(key: bytes) -> str:
    try:
        return key.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Malformed("a verifier key is text") from None


def _parse_expectation(text: str) -> BalanceClaimed:
    account, _, amount = text.partition("=")
    try:
        claim = msgspec.convert({"account": account, "available_micro": amount}, _ClaimedBalance, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(f"{text!r} is not ACCOUNT=MICRO: {error}") from None
    return BalanceClaimed(account=claim.account, available_micro=claim.available_micro)


def _hear_claims(auditor: Auditor, log: FolderLog | HttpLog, expected: Iterable[BalanceClaimed], tell: Tell) -> None:
    """Check 16. What is expected is about the checkpoint; what a node serves may be about entries beyond it."""
    for claim in (*expected, *_exported_balances(log)):
        auditor.step(claim)
    if isinstance(log, HttpLog) and log.gateway is not None and not auditor.disputes_balances:
        with GatewayClient(log.gateway) as gateway:
            _ask_balances(auditor, gateway)
            if auditor.disputes_balances:
                _read_on(auditor, log, gateway, tell)


def _exported_balances(log: FolderLog | HttpLog) -> Iterable[BalanceClaimed]:
    """What ``balances.json`` beside an exported log says."""
    content = log.read("balances.json", bytes_max=BALANCES_BYTES_MAX) if isinstance(log, FolderLog) else None
    if content is None:
        return []
    if len(content) > BALANCES_BYTES_MAX:
        raise TooLarge(f"balances.json has more than {BALANCES_BYTES_MAX} bytes")
    balances = canonical.decode(content, dict[AccountId, Account], bytes_max=BALANCES_BYTES_MAX)
    return [_claim(account, balance) for account, balance in balances.items()]


def _claim(account: AccountId, balance: Account) -> BalanceClaimed:
    return BalanceClaimed(
        account=account,
        available_micro=balance.available_micro,
        locked_micro=balance.locked_micro,
        bonded_micro=balance.bonded_micro,
    )


def _ask_balances(auditor: Auditor, gateway: GatewayClient) -> None:
    accounts = sorted(auditor.state.accounts())
    if len(accounts) > ASKED_ACCOUNTS_MAX:
        accounts = SystemRandom().sample(accounts, ASKED_ACCOUNTS_MAX)
    for account in accounts:
        try:
            view = gateway.get(f"/v1/accounts/{account}", AccountView)
        except Refusal as refusal:
            say(f"Balances are not compared, for {gateway.base} does not tell them: {refusal.message}")
            return
        auditor.step(_claim(account, view.balance))


def _read_on(auditor: Auditor, log: HttpLog, gateway: GatewayClient, tell: Tell) -> None:
    """The node may have been ahead of its checkpoint: read until its log covers what it had when it answered."""
    ahead = gateway.get("/v1/status", NodeStatus).ledger_size
    deadline_s = time.monotonic() + AHEAD_S_MAX
    while auditor.disputes_balances and auditor.size < ahead and time.monotonic() < deadline_s:
        time.sleep(AHEAD_POLL_S)
        audit_once(auditor, log, None, tell)


def _print(done: Audit) -> None:
    report = done.report
    emit(_summary(done), json=False)
    emit([_contract(rule, source) for rule, source in report.contracts.items()], json=False)
    emit([_check_row(each) for each in msgspec.to_builtins(report.checks)], json=False)
    if done.compared:
        emit([_compared_row(each) for each in done.compared], json=False)
    if report.findings:
        emit([_finding_row(each) for each in report.findings], json=False)
    left_out = report.violations + report.consequences - len(report.findings)
    if left_out:
        emit(f"{left_out} more findings are counted above and not listed.", json=False)
    emit(_conclusion(done), json=False)


def _summary(done: Audit) -> Mapping[str, object]:
    report = done.report
    proves = "given" if done.key_from == "given" else "the source's own: consistency is proven, not whose log it is"
    return {
        "log": report.origin,
        "verifier_key": f"{done.key} ({proves})",
        "checkpoint": f"{report.checkpoint_size:,} entries, root {report.checkpoint_root}",
        "entries_read": report.entries,
        "accounts": report.accounts,
        "offers": report.offers,
        "awards": report.awards,
        "settlements": report.settlements,
        "transfers": report.transfers,
        "total_micro": report.total_micro,
        "ledger_time_ms": report.ledger_time_ms,
        **({"put_aside": f"SHA-256 {done.resume_sha256}"} if done.resume_sha256 else {}),
    }


def _contract(rule: str, source: str) -> Mapping[str, object]:
    return {"contract": rule, "sha256": source}


def _check_row(check: Mapping[str, object]) -> Mapping[str, object]:
    return {name: check[name] for name in ("check", "title", "examined", "findings", "verdict")}


def _finding_row(finding: Finding) -> Mapping[str, object]:
    return {
        "finding": finding.severity,
        "check": int(finding.check),
        "entry": finding.entry,
        "account": finding.account and finding.account[:12],
        "message": finding.message,
    }


def _compared_row(compared: ComparedSource) -> Mapping[str, object]:
    return {
        "source": compared.source,
        "verdict": compared.verdict.replace("_", " "),
        "shows": compared.message,
        "evidence": " ".join(compared.evidence),
    }


def _conclusion(done: Audit) -> str:
    report = done.report
    if not report.violations:
        return f"audit: pass, but {done.out_of_reach} out of reach" if done.out_of_reach else "audit: pass"
    return f"audit: {report.violations} finding{'s' if report.violations > 1 else ''}"
