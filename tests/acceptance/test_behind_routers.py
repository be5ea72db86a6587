"""A provider and a client's node, each behind a router, and relays between them: real processes in namespaces."""

import json
import signal
import subprocess

import pytest

from tests.acceptance.conftest import PYTHON, environment
from tests.acceptance.routers import Internet, is_possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_possible(), reason="needs root, iproute2 and nftables for network namespaces"),
]

TERMS = (
    *("--price-input", "20", "--price-output", "80", "--ttft-ms", "4000", "--tpot-ms", "200", "--capacity", "2"),
    *("--engine", "embedded", "--no-benchmark"),
)


class Network:
    """Four public nodes, of which three relay; a provider at one home and a client's node at another."""

    def __init__(self, internet: Internet, directory, until) -> None:
        self.internet, self.directory, self.until = internet, directory, until
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.operator = internet.public("operator")
        self.market = f"http://{self.operator}:8080"
        self.publics = {name: internet.public(name) for name in ("relay1", "relay2", "relay3")}
        self.homes = {name: internet.home(name) for name in ("seller", "buyer")}

    def start(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*self.internet.inside(name), PYTHON, "-P", "-m", "wwwmarket", *command, "--data", self.data(name)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def data(self, name: str) -> str:
        return str(self.directory / name)

    def start_all(self) -> None:
        self.start("operator", "node", "run", "--host", self.operator, "--bind", f"{self.operator}:4433")
        self.until(lambda: self.status("operator"), "the operator serves")
        for name, address in self.publics.items():
            relay = ("--bind", f"{address}:4433", "--relay-for", "4", "--relay-ports", "4500-4510")
            self.start(name, "node", "run", "--market", self.market, *relay)
        self.start("buyer", "node", "run", "--market", self.market, "--bind", "0.0.0.0:0")
        self.start("seller", "provider", "join", "--market", self.market, "--bind", "0.0.0.0:0", *TERMS)
        for name in ("relay1", "relay2", "relay3", "buyer"):
            self.until(lambda at=name: self.status(at), f"{name} serves")

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the program at one host."""
        return subprocess.run(
            [*self.internet.inside(name), PYTHON, "-P", "-m", "wwwmarket", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(),
        )

    def status(self, name: str):
        """What the node at a host says of itself, asked from there; None while it does not serve."""
        running = self.directory / name / "running.json"
        if not running.exists():
            return None
        asked = [*self.internet.inside(name), PYTHON, "-c", _GET, json.loads(running.read_text())["gateway"]]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def reachability(self, name: str) -> dict[str, str]:
        """What the doctor finds there."""
        done = self.run(name, "doctor", "--data", self.data(name), "--market", self.market, "--json")
        return next(one for one in json.loads(done.stdout) if one["check"] == "reachability")

    def relays(self) -> set[str]:
        """By whom the seller is relayed now."""
        nodes = {self.status(name)["node"]: name for name in self.publics if name in self.running}
        return {nodes.get(node, "gone") for node in (self.status("seller") or {"relays": ()})["relays"]}

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            process.wait(60)


_GET = (
    "import sys, urllib.request as r; "
    "print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1] + '/v1/status', timeout=10).read().decode())"
)


@pytest.fixture
def network(tmp_path, until):
    with Internet() as internet:
        net = Network(internet, tmp_path, until)
        try:
            net.start_all()
            yield net
        finally:
            net.stop()


@pytest.fixture
def buy(network):
    """Buys one answer at the buyer's own node, and tells its award."""
    token = f"{network.data('operator')}/admin.token"
    account = network.status("buyer")["account"]
    paid = network.run(
        *("operator", "account", "pay", account, "50", "--gateway", network.market, "--admin-token-file", token)
    )
    assert paid.returncode == 0, paid.stderr
    key: dict[str, str] = {}

    def is_funded() -> bool:
        made = network.run(
            *("buyer", "node", "keys", "create", "--name", "ada", "--budget", "40", "--json"),
            *("--admin-token-file", f"{network.data('buyer')}/admin.token"),
        )
        key.update(json.loads(made.stdout) if made.returncode == 0 else {})
        return bool(key)

    network.until(is_funded, "the buyer's node has its credits")

    def bid() -> subprocess.CompletedProcess[str]:
        options = ("--api-key", key["key"], "--model", "wwwmarket-tiny", "--max-tokens", "8", "--json")
        return network.run("buyer", "bid", *options, "Name a river")

    return bid


def test_a_provider_behind_a_router_sells_to_a_node_behind_another(network, buy, until):
    """No port of either router is open. Two relays forward; when both die, one after the other, the third takes over.
    The doctor calls the seller through its relays, and finds when none is left.
    """
    until(lambda: len(network.relays()) == 2, "the seller has two relays")
    until(lambda: buy().returncode == 0, "a first answer is bought")
    assert network.reachability("seller")["says"].startswith("answers through 2 relays")
    (first, second) = sorted(network.relays())
    (third,) = set(network.publics) - {first, second}
    network.kill(first)
    until(lambda: network.relays() == {second, third}, "another relay takes the dead one's place")
    until(lambda: buy().returncode == 0, "answers are bought again")
    network.kill(second)
    until(lambda: network.relays() == {third}, "the last relay forwards alone")
    until(lambda: buy().returncode == 0, "and again")
    assert network.status("seller")["offers"] == 1
    network.kill(third)
    until(lambda: network.reachability("seller")["verdict"] != "ok", "the doctor sees that nobody relays")
