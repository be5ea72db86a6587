"""A market cut into halves, each with a provider and a gateway: real processes, a cable that is pulled and put back.

The ledger's operator is in one half. There business goes on. In the other half awards cannot come onto the ledger, so its
gateway sells what providers there work for in advance, or refuses and says so. When the halves meet again, each buys from the
other, and nobody was started anew.
"""

import json
import logging
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import PYTHON, environment
from tests.acceptance.namespaces import MISSING, Switch, permitted
from tests.ports.orderers.servers import Place

pytestmark = pytest.mark.slow

_log = logging.getLogger("wwwmarket.partition")
"""Says how long it took: ``pytest --log-cli-level=INFO``."""

TERMS = (
    *("--price-input", "20", "--price-output", "80", "--ttft-ms", "4000", "--tpot-ms", "200", "--capacity", "8"),
    *("--engine", "embedded", "--no-benchmark"),
)
CUT_S = 20.0
"""Longer than any connection lives without a word."""
HEALED_WITHIN_S = 60.0

_POST = """
import json, sys, urllib.error, urllib.request as r
url, key, provider = sys.argv[1:]
body = {"model": "wwwmarket-tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "Name a river"}]}
asked = r.Request(url + "/v1/chat/completions", json.dumps(body | {"provider": {"only": [provider]}}).encode())
asked.add_header("authorization", "Bearer " + key)
asked.add_header("content-type", "application/json")
try:
    with r.build_opener(r.ProxyHandler({})).open(asked, timeout=60) as answer:
        print(json.dumps([answer.status, json.load(answer)]))
except urllib.error.HTTPError as refused:
    print(json.dumps([refused.code, json.load(refused)]))
"""


@dataclass
class Bought:
    status: int
    body: dict


class Half:
    """One host: a node that is a gateway, and a provider beside it."""

    def __init__(self, name: str, place: Place, folder: Path) -> None:
        self.name, self.place, self._folder = name, place, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.key = ""

    def start(self, what: str, *command: str, port: int) -> None:
        directory = self.data(what)
        directory.mkdir()
        address = self.place.address
        with (self._folder / f"{self.name}-{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                [
                    *(*self.place.inside, PYTHON, "-P", "-m", "wwwmarket", *command, "--data", str(directory)),
                    *("--host", address, "--port", str(8080 + port), "--bind", f"{address}:{4433 + port}"),
                    *("--ready-file", str(directory / "ready.json"), "--end-with-stdin", "--json"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(),
            )

    def data(self, what: str) -> Path:
        return self._folder / f"{self.name}-{what}"

    def ready(self, what: str) -> dict | None:
        file = self.data(what) / "ready.json"
        assert self.processes[what].poll() is None, (self._folder / f"{self.name}-{what}.log").read_text()[-2_000:]
        return json.loads(file.read_text()) if file.exists() else None

    def program(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._run("-P", "-m", "wwwmarket", *command)

    def buy(self, provider: str) -> Bought:
        """At this half's gateway, asked from here."""
        serving = self.ready("gateway")
        assert serving is not None
        done = self._run("-c", _POST, serving["gateway"], self.key, provider)
        assert done.returncode == 0, done.stderr
        return Bought(*json.loads(done.stdout))

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.place.inside, PYTHON, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment(),
        )

    def end(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()


@dataclass
class Market:
    switch: Switch
    left: Half
    right: Half

    def provider(self, half: Half) -> str:
        serving = half.ready("provider")
        assert serving is not None
        return serving["account"]


@pytest.fixture
def market(tmp_path: Path, until) -> Iterator[Market]:
    if not permitted():
        pytest.skip(MISSING)
    with Switch() as switch:
        left, right = (Half(name, switch.host(name), tmp_path) for name in ("left", "right"))
        try:
            left.start("gateway", "node", "run", "--preset", "wan", port=0)
            until(lambda: left.ready("gateway"), "the operator serves")
            door = f"http://{left.place.address}:8080"
            right.start("gateway", "node", "run", "--market", door, "--preset", "wan", port=0)
            for half in (left, right):
                half.start("provider", "provider", "join", "--market", door, "--preset", "wan", *TERMS, port=1)
            for half, what in ((right, "gateway"), (left, "provider"), (right, "provider")):
                until(lambda half=half, what=what: half.ready(what), f"the {half.name} {what} serves")
            fund(left, right, until)
            yield Market(switch, left, right)
        finally:
            left.end()
            right.end()


def fund(left: Half, right: Half, until) -> None:
    """A key at each gateway; the right one's credits come from the left."""
    account = right.ready("gateway")["account"]
    token = str(left.data("gateway") / "admin.token")
    door = left.ready("gateway")["gateway"]
    paid = left.program("account", "pay", account, "50", "--gateway", door, "--admin-token-file", token)
    assert paid.returncode == 0, paid.stderr
    for half in (left, right):

        def has_key(half: Half = half) -> bool:
            made = half.program(
                *("node", "keys", "create", "--name", "ada", "--budget", "20", "--json"),
                *("--gateway", half.ready("gateway")["gateway"]),
                *("--admin-token-file", str(half.data("gateway") / "admin.token")),
            )
            half.key = json.loads(made.stdout)["key"] if made.returncode == 0 else ""
            return bool(half.key)

        until(has_key, f"the {half.name} gateway has credits to sell")


def test_halves_go_on_as_far_as_they_can_and_grow_together_again(market: Market, until) -> None:
    left, right = market.left, market.right
    near, far = market.provider(left), market.provider(right)
    for half in (left, right):
        for provider in (near, far):
            until(lambda half=half, provider=provider: half.buy(provider).status == 200, f"{half.name} buys, whole")

    market.switch.cut("right")
    begun_s = time.monotonic()
    until(lambda: left.buy(near).status == 200, "the operator's half buys from its own provider")
    across = left.buy(far)
    assert across.status == 503, across
    alone = [right.buy(far) for _ in range(3)]
    assert {one.status for one in alone} <= {200, 503}, alone
    assert all(one.body["error"]["message"] for one in alone if one.status == 503)
    assert right.buy(near).status == 503
    while time.monotonic() < begun_s + CUT_S:
        assert left.buy(near).status == 200
    market.switch.heal("right")

    healed_s = time.monotonic()
    for half, provider in ((left, far), (right, near), (right, far), (left, near)):
        until(lambda half=half, provider=provider: half.buy(provider).status == 200, f"{half.name} buys, healed")
    took_s = time.monotonic() - healed_s
    _log.info("in the half without the ledger: %s; healed after %.1f s", [one.status for one in alone], took_s)
    assert took_s < HEALED_WITHIN_S

    done = left.program("audit", f"{left.ready('gateway')['gateway']}/ledger", "--vkey", left.ready("gateway")["vkey"])
    assert done.returncode == 0, done.stdout + done.stderr
