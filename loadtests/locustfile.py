"""Load on a gateway by locust, which checks what it is told while it loads, and the whole ledger at the end.

    wwwmarket demo --stay --ready-file market.json &
    locust -f loadtests/locustfile.py --headless --users 20 --run-time 1m --market market.json

Every answer's cost must be its receipt's, every receipt must be signed by both parties and settled by an entry of the
ledger; at the end the audit of the whole ledger must pass. Exit code 1 otherwise.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from random import choice, randint
from typing import Any

import msgspec
from locust import HttpUser, between, events, task
from locust.env import Environment

from wwwmarket.crypto.signing import verify
from wwwmarket.domain.errors import Refusal
from wwwmarket.node.service import ReceiptView

SETTLED_WITHIN_S = 10
PROMPTS = ("Name three rivers.", "What is a market?", "Tell me of a lantern.", "Who carries the letter?")

STATE: dict[str, Any] = {"market": None, "wrong": []}


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    parser.add_argument("--market", default="market.json", help="the ready file of the market to load")


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    STATE["market"] = json.loads(Path(environment.parsed_options.market).read_text())
    STATE["wrong"].clear()


def wrong(what: str) -> None:
    STATE["wrong"].append(what)


class Client(HttpUser):
    """Buys answers, whole, streamed, or left in the middle, and looks at each receipt."""

    wait_time = between(0.0, 0.2)
    host = "http://set.by.the.ready.file"

    def on_start(self) -> None:
        market = STATE["market"]
        self.base = market["gateway"].removesuffix("/v1")
        self.client.headers["authorization"] = f"Bearer {market['api_key']}"

    def ask(self, *, stream: bool) -> dict[str, Any]:
        messages = [{"role": "user", "content": choice(PROMPTS)}]
        request = {"model": STATE["market"]["model"], "messages": messages, "max_tokens": randint(4, 48)}
        return request | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})

    @task(4)
    def whole(self) -> None:
        url = f"{self.base}/v1/chat/completions"
        with self.client.post(url, json=self.ask(stream=False), name="whole", catch_response=True) as answer:
            if answer.status_code == 200:
                self.check(answer.json()["wwwmarket"])
            elif answer.status_code in {429, 503}:
                answer.success()

    @task(4)
    def streamed(self) -> None:
        url, told = f"{self.base}/v1/chat/completions", None
        with self.client.post(
            url, json=self.ask(stream=True), name="streamed", stream=True, catch_response=True
        ) as answer:
            if answer.status_code in {429, 503}:
                answer.success()
                return
            for line in answer.iter_lines():
                if line.startswith(b"data: {"):
                    told = json.loads(line[6:]).get("wwwmarket") or told
        if told is None:
            wrong("a stream ended without saying what it cost")
        else:
            self.check(told)

    @task(2)
    def left_in_the_middle(self) -> None:
        url = f"{self.base}/v1/chat/completions"
        with self.client.post(
            url, json=self.ask(stream=True), name="left in the middle", stream=True, catch_response=True
        ) as answer:
            if answer.status_code in {429, 503}:
                answer.success()
            next(answer.iter_lines(), None)
            answer.close()

    def check(self, told: dict[str, Any]) -> None:
        """The receipt says what the answer said, signed by both, and an entry of the ledger settles it."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while True:
            answer = self.client.get(f"{self.base}{told['receipt']}", name="receipt")
            view = msgspec.json.decode(answer.content, type=ReceiptView)
            if view.settlement_index is not None:
                break
            if time.monotonic() > deadline:
                wrong(f"award {told['award']} is not settled after {SETTLED_WITHIN_S} s")
                return
            time.sleep(0.05)
        try:
            self.compare(view, told)
        except Refusal as refusal:
            wrong(f"award {told['award']}: {refusal.message}")

    def compare(self, view: ReceiptView, told: dict[str, Any]) -> None:
        assert view.receipt is not None
        assert view.attestation is not None
        verify(view.receipt)
        if verify(view.attestation).by != told["provider"]:
            wrong(f"award {told['award']} is attested by another than its provider")
        if view.cost_micro != told["cost_micro"]:
            wrong(f"award {told['award']} was said to cost {told['cost_micro']}, its receipt says {view.cost_micro}")


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Audit the whole ledger; the exit code says whether all was well."""
    audit = subprocess.run(
        [sys.executable, "-m", "wwwmarket", "audit", STATE["market"]["ledger"], "--vkey", STATE["market"]["vkey"]],
        capture_output=True,
        text=True,
        check=False,
    )
    print(audit.stdout[-2_000:])
    for what in STATE["wrong"][:20]:
        print(f"wrong: {what}")
    if audit.returncode or STATE["wrong"] or environment.stats.total.num_failures:
        environment.process_exit_code = 1
