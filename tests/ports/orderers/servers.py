"""Real servers for tests and measurements: a PostgreSQL and the members of an etcd, each a child of this process."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PATIENCE_S: Final = 30
POSTGRES: Final = next(
    (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)),
    shutil.which("postgres") or "postgres",
)
ETCD: Final = "etcd"
_ACCOUNT: Final = "postgres" if os.getuid() == 0 else None
"""PostgreSQL refuses to run as root; Debian's package makes this account."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Postgres:
    """A server of its own, on the loopback, whose data go with it. ``durable`` False: it does not wait for the disk."""

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._folder = Path(tempfile.mkdtemp(prefix="wwwmarket-postgres-"))
        if _ACCOUNT is not None:
            shutil.chown(self._folder, _ACCOUNT)
        (self.port,) = free_ports(1)
        self._data = self._folder / "data"
        initdb = ["--pgdata", str(self._data), "--username", "postgres", "--auth", "trust", "--no-sync"]
        subprocess.run(
            [str(Path(POSTGRES).parent / "initdb"), *initdb],
            user=_ACCOUNT,
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.start()

    def start(self) -> None:
        command = [POSTGRES, "-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder)]
        if not self._durable:
            command += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=_ACCOUNT, cwd=self._folder, stdout=log, stderr=log)
        _until(self._answers, f"PostgreSQL: {self._folder / 'log'}")

    def _answers(self) -> bool:
        ready = [str(Path(POSTGRES).parent / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once, as a crash
            self._process.wait(PATIENCE_S)
            self._process = None

    def database(self) -> str:
        """The address of a new, empty database."""
        self._databases += 1
        name = f"market{self._databases}"
        createdb = [str(Path(POSTGRES).parent / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        subprocess.run([*createdb, name], check=True)
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)


class Place(NamedTuple):
    """Where a server runs: its address there, and what its command line begins with."""

    address: str
    inside: tuple[str, ...] = ()


class Etcd:
    """Members of one etcd, each of which can be killed and started again; on this host unless ``places`` are given."""

    def __init__(self, members: int, places: Sequence[Place] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="wwwmarket-etcd-"))
        ports = free_ports(2 * members)
        self._places = places or [Place("127.0.0.1")] * members
        self._clients = [f"{place.address}:{port}" for place, port in zip(self._places, ports[:members], strict=True)]
        self._peers = [f"{place.address}:{port}" for place, port in zip(self._places, ports[members:], strict=True)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * members
        for member in range(members):
            self._launch(member)
        for member in range(members):
            _until(lambda member=member: self._healthy(member), f"etcd: {self._folder}")

    @property
    def address(self) -> str:
        return "etcd://" + ",".join(self._clients)

    def _launch(self, member: int) -> None:
        client, peer = (f"http://{addresses[member]}" for addresses in (self._clients, self._peers))
        cluster = ",".join(f"m{number}=http://{address}" for number, address in enumerate(self._peers))
        command = [
            *self._places[member].inside,
            ETCD,
            "--name",
            f"m{member}",
            "--data-dir",
            str(self._folder / f"m{member}"),
        ]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
        with (self._folder / f"m{member}.log").open("ab") as log:
            self._processes[member] = subprocess.Popen(command, stdout=log, stderr=log)

    def _healthy(self, member: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._clients[member]}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False

    def start(self, member: int) -> None:
        self._launch(member)
        _until(lambda: self._healthy(member), f"etcd: {self._folder}")

    def kill(self, member: int) -> None:
        process, self._processes[member] = self._processes[member], None
        if process is not None:
            process.kill()
            process.wait(PATIENCE_S)

    def remove(self) -> None:
        for member in range(len(self._processes)):
            self.kill(member)
        shutil.rmtree(self._folder)


def _until(condition, what: str) -> None:
    """Wait for a server, which tells nobody when it is ready."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)
        time.sleep(0.02)


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    server = Postgres(durable=durable)
    try:
        yield server
    finally:
        server.remove()


@contextlib.contextmanager
def etcd(members: int) -> Iterator[Etcd]:
    cluster = Etcd(members)
    try:
        yield cluster
    finally:
        cluster.remove()
