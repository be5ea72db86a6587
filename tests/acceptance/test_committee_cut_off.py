"""Four mirrors, two sequencers and three members of an etcd, each a process on a network of its own, under load.

Each kind is killed, and cut off. Nobody lends a hand: appends resume, finality resumes, and no promise is broken.
"""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.acceptance.conftest import PYTHON, environment
from tests.acceptance.namespaces import MISSING, Switch, permitted
from tests.ports.orderers import servers
from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.crypto import signing
from wwwmarket.domain.records import Inclusion, Signed, Transfer
from wwwmarket.ledger.bundles import decode_bundle
from wwwmarket.ledger.quorum import cosigner_keys
from wwwmarket.ledger.tiles import bundle_ids, path_of
from wwwmarket.node.service import NodeStatus

pytestmark = [pytest.mark.slow, pytest.mark.foreign(servers.ETCD)]

_log = logging.getLogger("wwwmarket.cut_off")
"""Says how long everything took: ``pytest --log-cli-level=INFO``."""

MIRRORS = ("m1", "m2", "m3", "m4")
SEQUENCERS = ("a", "b")
MEMBERS = ("e0", "e1", "e2")
PACE_S = 0.05
"""Between one promise and the next submission: load that never ends, on a machine that has other work."""
PATIENCE_S = 120


class Load(threading.Thread):
    """One account that appends without end, each entry until it is promised."""

    def __init__(self, gateway: str, key: signing.KeyPair) -> None:
        super().__init__(name="load")
        self._gateway, self._key = gateway, key
        self._end = threading.Event()
        self.promised: dict[int, bytes] = {}
        self.longest_s = 0.0
        self.refused: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._gateway, trust_env=False, timeout=PATIENCE_S) as http:
                head = http.get(f"/v1/accounts/{self._key.account}").raise_for_status().json()
                self._append_forever(http, head["next_seq"], head["prev"])
        except BaseException as error:  # noqa: BLE001 - the test that reads it raises it
            self.error = error

    def _append_forever(self, http: httpx.Client, seq: int, prev: str) -> None:
        other = signing.KeyPair(bytes(32)).account
        while not self._end.wait(PACE_S):
            body = Transfer(to=other, amount_micro=1)
            entry = signing.verified_own(signing.sign_entry(self._key, seq=seq, prev=prev, body=body))
            begun_s = time.monotonic()
            self.promised[self._submit(http, entry.leaf, entry.id)] = entry.leaf
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
            seq, prev = seq + 1, entry.id

    def _submit(self, http: httpx.Client, leaf: bytes, name: str) -> int:
        """Again and again, as a client does that was told to come back; the same bytes get the same promise."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            answer = http.post("/v1/entries", content=leaf)
            if answer.status_code == 200:
                promise = signing.verify(msgspec.json.decode(answer.content, type=Signed[Inclusion]))
                assert promise.body.entry == name
                return promise.body.index
            self.refused.append(answer.text)
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < until_s, f"refused for {PATIENCE_S} s: {answer.text}"
            self._end.wait(0.2)

    def end(self) -> None:
        self._end.set()
        self.join(PATIENCE_S)
        if self.error is not None:
            raise self.error


class World:
    """All processes, by name."""

    def __init__(self, folder: Path, switch: Switch, stack: ExitStack) -> None:
        self.folder, self.switch = folder, switch
        self.places = {name: switch.host(name) for name in (*MEMBERS, *SEQUENCERS, *MIRRORS)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self.end)
        self.etcd = servers.Etcd(len(MEMBERS), [self.places[name] for name in MEMBERS])
        stack.callback(self.etcd.remove)
        wwwmarket("keys", "create", "--name", "operator", "--dir", str(folder / "shared"), "--no-passphrase")
        for name in MIRRORS:
            url = f"http://{self.places[name].address}:8090"
            made = wwwmarket(
                *("mirror", "init", "--data", str(folder / name), "--name", f"mirror.test/{name}", "--url", url)
            )
            (folder / f"{name}.json").write_text(made)
        for name in SEQUENCERS:
            self.start(name)
            self.ready(name)
        for name in MIRRORS:
            self.start(name)
        self.start("c")
        self.gateway = self.ready("c")["gateway"]

    def start(self, name: str) -> None:
        if name in MEMBERS:
            self.etcd.start(MEMBERS.index(name))
            return
        (self.folder / name).mkdir(exist_ok=True)
        ready = self.folder / name / "ready.json"
        ready.unlink(missing_ok=True)
        inside = self.places[name].inside if name in self.places else ()
        command = [*inside, PYTHON, "-P", "-m", "wwwmarket", *self._command(name)]
        command += ["--data", str(self.folder / name), "--ready-file", str(ready), "--end-with-stdin"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment()
            )

    def _command(self, name: str) -> list[str]:
        logs = ",".join(f"http://{self.places[each].address}:8080" for each in SEQUENCERS)
        if name in MIRRORS:
            return ["mirror", "run", "--log", logs, "--listen", f"{self.places[name].address}:8090"]
        if name == "c":
            return ["node", "run", "--market", logs, "--port", "0", "--bind", f"{self.switch.own}:0", "--preset", "wan"]
        address = self.places[name].address
        committee = [word for each in MIRRORS for word in ("--committee", str(self.folder / f"{each}.json"))]
        return [
            *("node", "run", "--host", address, "--port", "8080", "--bind", f"{address}:4433", "--preset", "wan"),
            *("--orderer", self.etcd.address, "--operator-key", str(self.folder / "shared" / "operator.pem")),
            *committee,
        ]

    def ready(self, name: str) -> dict:
        file = self.folder / name / "ready.json"
        until(lambda: file.exists() or self.processes[name].poll() is not None, f"{name} is ready")
        assert file.exists(), (self.folder / f"{name}.log").read_text()[-2_000:]
        return json.loads(file.read_text())

    def kill(self, name: str) -> None:
        if name in MEMBERS:
            self.etcd.kill(MEMBERS.index(name))
            return
        process = self.processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()

    def status(self, gateway: str | None = None) -> NodeStatus:
        answer = httpx.get(f"{gateway or self.gateway}/v1/status", trust_env=False, timeout=PATIENCE_S)
        return msgspec.json.decode(answer.raise_for_status().content, type=NodeStatus)

    def leader(self, *names: str) -> str:
        """Which of these leads, by its own word."""
        return until(lambda: next((name for name in names or SEQUENCERS if self._leads(name)), None), "somebody leads")

    def _leads(self, name: str) -> bool:
        status = self.status(f"http://{self.places[name].address}:8080")
        return bool(status.sequencers) and status.sequencers[0].node == status.node

    def resumes(self, what: str, load: Load) -> None:
        """What is promised after now becomes final, and nobody did anything for it."""
        begun_s, count = time.monotonic(), len(load.promised)
        until(lambda: load.error is not None or len(load.promised) >= count + 5, f"appends go on: {what}")
        assert load.error is None, load.error
        appended_s = time.monotonic() - begun_s
        size = max(load.promised) + 1
        until(lambda: self.status().final_size >= size, f"finality goes on: {what}")
        _log.info("%s: appends after %.1f s, final after %.1f s", what, appended_s, time.monotonic() - begun_s)


def until(look, what: str):
    until_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < until_s, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)
    return found


def wwwmarket(*arguments: str) -> str:
    command = [PYTHON, "-P", "-m", "wwwmarket", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    if not permitted():
        pytest.skip(MISSING)
    with ExitStack() as stack:
        yield World(tmp_path, stack.enter_context(Switch()), stack)


@pytest.fixture
def load(world: World) -> Iterator[Load]:
    load = Load(world.gateway, KeyStore(world.folder / "a" / "keys").load("node", None))
    load.start()
    yield load
    load.end()


def finality_of(world: World, account: str) -> str:
    answer = httpx.get(f"{world.gateway}/v1/accounts/{account}", trust_env=False, timeout=PATIENCE_S)
    return answer.raise_for_status().json()["finality"]


def test_kill_or_cut_off_any_one_and_the_market_goes_on(world: World, load: Load, go_verify) -> None:
    """One of each kind is killed by -9, and one of each cut off, under load that never ends: appends and finality go on
    by themselves. With two mirrors of four gone nothing new is final, and the node says pending; back again, it is. In
    the end every promised entry is final, all mirrors have one root, and Go's verifier agrees.
    """
    world.resumes("nothing is wrong", load)
    first = world.leader()
    (second,) = set(SEQUENCERS) - {first}
    world.kill(first)
    world.resumes("the leader was killed", load)
    assert world.leader(second) == second
    world.start(first)
    world.ready(first)
    world.kill("e0")
    world.resumes("a member of etcd was killed", load)
    world.start("e0")
    world.kill("m1")
    world.resumes("a mirror was killed", load)
    world.start("m1")
    world.ready("m1")

    world.switch.cut(second)
    world.resumes("the leader was cut off", load)
    assert world.leader(first) == first
    world.switch.heal(second)
    world.switch.cut("e1")
    world.resumes("a member of etcd was cut off", load)
    world.switch.heal("e1")
    world.switch.cut("m2")
    world.resumes("a mirror was cut off", load)
    world.switch.heal("m2")

    nothing_new_is_final_without_a_quorum(world, load)
    load.end()
    everything_promised_is_final_and_one(world, load, go_verify)


def nothing_new_is_final_without_a_quorum(world: World, load: Load) -> None:
    """One is dead, one cut off: entries are ordered and promised, and said to be pending."""
    account = KeyStore(world.folder / "a" / "keys").load("node", None).account
    world.switch.cut("m3")
    world.kill("m4")
    until(lambda: world.status().checkpoint_size > world.status().final_size + 20, "the operator signs on alone")
    before = world.status()
    count = len(load.promised)
    until(lambda: load.error is not None or len(load.promised) >= count + 20, "appends go on without a quorum")
    after = world.status()
    assert (after.final_size, finality_of(world, account)) == (before.final_size, "pending")
    assert after.checkpoint_size > before.checkpoint_size
    world.switch.heal("m3")
    world.start("m4")
    world.resumes("two mirrors came back", load)


def everything_promised_is_final_and_one(world: World, load: Load, go_verify) -> None:
    size = max(load.promised) + 1
    until(lambda: world.status().final_size >= size, "all that was promised is final")
    latest = world.status()
    health = {}
    for name in MIRRORS:
        door = f"http://{world.places[name].address}:8090"

        def same(door: str = door) -> dict | None:
            try:
                found = httpx.get(f"{door}/health", trust_env=False, timeout=PATIENCE_S).json()
            except httpx.HTTPError:
                return None
            return found if found["cosigned_size"] == latest.checkpoint_size else None

        health[name] = until(same, f"{name} has cosigned all of it")
    assert len({each["state_root"] for each in health.values()}) == 1
    copy = world.folder / "copy"
    wwwmarket("ledger", "export", str(copy), "--ledger", f"{world.gateway}/ledger")
    assert '"verdict":"pass"' in wwwmarket("audit", str(copy), "--json").replace(" ", "")
    kept = entries_of(copy, latest.checkpoint_size)
    assert {index: kept[index] for index in load.promised} == load.promised
    (copy / "cosigners").write_text("".join(f"{each.text}\n" for each in cosigner_keys(latest.committee)))
    ran = go_verify(copy)
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["cosigners"]) >= latest.committee.quorum
    _log.info("%d promises, the longest after %.1f s", len(load.promised), load.longest_s)


def entries_of(copy: Path, size: int) -> list[bytes]:
    """All entries of an exported log."""
    return [
        entry
        for bundle in bundle_ids(size)
        for entry in decode_bundle((copy / path_of(bundle)).read_bytes(), width=bundle.width)
    ]
