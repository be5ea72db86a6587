"""What becomes of the money of one purchase when one thing goes wrong: every case is run, and the page is what came.

    python -m tests.simulation.outcomes.table > docs/money-outcomes.md

The nodes are the product's own, over the simulator's twins of network, stores and engines, in simulated time.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from tests.integration.node.town import (
    REGISTRY,
    Bought,
    House,
    Town,
    bodies,
    buy,
    collect,
    dearer,
    purchase,
    settlements,
    simulate,
)
from tests.simulation.outcomes.faulty_town import AWAY_S, DEATHS, MESSAGES, WRITES, Fault, FaultyTown
from wwwmarket.config import LOCAL
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.records import Award, Settlement, Transfer
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.market.statement import Reader, balance_of
from wwwmarket.ports.engine import ResponsePiece
from wwwmarket.rules.check import check
from wwwmarket.rules.state import State
from wwwmarket.simulator.engine import Begin, Pause, Say

SHORT = replace(
    LOCAL,
    execution=replace(LOCAL.execution, bound_base_ms=3_000, claim_after_ms=1_000, claim_window_ms=8_000),
)
PLAY = (Begin(), Pause(duration_ms=50), Say(data=b"data: one\n\n"), Pause(duration_ms=50), Say(data=b"data: two\n\n"))
PLAY = (*PLAY, Pause(duration_ms=50))
WHOLE = b"data: one\n\ndata: two\n\n"
PURSE_MICRO = 1_000_000
ENOUGH_S = 60

OUTCOMES = {
    "answered": "The winner's answer is whole; it is paid for the tokens counted, once.",
    "answered by the next best": "The first winner gets nothing, the next-best ask answers and is paid, once.",
    "refused": "The client hears why before any token, and nothing is paid; with another provider left it is asked.",
    "broken off": "The client hears it in the middle of the answer, and nothing is paid: the provider attests a "
    "failure, or it learns from the gateway, by another way if need be, that what it sent was of no use.",
    "client gone": "The client left, or its gateway died; nothing is paid.",
    "client gone, sent tokens paid": "The client left, or its gateway died; what the provider sent until it noticed is "
    "paid once, by the gateway's settlement or by the provider's claim.",
}
"""All that may come of a purchase. Anything else fails the run."""

LETTERS = "ABCDEF"
CUTS = ("before the award", "after the award", "after the head", "after the first token", "after the second token")


class Case(NamedTuple):
    point: str
    kind: str


def points() -> tuple[list[str], set[str]]:
    """What a purchase in which nothing goes wrong passes by, in order; and which of it are writes."""
    passed: list[str] = []
    writes: set[str] = set()

    async def story(town: FaultyTown) -> None:
        await _settle_in(town)
        town.arm(None)
        bought = await buy(town.houses["gateway"])
        assert bought.text == WHOLE, bought.refusal
        await town.settled()
        await asyncio.sleep(5)
        passed.extend(town.points)
        writes.update(town.writes)

    simulate(story, SHORT, make=FaultyTown)
    return passed, writes


def cases() -> Iterator[Case]:
    passed, writes = points()
    for point in passed:
        for kind in WRITES if point in writes else (*MESSAGES, *DEATHS):
            if not (kind == "twice" and point.startswith(("ask", "promise of"))):  # an answer has one request
                yield Case(point, kind)
    for cut in CUTS:
        yield Case("the client leaves", cut)


async def _settle_in(town: Town) -> None:
    """A ledger's operator, a gateway with some credits, a cheap provider and a dear one."""
    operator = await town.house("operator", None)
    gateway = await town.house("gateway", None)
    await town.house("winner", PLAY)
    await town.house("runner-up", PLAY, prices=dearer(2))
    await town.listed(2)
    body = Transfer(to=gateway.key.account, amount_micro=PURSE_MICRO)
    await operator.node.author.settle(operator.key.account, body)
    account, houses = gateway.key.account, town.houses.values()
    await town.until(
        lambda: all(house.node.replica.state.account(account).available_micro == PURSE_MICRO for house in houses)
    )


def outcome_of(case: Case) -> str:
    """Run it. Raises AssertionError where money does not add up, or what came of it is none of ``OUTCOMES``."""
    came: list[str] = []

    async def story(town: FaultyTown) -> None:
        await _settle_in(town)
        gateway = town.houses["gateway"]
        buying = gateway.spawn(_as_client(gateway, case))
        town.arm(None if case.point == "the client leaves" else Fault(*case))
        await _live_through(town, buying)
        bought = Bought() if buying.cancelled() else buying.result()
        gone = buying.cancelled() or case.point == "the client leaves"
        await town.settled()
        came.append(_judge(town, bought, gone=gone))
        assert town.struck or case.point == "the client leaves", f"{case} never came"
        await _still_works(town)

    simulate(story, SHORT, make=FaultyTown)
    return came[0]


async def _as_client(gateway: House, case: Case) -> Bought:
    answer = gateway.answers.purchase(purchase(gateway.key.account))
    if case.point != "the client leaves":
        return await collect(answer)
    bought, stop = Bought(), CUTS.index(case.kind)
    if stop == 0:
        reading = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait((reading,))
    while len(bought.events) < stop:
        bought.events.append(await anext(answer))
    await answer.aclose()
    return bought


async def _live_through(town: FaultyTown, buying: "asyncio.Task[Bought]") -> None:
    """Whoever dies is back after half a second; then everybody has time to come to an end."""
    dying = {asyncio.ensure_future(house.died.wait()): house for house in town.houses.values()}
    enough = asyncio.ensure_future(asyncio.sleep(ENOUGH_S))
    done, _ = await asyncio.wait((*dying, enough), return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        house = dying.get(task)
        if house is not None:
            await house.kill()
            await asyncio.sleep(AWAY_S)
            await house.open()
    for task in (*dying, enough):
        task.cancel()
    await asyncio.wait((buying,))


def _judge(town: FaultyTown, bought: Bought, *, gone: bool) -> str:
    """The outcome by what the client saw and what the ledger says."""
    charged = _charges(town)
    assert len(charged) <= 1, f"charged twice: {charged}"
    paid_micro = sum(charged.values())
    earned = [town.available(town.houses[name].key.account) for name in ("winner", "runner-up")]
    assert sum(earned) == paid_micro, "what is charged is what a provider got"
    if gone:
        return "client gone, sent tokens paid" if paid_micro else "client gone"
    if bought.refusal is None:
        delivered = bought.delivered
        assert (delivered.outcome, bought.text) == ("completed", WHOLE)
        assert charged == {delivered.award: delivered.cost_micro}, "charged is what the client was told"
        return "answered" if earned[0] else "answered by the next best"
    if not bought.of(ResponsePiece):
        assert not paid_micro, f"charged for nothing: {bought.refusal}"
        return "refused"
    assert not paid_micro, f"charged for an answer that broke off: {bought.refusal}"
    return "broken off"


def _charges(town: FaultyTown) -> dict[str, int]:
    """What each award cost the gateway's account, by its statement; and the whole ledger adds up."""
    operator, account = town.operator, town.houses["gateway"].key.account
    reader = Reader(account, State(REGISTRY))
    checked = [check(open_entry(leaf)) for leaf in operator.ledger._leaves]
    lines = [line for entry in checked if (line := reader.follow(entry)) is not None]
    state = reader.state
    assert balance_of(lines) == state.account(account)
    assert state.account(account).locked_micro == 0
    assert conservation_fault(state.accounts(), state.total_micro) is None
    assert expiry_fault(state) is None
    assert set(settlements(operator).values()) <= {1}
    assert len(bodies(operator, Settlement)) <= len(bodies(operator, Award))
    return {line.award: -line.net_micro for line in lines if line.kind == "settlement" and line.net_micro}


async def _still_works(town: FaultyTown) -> None:
    """The next purchase succeeds."""
    gateway = town.houses["gateway"]
    await town.listed(2)
    bought = await buy(gateway)
    assert bought.text == WHOLE, bought.refusal
    await town.settled()


def page(rows: dict[Case, str]) -> str:
    """The table in Markdown: a line for each point, and in each cell what came of the fault there."""
    short = {name: f"**{letter}**" for name, letter in zip(OUTCOMES, LETTERS, strict=True)}
    lines = [
        "# What becomes of the money when something goes wrong",
        "",
        "One purchase through a gateway that does not order the ledger, with two providers; one fault a run, at each",
        "message and each write on its way. This page is written by the run itself, over the product's own nodes in",
        "simulated time (`python -m tests.simulation.outcomes.table`), and a test holds the two equal. After each run",
        "credits are conserved, nothing is locked, no award is settled twice, and the next purchase succeeds.",
        "",
        "Whoever dies loses all that it had not written down, and is back half a second later. A message that is late is",
        "4 seconds late. One that is lost stays lost, and with it the stream that it was on.",
        "",
        "| | outcome | runs |",
        "|---|---|---|",
    ]
    for name, meaning in OUTCOMES.items():
        lines.append(f"| {short[name]} | {name}: {meaning} | {sum(came == name for came in rows.values())} |")
    messages = list(dict.fromkeys(case.point for case in rows if case.kind in DEATHS))
    lines += ["", "## Messages", "", f"| message | {' | '.join((*MESSAGES, *DEATHS))} |", "|---" * 8 + "|"]
    for point in messages:
        cells = [short.get(rows.get(Case(point, kind), ""), "") for kind in (*MESSAGES, *DEATHS)]
        lines.append(f"| {point} | {' | '.join(cells)} |")
    lines += ["", "## Writes", "", "| write | its node dies before | its node dies after |", "|---|---|---|"]
    for point in dict.fromkeys(case.point for case in rows if case.kind in WRITES):
        lines.append(f"| {point} | {' | '.join(short[rows[Case(point, kind)]] for kind in WRITES)} |")
    lines += ["", "## The client leaves", "", "| when | outcome |", "|---|---|"]
    lines += [f"| {cut} | {short[rows[Case('the client leaves', cut)]]} |" for cut in CUTS]
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[Case, str]:
    """What a page says of each case."""
    names = {f"**{letter}**": name for name, letter in zip(OUTCOMES, LETTERS, strict=True)}
    rows: dict[Case, str] = {}
    columns: tuple[str, ...] = ()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            columns = {"Messages": (*MESSAGES, *DEATHS), "Writes": WRITES, "The client leaves": ("",)}[line[3:]]
        elif columns and len(cells) == len(columns) + 1 and cells[1] in names:
            for kind, cell in zip(columns, cells[1:], strict=True):
                if cell:
                    rows[Case(cells[0], kind) if kind else Case("the client leaves", cells[0])] = names[cell]
    return rows


if __name__ == "__main__":
    sys.stdout.write(page({case: outcome_of(case) for case in cases()}))
