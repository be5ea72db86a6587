"""``wwwmarket demo``: a whole market on this machine, from the first offer to the last line of its audit."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import msgspec

from wwwmarket.cli.amounts import credits_text
from wwwmarket.cli.demo.buyers import Buyer, Reply, new_buyer
from wwwmarket.cli.demo.market import Market, opened
from wwwmarket.cli.demo.processes import environment
from wwwmarket.cli.explain import why
from wwwmarket.cli.options import Json, ReadyFile, option
from wwwmarket.cli.output import emit, printable, say
from wwwmarket.cli.serving import INTERRUPTED, write_whole
from wwwmarket.domain.errors import Refusal
from wwwmarket.node.service import Explanation

AUDIT_TIMEOUT_S: Final = 60
TEXT_SHOWN: Final = 100
AT_ONCE: Final = 3
PROMPTS: Final = (
    "Tell me about the river.",
    "What does the keeper remember?",
    "Write a line about a signal at night.",
    "Who reads the ledger?",
)


class Wish(NamedTuple):
    """What one request is for, in words and as the gateway's headers."""

    words: str
    headers: dict[str, str]


WISHES: Final = (
    Wish("first token within half a second", {"x-slo-ttft-ms": "500"}),
    Wish("the cheapest", {}),
    Wish("a second is worth a credit", {"x-wwwmarket-time-value": "1"}),
)


class Ready(msgspec.Struct, frozen=True):
    """What ``--ready-file`` holds: enough to use the market, and to verify its ledger."""

    gateway: str
    api_key: str
    model: str
    ledger: str
    vkey: str
    admin_token_file: str


def demo(  # noqa: PLR0913 - how much there is to see
    *,
    providers: Annotated[int, option("--providers", "How many providers there are.", min=1, max=16)] = 3,
    requests: Annotated[int, option("--requests", "How many requests are sent.", min=0, max=1_000)] = 6,
    stay: Annotated[bool, option("--stay", "Keep the market open afterwards, until Ctrl-C.")] = False,
    directory: Annotated[
        Path | None, option("--dir", "Keep all keys, databases and logs here; else removed at the end.", metavar="DIR")
    ] = None,
    ready_file: ReadyFile = None,
    json: Json = False,
) -> None:
    """Run a market on this machine: providers in processes of their own, requests bought, paid, and audited.

    It ends with the line "audit: pass", and with exit code 0 only if every request was answered and the audit passed.
    Told to end before that (SIGTERM), it ends its market in order and leaves with 130; with 0 if it was to stay.

    \b
      wwwmarket demo
      wwwmarket demo --providers 5 --requests 20
      wwwmarket demo --stay --ready-file market.json     then use it with any OpenAI client
    """  # noqa: D301 - \b keeps the examples' lines
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm(0 if stay else INTERRUPTED))
        where = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wwwmarket-demo-")))
        begun_s = time.monotonic()
        say(f"Starting a market and {providers} providers …")
        market = stack.enter_context(opened(where.absolute(), providers))
        stack.enter_context(_announced(market, ready_file))
        say(f"Open after {time.monotonic() - begun_s:.1f} s: {market.client.base}")
        passed = _show(market, requests, where, json=json)
        if stay:
            _stay(market)
    sys.exit(0 if passed else 1)


@contextlib.contextmanager
def _ended_by_sigterm(code: int) -> Iterator[None]:
    """SIGTERM ends the demo with ``code``, and its children with it, as Ctrl-C does."""

    def end(*_: object) -> NoReturn:
        sys.exit(code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _announced(market: Market, ready_file: Path | None) -> Iterator[None]:
    if ready_file is None:
        yield
        return
    ready = Ready(
        gateway=market.node.openai,
        api_key=market.guest.key,
        model=market.model,
        ledger=market.ledger,
        vkey=market.node.vkey,
        admin_token_file=market.node.admin_token_file,
    )
    write_whole(ready_file, msgspec.json.format(msgspec.json.encode(ready), indent=2) + b"\n")
    try:
        yield
    finally:
        ready_file.unlink(missing_ok=True)


def _show(market: Market, requests: int, directory: Path, *, json: bool) -> bool:
    """Buy, settle, add up, audit; whether all of it went well."""
    before = market.balances()
    with contextlib.closing(new_buyer(market.client.base, market.key.key, market.model)) as client:
        say(f"{requests} requests by {client.name}:")
        bought = _buy_all(market, client, requests, json=json)
    after = market.balances()
    balances = [
        {"account": name, "before_micro": had, "after_micro": after[name], "change_micro": after[name] - had}
        for name, had in before.items()
    ]
    balanced = before["client"] - after["client"] == sum(one["cost_micro"] for one in bought)
    audit = _audit(market, directory)
    answered = sum(one["answered"] for one in bought)
    if json:
        result = {"requests": bought, "answered": answered, "balances": balances, "balanced": balanced, "audit": audit}
        emit(result | {"market": market.client.base, "model": market.model}, json)
    else:
        emit(balances, json)
        emit(f"answered: {answered} of {requests}", json)
        emit(f"paid: {'exactly' if balanced else 'NOT'} what the answers cost", json)
        emit(f"audit: {audit}", json)
    sys.stdout.flush()
    return answered == requests and balanced and audit == "pass"


def _buy_all(market: Market, client: Buyer, requests: int, *, json: bool) -> list[dict[str, Any]]:
    """A few requests at a time, so that prices feel the load; each is shown once it is settled."""
    with ThreadPoolExecutor(min(len(market.names) + 1, AT_ONCE)) as pool:
        replies = [pool.submit(_buy, client, place) for place in range(requests)]
        return [_settle(market, reply, place, json=json) for place, reply in enumerate(replies)]


def _buy(client: Buyer, place: int) -> Reply:
    return client.buy(PROMPTS[place % len(PROMPTS)], WISHES[place % len(WISHES)].headers, stream=place % 2 == 0)


def _settle(market: Market, bought: "Future[Reply]", place: int, *, json: bool) -> dict[str, Any]:
    """One request's row, when the ledger has settled it."""
    wish = WISHES[place % len(WISHES)]
    row: dict[str, Any] = {"wish": wish.words, "stream": place % 2 == 0}
    try:
        reply = bought.result()
        told = market.settled(reply.award)
    except Refusal as refusal:
        say(f"{place + 1:3}  not answered: {refusal.message}")
        return row | {"answered": False, "error": refusal.message, "cost_micro": 0}
    winner = market.names.get(told.award.winner.signer, told.award.winner.signer)
    if not json:
        _print(place, wish, reply, told, winner)
    return row | {
        "answered": True,
        "award": reply.award,
        "winner": winner,
        "cost_micro": told.cost_micro or 0,
        "ttft_ms": reply.ttft_ms,
        "latency_ms": reply.latency_ms,
        "why": why(told),
        "asks": len(told.asks),
        "text": reply.text,
    }


def _print(place: int, wish: Wish, reply: Reply, told: Explanation, winner: str) -> None:
    cost = credits_text(told.cost_micro or 0)
    text = printable(reply.text)
    shown = text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
    sys.stdout.write(
        f"{place + 1:3}  {winner} for {cost} credits, first token after {reply.ttft_ms} ms\n"
        f"     wanted: {wish.words}; {why(told)}\n"
        f"     {shown}\n"
    )
    sys.stdout.flush()


def _audit(market: Market, directory: Path) -> str:
    """Export the ledger, and have it audited as anybody could: "pass", or what went wrong."""
    exported = directory / "ledger"
    for arguments in (
        ("ledger", "export", str(exported), "--ledger", market.client.base, "--force"),
        ("audit", str(exported), "--vkey", market.node.vkey),
    ):
        done = subprocess.run(  # noqa: S603 - this very program
            [sys.executable, "-m", "wwwmarket", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=AUDIT_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            say(done.stdout + done.stderr)
            return f"fail ({arguments[0]} left with {done.returncode})"
    return "pass"


def _stay(market: Market) -> None:
    say(
        f"The market stays open until Ctrl-C. Its page: {market.client.base}/  its interface: {market.client.base}/docs"
    )
    say(f"  OPENAI_BASE_URL={market.node.openai} OPENAI_API_KEY={market.guest.key}  model: {printable(market.model)}")
    say(f"  ledger: {market.ledger}  verifier key: {market.node.vkey}")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        signal.pause()
