"""Money under load and faults, by locust: a market of real processes that are killed while clients buy from it.

    locust -f loadtests/money.py --headless --users 200 --spawn-rate 20 --run-time 10m
    locust -f loadtests/money.py --headless --users 20 --spawn-rate 20 --run-time 1m --providers 2 --kill-every 10

The market is started here. A third of the clients leave in the middle of their answers; others send the same request
again under one Idempotency-Key until it is answered; others have their whole budget taken while they read. A bank tops
keys up and takes credits back all the while, and nodes are killed and started again.

Receipts are checked while it loads: signed by both sides, settled, the settlement proven to be in the signed log. At
the end the ledger is replayed, and every key's balance must be what its owner was told, to the last micro-credit;
nothing may be locked; the audit must pass. Exit code 1 otherwise.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Final
from uuid import uuid4

import gevent
import msgspec
import requests
from books import Client, Ledger
from hazards import MODEL, Hazards
from locust import HttpUser, between, events, task
from locust.env import Environment

from wwwmarket.crypto.signing import open_entry, verify
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.records import Settlement
from wwwmarket.ledger.bundles import decode_bundle
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.note import parse_verifier_key
from wwwmarket.ledger.proofs import inclusion_proof, verify_inclusion
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileReader, path_of
from wwwmarket.node.service import ReceiptView
from wwwmarket.rules.check import check

BUDGET_MICRO: Final = 200_000
SETTLED_WITHIN_S: Final = 240
"""An award whose gateway was killed is claimed by its provider alone, from about a minute on."""
UNLOCKED_WITHIN_S: Final = 480
OPEN_AWARDS: Final = "wwwmarket_open_awards"
COVERED_AFTER_S: Final = 5
PROVEN_SHARE: Final = 0.2
REQUEST_TIMEOUT_S: Final = 90
BANKERS: Final = 4
STATEMENTS: Final = 1
"""Read by the program itself; each is a replay of its own."""
PROMPTS: Final = ("Name three rivers.", "What is a market?", "Tell me of a lantern.", "Who carries the letter?")
REFUSED_EARLY: Final = frozenset({429, 503})
DELIVERED_BEFORE: Final = 410
REFUSALS: Final = {
    402: "402",
    429: "refused early",
    503: "refused early",
    DELIVERED_BEFORE: "paid, and its answer lost with the node",
}
"""What may be answered, besides an answer."""


@dataclass
class Tally:
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


@dataclass
class Run:
    """What this run has open. ``keys`` are known to the bank by the id of each."""

    site: Hazards
    chance: Random
    clients: dict[str, Client] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    over: bool = False
    helpers: list[Any] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.site.node.gateway


RUN: dict[str, Run] = {}


def run() -> Run:
    return RUN["run"]


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    parser.add_argument("--providers", type=int, default=3, help="how many sell")
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds between one kill and the next")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen; not of what the machine makes of it")
    parser.add_argument("--report", default="", help="write what came of it here, as JSON")


@events.init.add_listener
def open_market(environment: Environment, **_: Any) -> None:
    """Before the time of the run begins to count."""
    chosen = environment.parsed_options
    site = Hazards(chosen.providers, seed=chosen.seed)
    try:
        site.open()
    except Refusal as refusal:
        raise SystemExit(refusal.message) from None
    RUN["run"] = Run(site=site, chance=Random(chosen.seed))


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    run().helpers += [gevent.spawn(bank) for _ in range(BANKERS)]
    run().helpers.append(gevent.spawn(hazard, environment.parsed_options.kill_every))


def hazard(every_s: float) -> None:
    turn = 0
    while not run().over:
        gevent.sleep(every_s)
        if not run().over:
            try:
                run().site.kill_some(turn)
            except Refusal as refusal:
                run().tally.wrong.append(f"a killed node did not come back: {refusal.message}")
            turn += 1


def admin(method: str, path: str, form: dict[str, Any], name: str | None = None) -> requests.Response | None:
    """The operator's doors; None where nobody answered."""
    headers = {"authorization": f"Bearer {run().site.admin_token}"}
    if name is not None:
        headers["idempotency-key"] = name
    try:
        return requests.request(method, f"{run().base}{path}", json=form, headers=headers, timeout=REQUEST_TIMEOUT_S)
    except requests.RequestException:
        return None


def move(kind: str, key_id: str, amount_micro: int) -> None:
    """A top-up or a refund, and wait for it. It goes on where the user who asked for it is stopped: credits that came
    without the bank's hearing of it would be missing from its books.
    """
    moving = gevent.spawn(_move, kind, key_id, amount_micro)
    run().helpers.append(moving)
    moving.join()


def _move(kind: str, key_id: str, amount_micro: int) -> None:
    """Sent again under its name until there is a word on it: made once, or refused."""
    name = str(uuid4())
    while True:
        answer = admin("POST", f"/v1/keys/{key_id}/{kind}", {"amount_micro": amount_micro}, name)
        if answer is not None and answer.status_code == 200:
            run().clients[key_id].moved_micro += amount_micro if kind == "top-up" else -amount_micro
            run().tally.count(kind)
            return
        if answer is not None and answer.status_code in {402, 409}:
            run().tally.count(f"{kind} refused")
            return
        if answer is not None and answer.status_code not in REFUSED_EARLY:
            run().tally.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            return
        gevent.sleep(0.2)


def bank() -> None:
    """All the while: credits come and go, also for keys that are buying."""
    while not run().over:
        gevent.sleep(run().chance.uniform(0.05, 0.5))
        if run().clients:
            key_id = run().chance.choice(list(run().clients))
            move(run().chance.choice(("top-up", "refund")), key_id, run().chance.randint(1, 5_000))


class Buyer(HttpUser):
    """Reads its answers to the end, and looks at each receipt."""

    wait_time = between(0.5, 2.0)
    host = "http://started.by.this.program"
    weight = 4
    budget_micro = BUDGET_MICRO

    def on_start(self) -> None:
        made = None
        while made is None or made.status_code != 201:
            made = admin("POST", "/v1/keys", {"name": type(self).__name__, "budget_micro": self.budget_micro})
        key = made.json()
        self.key_id, self.books = key["id"], Client(account=key["account"], moved_micro=self.budget_micro)
        run().clients[self.key_id] = self.books
        self.client.headers["authorization"] = f"Bearer {key['key']}"
        self.client.headers["connection"] = "close"  # else a busy client's next request meets one that just timed out

    @task
    def buy(self) -> None:
        self.books.intents += 1
        self.stream(self.ask())

    def ask(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": run().chance.choice(PROMPTS)}]
        request = {"model": MODEL, "messages": messages, "max_tokens": run().chance.randint(4, 40)}
        return request | {"stream": True, "stream_options": {"include_usage": True}}

    def stream(self, body: dict[str, Any], *, name: str | None = None, leave_after: int | None = None) -> bool:
        """One try. True where there is an end to it: an answer, or a refusal that nobody should repeat."""
        label, began_s = type(self).__name__, time.monotonic()
        headers = {} if name is None else {"idempotency-key": name}
        told: dict[str, Any] | None = None
        failed, lines, award = False, 0, None
        url = f"{run().base}/v1/chat/completions"
        with self.client.post(
            url, json=body, headers=headers, name=label, stream=True, catch_response=True, timeout=REQUEST_TIMEOUT_S
        ) as answer:
            try:
                award = answer.headers.get("x-wwwmarket-award") if answer.status_code == 200 else None
                for line in answer.iter_lines() if answer.status_code == 200 else ():
                    lines += line.startswith(b"data: {")
                    said = json.loads(line[6:]) if line.startswith(b"data: {") else {}
                    told, failed = said.get("wwwmarket") or told, failed or "error" in said
                    self.read(lines)
                    if leave_after is not None and lines >= leave_after:
                        run().tally.count("left in the middle")
                        answer.success()
                        return True
            except requests.RequestException:
                pass
            return self.end(answer, began_s, award, told, failed=failed)

    def read(self, lines: int) -> None:
        """After each event of an answer."""

    def end(self, answer: Any, began_s: float, award: str | None, told: dict[str, Any] | None, *, failed: bool) -> bool:
        if told is not None:
            answer.success()
            run().tally.count("answered")
            self.books.told[told["award"]] = told["cost_micro"]
            gevent.spawn(self.check, told)
            return True
        if failed and award is not None:
            answer.success()
            run().tally.count("broken off, and said so")
            self.books.free.add(award)
            return False
        lost = "lost with the node" if run().site.was_away(began_s) else None
        if (what := REFUSALS.get(answer.status_code, lost)) is not None:
            answer.success()
            run().tally.count(what)
            return answer.status_code == DELIVERED_BEFORE
        text = answer.text[:200] if award is None and answer.status_code else ""
        run().tally.wrong.append(f"status {answer.status_code}, no end and no kill: {text}")
        return False

    def check(self, told: dict[str, Any]) -> None:
        """The receipt says what the answer said, signed by both, and an entry of the signed log settles it."""
        began_s = time.monotonic()
        while not run().over:
            view = self.receipt_of(told)
            if view is not None and view.settlement_index is not None:
                break
            if time.monotonic() > began_s + SETTLED_WITHIN_S:
                if view is None and run().site.was_away(began_s):  # what a crash may forget; the ledger is read below
                    run().tally.count("receipt lost with the node")
                else:
                    run().tally.wrong.append(f"award {told['award']} is not settled after {SETTLED_WITHIN_S} s")
                return
            gevent.sleep(1)
        else:
            return
        try:
            self.compare(view, told)
            if run().chance.random() < PROVEN_SHARE:
                self.prove(view)
        except requests.RequestException:
            run().tally.count("proof cut off by a kill")
        except Refusal as refusal:
            run().tally.wrong.append(f"award {told['award']}: {refusal.message}")

    def receipt_of(self, told: dict[str, Any]) -> ReceiptView | None:
        try:
            answer = requests.get(f"{run().base}{told['receipt']}", timeout=REQUEST_TIMEOUT_S)
        except requests.RequestException:
            return None
        return msgspec.json.decode(answer.content, type=ReceiptView) if answer.status_code == 200 else None

    def compare(self, view: ReceiptView, told: dict[str, Any]) -> None:
        if view.receipt is None or view.attestation is None:
            run().tally.wrong.append(f"award {told['award']} is settled without both sides' accounts")
            return
        verify(view.receipt)
        if verify(view.attestation).by != told["provider"]:
            run().tally.wrong.append(f"award {told['award']} is attested by another than its provider")
        if view.cost_micro != told["cost_micro"]:
            run().tally.wrong.append(f"award {told['award']}: told {told['cost_micro']}, receipt {view.cost_micro}")
        run().tally.count("receipts checked")

    def prove(self, view: ReceiptView) -> None:
        """From tiles alone. A log that has moved on meanwhile may lack a partial tile: then a newer checkpoint."""
        assert view.settlement_index is not None
        for _ in range(40):
            log = parse_verifier_key(run().site.node.vkey)
            try:
                note = open_checkpoint(fetch("checkpoint"), log).checkpoint
                if note.size > view.settlement_index:
                    self.verify_at(view, note.size, note.root)
                    run().tally.count("settlements proven")
                    return
            except LookupError:  # the log has moved on, or its node has only just come back
                pass
            gevent.sleep(0.25)
        run().tally.wrong.append(f"the settlement of {view.award} is in no checkpoint")

    @staticmethod
    def verify_at(view: ReceiptView, size: int, root: bytes) -> None:
        index = view.settlement_index
        assert index is not None
        number = index // TILE_WIDTH
        bundle = BundleId(number=number, width=min(TILE_WIDTH, size - number * TILE_WIDTH))
        leaf = decode_bundle(fetch(path_of(bundle)), width=bundle.width)[index % TILE_WIDTH]
        proof = inclusion_proof(index, size, TileReader(size, lambda tile: fetch(path_of(tile))))
        verify_inclusion(index, size, leaf_hash(leaf), proof, root)
        body = check(open_entry(leaf)).body
        if not isinstance(body, Settlement) or body.award != view.award or body.attestation != view.attestation:
            run().tally.wrong.append(f"entry {index} does not settle {view.award} as its receipt says")


def fetch(path: str) -> bytes:
    """A file of the log. Raises LookupError where it is not there now."""
    answer = requests.get(f"{run().base}/ledger/{path}", timeout=REQUEST_TIMEOUT_S)
    if answer.status_code != 200:
        raise LookupError(path)
    return answer.content


class Leaver(Buyer):
    """Closes the connection in the middle of each answer."""

    @task
    def buy(self) -> None:
        self.books.intents += 1
        self.stream(self.ask(), leave_after=run().chance.randint(1, 6))


class Repeater(Buyer):
    """Sends the same request under one name until it is answered, and sometimes once more, and pays once."""

    weight = 3

    @task
    def buy(self) -> None:
        name, body = str(uuid4()), self.ask()
        self.books.intents += 1
        while not run().over and not self.stream(body, name=name):
            gevent.sleep(run().chance.uniform(0.2, 1.0))
        if run().chance.random() < 0.2:
            self.stream(body, name=name)


class Pauper(Buyer):
    """Has all that it has left taken while it reads, ends its answer all the same, and is refused the next one."""

    weight = 1
    budget_micro = 20_000

    @task
    def buy(self) -> None:
        self.books.intents += 2
        self.stream(self.ask())
        self.stream(self.ask())
        move("top-up", self.key_id, self.budget_micro)

    def read(self, lines: int) -> None:
        if lines == 2:
            balance = requests.get(f"{run().base}/v1/accounts/{self.books.account}", timeout=REQUEST_TIMEOUT_S).json()
            if balance["balance"]["available_micro"]:
                move("refund", self.key_id, balance["balance"]["available_micro"])
                run().tally.count("budget exhausted in mid-stream")


@events.test_stop.add_listener
def stop(**_: Any) -> None:
    run().over = True
    gevent.joinall(run().helpers, timeout=120)


def wait_unlocked() -> Ledger:
    """Wait until the node says that nothing is open, and a checkpoint covers it; then read all of it."""
    deadline = time.monotonic() + UNLOCKED_WITHIN_S
    while time.monotonic() < deadline:
        text = requests.get(f"{run().base}/metrics", timeout=REQUEST_TIMEOUT_S).text
        gauges = dict(line.split(" ") for line in text.splitlines() if line.startswith(OPEN_AWARDS))
        if gauges and not float(gauges[OPEN_AWARDS]):
            break
        time.sleep(2)
    time.sleep(COVERED_AFTER_S)
    return Ledger(f"{run().base}/ledger", run().site.node.vkey)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wwwmarket", *arguments], capture_output=True, text=True, check=False, timeout=600
    )


def judge_statements(ledger: Ledger) -> None:
    """The program's own statements of some keys close with the balance of this replay."""
    for client in list(run().clients.values())[:STATEMENTS]:
        done = command("account", "statement", client.account, "--ledger", f"{run().base}/ledger", "--json")
        closing = json.loads(done.stdout)["closing"] if done.returncode == 0 else done.stderr
        if closing != msgspec.to_builtins(ledger.state.account(client.account)):
            run().tally.wrong.append(f"the statement of {client.account[:8]} closes with {closing}")


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Replay, compare, audit; the exit code says whether all was well."""
    if "run" not in RUN:
        return
    tally, site = run().tally, run().site
    try:
        ledger = wait_unlocked()
        tally.wrong += ledger.faults()
        for client in run().clients.values():
            tally.wrong += ledger.unexplained(client)
        judge_statements(ledger)
        audit = command("audit", f"{run().base}/ledger", "--vkey", site.node.vkey)
        print(audit.stdout[-2_000:])
        charged = sum(cost_micro > 0 for cost_micro in ledger.costs.values())
        done = {"clients": len(run().clients), "ledger entries": ledger.size, "awards charged": charged, **tally.done}
        for name, count in {**done, **{f"kills of {name}": count for name, count in site.kills.items()}}.items():
            print(f"{name:32}{count:10,}")
        for what in tally.wrong[:30]:
            print(f"wrong: {what}")
        print(f"{len(tally.wrong)} things wrong; audit {'passes' if audit.returncode == 0 else 'FAILS'}")
        if environment.parsed_options.report:
            with open(environment.parsed_options.report, "w", encoding="utf-8") as report:  # noqa: PTH123
                json.dump({**asdict(tally), "kills": site.kills, "summary": done}, report, indent=1)
        if audit.returncode or tally.wrong or environment.stats.total.num_failures:
            environment.process_exit_code = 1
    finally:
        site.close()
