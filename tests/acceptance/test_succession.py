"""The operator is gone for good: mirrors swear to another, a new node takes over, and everybody follows."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from wwwmarket.cli.demo.processes import Child

pytestmark = pytest.mark.slow

MIRRORS = 4
PATIENCE_S = 90


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Site:
    """A founding node, a follower, and four mirrors, each a process."""

    def __init__(self, directory: Path, program, stack: ExitStack) -> None:
        self.directory, self.program, self._stack = directory, program, stack
        *ports, self.next_port, gateway = free_ports(MIRRORS + 2)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.mirrors: dict[int, Child] = {}
        members = [self.init(number) for number in range(MIRRORS)]
        committee = [word for member in members for word in ("--committee", str(member))]
        self.operator = self.start("operator", "node", "run", "--port", "0", "--origin", "test.market", *committee)
        self.base = self.operator.ready().gateway
        for number in range(MIRRORS):
            self.run_mirror(number, self.base)
        self.follower = self.start("follower", "node", "run", "--market", self.base, "--port", str(gateway))
        self.gateway = self.follower.ready().gateway
        terms = "--engine embedded --price-input 1 --price-output 1 --ttft-ms 900 --tpot-ms 90 --capacity 1 --port 0"
        self.provider = self.start("provider", "provider", "join", "--market", self.base, *terms.split())
        self.seller = self.provider.ready().account

    def start(self, name: str, *arguments: str) -> Child:
        return self._stack.enter_context(Child(name, [*arguments, "--json"], self.directory / name))

    def folder(self, number: int) -> Path:
        return self.directory / f"mirror-{number}"

    def done(self, *arguments: str, **settings: str) -> str:
        done = self.program(*arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def init(self, number: int) -> Path:
        file = self.directory / f"m{number}.json"
        name = ("--name", f"mirror.example/{number}")
        file.write_text(
            self.done("mirror", "init", "--url", self.urls[number], *name, "--data", str(self.folder(number)))
        )
        return file

    def store(self, number: int) -> tuple[str, ...]:
        """One of the mirrors keeps its copy elsewhere."""
        return ("--store", f"sqlite:///{self.directory / 'elsewhere.db'}") if number == 1 else ()

    def run_mirror(self, number: int, log: str) -> None:
        address = self.urls[number].removeprefix("http://")
        child = self.start(f"mirror-{number}", "mirror", "run", "--log", log, "--listen", address, *self.store(number))
        self.mirrors[number] = child

    def stop_mirror(self, number: int) -> None:
        self.mirrors[number].end()
        self.mirrors[number].wait()

    def signal_mirrors(self, number: signal.Signals) -> None:
        for child in self.mirrors.values():
            if child.returncode is None:
                os.kill(child.pid, number)

    def sign(self, proposal: Path, number: int) -> Path:
        signed = proposal.with_suffix(f".m{number}.json")
        signed.write_text(
            self.done("mirror", "sign", str(proposal), "--data", str(self.folder(number)), *self.store(number))
        )
        return signed

    def admin(self, name: str) -> str:
        return str(self.directory / name / "admin.token")


def status(base: str) -> dict:
    return httpx.get(f"{base}/v1/status", trust_env=False).json()


def balance(base: str, account: str) -> dict:
    return httpx.get(f"{base}/v1/accounts/{account}", trust_env=False).json()["balance"]


@pytest.fixture
def site(program, tmp_path) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(tmp_path, program, stack)
        yield site
        site.signal_mirrors(signal.SIGCONT)


def new_key(site: Site, name: str, budget: str) -> str:
    made = site.done(
        *("node", "keys", "create", "--name", name, "--budget", budget, "--json"),
        gateway=site.gateway,
        admin_token_file=site.admin("follower"),
    )
    return json.loads(made)["account"]


def create_key(site: Site, name: str, budget_micro: int) -> None:
    """Asks for it, and waits no longer than a second: the entry is signed and stored by then."""
    headers = {"authorization": f"Bearer {Path(site.admin('follower')).read_text().strip()}"}
    form = {"name": name, "budget_micro": budget_micro}
    httpx.post(f"{site.gateway}/v1/keys", json=form, headers=headers, timeout=1.0, trust_env=False)


def mint(site: Site, account: str) -> None:
    """Credits for the follower, decreed by three of four mirrors while they run."""
    proposal = site.directory / "mint.json"
    proposal.write_text(site.done("ledger", "propose", "mint", account, "100", gateway=site.base))
    signed = [str(site.sign(proposal, number)) for number in range(3)]
    site.done("ledger", "decree", *signed, gateway=site.base, admin_token_file=site.admin("operator"))


def test_a_log_outlives_its_operator(site, program, until):
    """What was final stays, what was not is submitted again by its authors, and one audit passes over both operators."""
    account = status(site.gateway)["account"]
    mint(site, account)
    until(lambda: balance(site.gateway, account)["available_micro"] == 100_000_000, "the credits are there")
    kept = new_key(site, "kept", "5")
    size = status(site.base)["ledger_size"]
    until(lambda: status(site.gateway)["final_size"] >= size, "all of it is final", PATIENCE_S)

    # While no mirror answers, an entry is promised and not final; then the operator dies, and one is not even promised.
    site.signal_mirrors(signal.SIGSTOP)
    lost = new_key(site, "promised", "7")
    until(lambda: balance(site.gateway, lost)["available_micro"] == 7_000_000, "the follower has it")
    assert status(site.gateway)["final_size"] < status(site.gateway)["ledger_size"]
    os.kill(site.operator.pid, signal.SIGKILL)
    site.operator.wait()
    site.signal_mirrors(signal.SIGCONT)
    with pytest.raises(httpx.ReadTimeout):
        create_key(site, "waiting", 9_000_000)

    # Three of four mirrors swear to a successor, and a node takes over from a mirror's copy.
    proposal = site.directory / "next.json"
    mirrors = [word for url in site.urls for word in ("--mirror", url)]
    proposal.write_text(
        site.done(
            *("ledger", "propose", "succession", "--origin", "test.market/2", "--data", str(site.directory / "next")),
            *("--bind", f"127.0.0.1:{site.next_port}", *mirrors),
        )
    )
    signed = []
    for number in range(3):
        site.stop_mirror(number)
        signed.append(str(site.sign(proposal, number)))
    other = json.loads(proposal.read_text()) | {"successor": "test.market/other"}
    (site.directory / "other.json").write_text(json.dumps(other))
    again = program("mirror", "sign", str(site.directory / "other.json"), "--data", str(site.folder(0)))
    assert again.returncode != 0
    assert "has sworn" in again.stderr
    few = program("ledger", "succeed", *signed[:2], "--data", str(site.directory / "next"), "--copy", site.urls[3])
    assert few.returncode != 0
    site.done("ledger", "succeed", *signed, "--data", str(site.directory / "next"), "--copy", site.urls[3])
    site.stop_mirror(3)
    successor = site.start("next", "node", "run", "--port", "0").ready().gateway
    for number in range(MIRRORS):
        site.run_mirror(number, successor)

    # The follower learns of it from the mirrors, by itself, and goes on there.
    until(lambda: _origin(site.gateway) == "test.market/2", "the follower follows", PATIENCE_S)
    until(lambda: _balance(successor, lost) == 7_000_000, "what was promised and lost is there again", PATIENCE_S)
    spent = 100_000_000 - 5_000_000 - 7_000_000 - 9_000_000
    until(lambda: _balance(successor, account) == spent, "and what was never promised", PATIENCE_S)
    size = status(successor)["ledger_size"]
    until(lambda: status(site.gateway)["final_size"] >= size, "it becomes final, and the follower knows", PATIENCE_S)
    until(lambda: site.seller in _sellers(successor), "the provider sells there, by itself", PATIENCE_S)
    assert site.provider.returncode is None
    for name in (account, kept, lost):
        assert balance(successor, name) == balance(site.gateway, name)
    assert balance(successor, kept)["available_micro"] == 5_000_000
    audited = json.loads(site.done("audit", successor, "--json"))
    assert audited["report"]["verdict"] == "pass"
    assert json.loads(site.done("audit", site.urls[0], "--json"))["report"]["verdict"] == "pass"


def _origin(base: str) -> str | None:
    try:
        return status(base)["origin"]
    except httpx.HTTPError:
        return None


def _sellers(base: str) -> set[str]:
    return {one["provider"] for one in httpx.get(f"{base}/v1/offers", trust_env=False).json()["data"]}


def _balance(base: str, account: str) -> int:
    return balance(base, account)["available_micro"]
