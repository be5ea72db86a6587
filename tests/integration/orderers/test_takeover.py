"""Sequencers and etcd members that are killed: the log goes on by itself, and nothing promised is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.ports.orderers import servers
from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli.demo.processes import Child
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.records import Inclusion, Signed, Transfer

pytestmark = [pytest.mark.slow, pytest.mark.foreign(servers.ETCD)]

PATIENCE_S = 60


class Log:
    """Two sequencers on one etcd, a follower of both, and an account whose transfers are appended through it."""

    def __init__(self, folder: Path, etcd: servers.Etcd, stack: ExitStack) -> None:
        self._folder, self._etcd, self._stack = folder, etcd, stack
        self.children: dict[str, Child] = {}
        self.gateways: dict[str, str] = {}
        wwwmarket("keys", "create", "--name", "operator", "--dir", str(folder / "shared"), "--no-passphrase")
        for name in ("a", "b"):
            self.start(name)
        self._start("c", "--market", f"{self.gateways['a']},{self.gateways['b']}")
        self.key = KeyStore(folder / "a" / "keys").load("node", None)
        head = self.get("c", f"/v1/accounts/{self.key.account}")
        self._other = signing.KeyPair(bytes(32)).account
        self._seq, self._prev = head["next_seq"], head["prev"]
        self.promised: dict[int, bytes] = {}

    def start(self, name: str) -> None:
        orderer = ("--orderer", self._etcd.address, "--operator-key", str(self._folder / "shared" / "operator.pem"))
        self._start(name, *orderer)

    def _start(self, name: str, *arguments: str) -> None:
        port = self.gateways.get(name, ":0").rpartition(":")[2]
        command = ["node", "run", "--port", port, *arguments, "--json"]
        child = self._stack.enter_context(Child(name, command, self._folder / name))
        self.children[name], self.gateways[name] = child, child.ready().gateway

    def kill(self, name: str) -> None:
        os.kill(self.children[name].pid, signal.SIGKILL)
        self.children[name].wait()

    def get(self, name: str, path: str) -> dict:
        return httpx.get(self.gateways[name] + path, trust_env=False).raise_for_status().json()

    def leader(self, *names: str) -> str:
        """Who says that it leads."""
        return until(lambda: next((name for name in names if self._leads(name)), None))

    def _leads(self, name: str) -> bool:
        status = self.get(name, "/v1/status")
        return bool(status["sequencers"]) and status["sequencers"][0]["node"] == status["node"]

    def append(self, count: int) -> float:
        """So many entries, one after the other; the longest wait for a promise, in seconds."""
        longest_s = 0.0
        for _ in range(count):
            body = Transfer(to=self._other, amount_micro=1)
            signed = signing.sign_entry(self.key, seq=self._seq, prev=self._prev, body=body)
            entry = signing.verified_own(signed)
            begun_s = time.monotonic()
            answer = httpx.post(
                f"{self.gateways['c']}/v1/entries", content=entry.leaf, timeout=PATIENCE_S, trust_env=False
            )
            assert answer.status_code == 200, answer.text
            promise = signing.verify(msgspec.json.decode(answer.content, type=Signed[Inclusion]))
            assert promise.body.entry == entry.id
            longest_s = max(longest_s, time.monotonic() - begun_s)
            self.promised[promise.body.index] = entry.leaf
            self._seq, self._prev = self._seq + 1, entry.id
        return longest_s


def until(look):
    """What ``look`` finds in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return found


def wwwmarket(*arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "wwwmarket", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture
def etcd() -> Iterator[servers.Etcd]:
    with servers.etcd(3) as cluster:
        yield cluster


def test_a_log_goes_on_when_its_leader_and_a_member_of_its_etcd_are_killed(tmp_path: Path, etcd) -> None:
    """Appends wait for the next leader and go on; every promise is kept; the killed one comes back and leads again."""
    with ExitStack() as stack:
        log = Log(tmp_path, etcd, stack)
        log.append(30)
        first = log.leader("a", "b")
        log.kill(first)
        waits_s = [log.append(30)]
        (second,) = {"a", "b"} - {first}
        assert log.leader(second) == second
        etcd.kill(0)
        waits_s.append(log.append(30))
        log.start(first)
        log.kill(second)
        waits_s.append(log.append(30))
        assert log.leader(first) == first
        covered = max(log.promised) + 1
        until(lambda: log.get(first, "/v1/status")["checkpoint_size"] >= covered)
        copy = tmp_path / "copy"
        wwwmarket("ledger", "export", str(copy), "--ledger", f"{log.gateways[first]}/ledger")
        wwwmarket("audit", str(copy))
        entries = entries_of(copy)
        assert {index: entries[index] for index in log.promised} == log.promised
        assert max(waits_s) < PATIENCE_S / 2, f"a takeover took {waits_s} s"


def test_a_market_of_one_moves_to_an_orderer_and_gets_a_second_sequencer(tmp_path: Path, etcd) -> None:
    """The key that it derived becomes the file that both share, and the second one has the whole log."""
    with ExitStack() as stack:
        alone = stack.enter_context(Child("a", ["node", "run", "--port", "0"], tmp_path / "a"))
        before = httpx.get(alone.ready().gateway + "/v1/status", trust_env=False).json()
        alone.end()
        alone.wait()
        shared = ("--orderer", etcd.address, "--operator-key", str(tmp_path / "shared" / "operator.pem"))
        for name, more in (("a", ["--seed-orderer"]), ("b", [])):
            child = stack.enter_context(Child(name, ["node", "run", "--port", "0", *shared, *more], tmp_path / name))
            status = httpx.get(child.ready().gateway + "/v1/status", trust_env=False).json()
            assert status["operator"] == before["operator"]
            assert status["ledger_size"] >= before["ledger_size"]


def entries_of(copy: Path) -> list[bytes]:
    """The entries of an exported log, from its bundles."""
    entries: list[bytes] = []
    for bundle in sorted((copy / "tile" / "entries").rglob("*")):
        data = bundle.read_bytes() if bundle.is_file() else b""
        while data:
            end = 2 + int.from_bytes(data[:2], "big")
            entries.append(data[2:end])
            data = data[end:]
    assert all(canonical.encode(msgspec.json.decode(entry)) == entry for entry in entries)
    return entries
