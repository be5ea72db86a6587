"""A node and four mirrors, set up as ``docs/mirrors.md`` says: what is final stays so, and what is not is pending."""

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import PYTHON, environment
from tests.ports.orderers.servers import free_ports

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "mirrors.md"
PATIENCE_S = 150
"""For one command, or one thing to come about, on a machine that has other work."""


def commands() -> list[list[str]]:
    """The commands of each block of the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [[line for line in block.splitlines() if line.startswith("wwwmarket ")] for block in blocks]


class Network:
    """Somebody who types what the page says, in a folder and on ports of their own."""

    def __init__(self, folder: Path, until) -> None:
        self.folder, self._until = folder, until
        self.ports = dict(zip(("8080", "8091", "8092", "8093", "8094", "8095"), free_ports(6), strict=True))
        self.servers: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}

    def follow(self, line: str) -> str:
        """Do what a line says; gives what it printed."""
        text, _, file = line.partition(" > ")
        text = re.sub(r":(80\d\d)", lambda port: f":{self.ports[port[1]]}", text)
        if " run " in text:
            self._serve(line, text)
            return ""
        done = subprocess.run(
            [PYTHON, "-P", "-m", *shlex.split(text)],
            env=environment() | {"WWWMARKET_GATEWAY": self.node},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if file:
            (self.folder / file).write_text(done.stdout)
        return done.stdout

    def _serve(self, line: str, text: str) -> None:
        words = shlex.split(text)
        name = words[words.index("--data") + 1]
        ready = self.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        port = ["--port", str(self.ports["8080"])] if "node run" in text else []
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [PYTHON, "-P", "-m", *words, *port, "--ready-file", str(ready)],
                env=environment(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.servers[name] = line, process
        self.until(lambda: ready.exists() or process.poll() is not None, f"{name} serves")
        assert ready.exists(), (self.folder / f"{name}.log").read_text()

    def until(self, look, what: str):
        return self._until(look, what, timeout_s=PATIENCE_S)

    def kill(self, name: str) -> None:
        _, process = self.servers[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def start(self, name: str) -> None:
        """By the line that started it first."""
        self.follow(self.servers[name][0])

    def end(self) -> None:
        for _, process in self.servers.values():
            process.terminate()
        for _, process in self.servers.values():
            process.wait(60)

    @property
    def node(self) -> str:
        return f"http://127.0.0.1:{self.ports['8080']}"

    def status(self) -> dict:
        return httpx.get(f"{self.node}/v1/status", trust_env=False, timeout=60).raise_for_status().json()

    def finality(self) -> str:
        """Of the node's own account, as the node says it."""
        path = f"/v1/accounts/{self.status()['account']}"
        return httpx.get(f"{self.node}{path}", trust_env=False, timeout=60).raise_for_status().json()["finality"]

    def write(self) -> int:
        """One more entry; the ledger's size with it."""
        token = (self.folder / "market" / "admin.token").read_text()
        made = httpx.post(
            f"{self.node}/v1/keys",
            json={"name": "x", "budget_micro": 1},
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=60,
        )
        assert made.status_code == 201, made.text
        return self.status()["ledger_size"]

    def finalised(self, size: int) -> None:
        self.until(lambda: self.status()["final_size"] >= size, f"{size} entries are final")

    def health(self, port: str) -> dict:
        return httpx.get(f"http://127.0.0.1:{self.ports[port]}/health", trust_env=False, timeout=60).json()


@pytest.fixture(scope="module")
def network(tmp_path_factory, until) -> Iterator[Network]:
    """What the page's first block makes of an empty folder; its audit is the last of the ten."""
    net = Network(tmp_path_factory.mktemp("committee"), until)
    try:
        *begin, audit = commands()[0]
        assert len(begin) == 9
        for line in begin:
            net.follow(line)
        net.finalised(net.write())
        assert net.follow(audit).rstrip().endswith("audit: pass")
        yield net
    finally:
        net.end()


def test_finality_goes_on_without_one_mirror_waits_without_two_and_comes_back(network: Network) -> None:
    """F = 1 of four: one may die by kill -9; with two dead the node says pending; back again, all roots are one."""
    network.finalised(network.write())
    network.kill("m4")
    network.finalised(network.write())
    network.kill("m3")
    before = network.status()["final_size"]
    size = network.write()
    network.until(lambda: network.status()["checkpoint_size"] >= size, "the operator signs on")
    assert network.status()["final_size"] == before < size
    assert network.finality() == "pending"
    network.start("m3")
    network.start("m4")
    network.finalised(size)
    assert network.finality() == "final"
    latest = network.status()["final_size"]
    doors = ("8091", "8092", "8093", "8094")
    for port in doors:
        network.until(lambda port=port: network.health(port)["cosigned_size"] == latest, f"{port} has cosigned it")
    assert len({network.health(port)["state_root"] for port in doors}) == 1


def test_a_killed_node_keeps_what_was_final_and_goes_on(network: Network) -> None:
    """Kill -9 of the orderer: after its restart the same is final, and new entries become so."""
    size = network.write()
    network.finalised(size)
    network.kill("market")
    network.start("market")
    network.finalised(size)
    network.finalised(network.write())


def test_a_mirror_is_replaced_by_the_signatures_of_a_quorum(network: Network) -> None:
    """As the page says: m5 takes the place of m4, which is dead; then even m3 may die, for m5's word counts."""
    network.finalised(network.write())
    network.kill("m4")
    election = commands()[1]
    *prepare, decree = election
    for line in prepare:
        network.follow(line)
    too_few = decree.replace(" election.m3.json", "")
    with pytest.raises(AssertionError, match="3 of a committee"):
        network.follow(too_few)
    network.follow(decree)
    members = httpx.get(f"{network.node}/v1/governance", trust_env=False).json()["governance"]["committee"]["members"]
    assert [each["url"][-4:] for each in members] == [
        str(network.ports[port])[-4:] for port in ("8091", "8092", "8093", "8095")
    ]
    network.finalised(network.write())
    network.kill("m3")
    network.finalised(network.write())
    assert network.finality() == "final"
    network.start("m3")
