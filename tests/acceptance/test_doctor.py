"""``wwwmarket doctor`` against a real market: each planted fault is found, and its advice, followed, mends it."""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from wsgiref.handlers import format_date_time

import httpx
import pytest

from wwwmarket import __version__
from wwwmarket.cli.demo.processes import Child
from wwwmarket.cli.doctor import is_apart

NETWORK_CLOCK_OFF_S = 90
CLOSED = "127.0.0.1:9"


@pytest.fixture
def examine(program, market):
    """The doctor's findings by check; its exit code says whether there is a fault."""

    def run(*arguments, at=None) -> dict[str, dict[str, str]]:
        done = program("doctor", "--market", at or market.base, *map(str, arguments), "--json")
        findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
        faulty = any(finding["verdict"] == "fault" for finding in findings.values())
        assert (done.returncode == 1) == faulty, done.stderr
        return findings

    return run


@pytest.fixture
def provider_data(market):
    """The data directory of a provider that runs."""
    return next(file.parent for file in market.data.rglob("running.json") if "provider" in str(file.parent))


@pytest.fixture
def engine(python):
    """Serves for a block, and gives its address."""

    @contextlib.contextmanager
    def serve(*arguments: str):
        command = ["wwwmarket.adapters.engines.emulated", "--gpu", "H100-SXM", "--model", "Qwen3-8B", *arguments]
        with subprocess.Popen([python, "-P", "-m", *command], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield f"http://127.0.0.1:{process.stdout.readline().rpartition('=')[2].strip()}"
            finally:
                process.terminate()

    return serve


@pytest.fixture
def altered(market):
    """A gateway like the market's, whose status and clock are altered on the way: ``altered(offset_s, version=…)``."""
    servers = []

    def start(offset_s: float, **changes: str) -> str:
        class Altered(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = httpx.get(market.base + self.path, trust_env=False)
                body = json.dumps(answer.json() | changes).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def date_time_string(self, timestamp=None) -> str:  # noqa: ARG002 - the library's form
                return format_date_time(time.time() + offset_s)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Altered)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_healthy_provider_has_no_fault_but_its_missing_backup(examine, provider_data, program):
    """Everything is looked at and found well, save the backup; made as advised, the doctor is content."""
    findings = examine("--data", provider_data)
    assert {name: one["verdict"] for name, one in findings.items() if name not in {"key", "engine"}} == dict.fromkeys(
        ("clock", "disk", "market", "version", "node", "reachability", "ledger"), "ok"
    )
    assert findings["key"]["verdict"] == "fault"
    _, *advised = findings["key"]["advice"].split()
    assert program(*advised).returncode == 0
    assert examine("--data", provider_data)["key"]["verdict"] == "ok"


@pytest.mark.parametrize("offset_s", [-NETWORK_CLOCK_OFF_S, NETWORK_CLOCK_OFF_S])
def test_a_clock_that_is_off_is_found(examine, altered, offset_s):
    """90 s either way is a fault, with the way to set it."""
    found = examine(at=altered(offset_s))["clock"]
    assert found["verdict"] == "fault"
    assert "NTP" in found["advice"]
    assert ("behind" if offset_s > 0 else "ahead") in found["says"]
    assert examine(at=altered(0))["clock"]["verdict"] == "ok"


def test_an_old_version_is_found(examine, altered):
    """The market runs a newer one: how to get it. With the market's own, all is well."""
    found = examine(at=altered(0, version="99.0"))["version"]
    assert (found["verdict"], "--upgrade" in found["advice"]) == ("fault", True)
    assert examine(at=altered(0, version=__version__))["version"]["verdict"] == "ok"


def test_a_market_that_is_not_there_is_found(examine):
    """A port where nobody listens."""
    assert examine(at="http://127.0.0.1:9")["market"]["verdict"] == "fault"


def test_another_market_s_ledger_is_found(examine, altered, provider_data):
    """The node follows one log, and --market is another."""
    found = examine("--data", provider_data, at=altered(0, origin="other.market"))["ledger"]
    assert found["verdict"] == "fault"


def test_a_closed_port_is_found(examine, tmp_path, market):
    """What others are told is not where anybody answers; joined without that, as advised, it is reached."""
    command = ["node", "run", "--market", market.base, "--port", "0"]
    with Child("closed", [*command, "--advertise", CLOSED], tmp_path) as node:
        node.ready()
        found = examine("--data", tmp_path)["reachability"]
        assert (found["verdict"], "UDP port" in found["advice"], CLOSED in found["says"]) == ("fault", True, True)
    with Child("open", command, tmp_path) as node:
        node.ready()
        assert examine("--data", tmp_path)["reachability"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("told", "market", "apart"),
    [
        (["192.168.1.5:4433"], ["203.0.113.7:4433"], True),
        (["10.1.1.5:4433", "172.16.0.1:4433"], ["10.2.2.7:4433", "[2001:db8::1]:4433"], True),
        (["192.168.1.5:4433"], ["192.168.1.9:4433"], False),
        (["203.0.113.9:4433", "192.168.1.5:4433"], ["203.0.113.7:4433"], False),
        (["127.0.0.1:4433"], ["127.0.0.1:4434"], False),
        (["node.example.org:4433"], ["203.0.113.7:4433"], False),
    ],
)
def test_a_private_network_that_the_market_is_not_in_is_noticed(told, market, apart):
    """Whoever has an address of the market's network, a public one, or a name, may be called from there."""
    assert is_apart(told, market) == apart


def test_a_dead_engine_is_found(examine, engine):
    """Nobody listens; once it is started, as advised, it is well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    found = examine("--engine", address)["engine"]
    assert (found["verdict"], found["advice"].startswith("start the engine")) == ("fault", True)
    with engine("--port", str(port)):
        assert examine("--engine", address)["engine"]["verdict"] == "ok"


def test_a_wrong_model_is_found(examine, engine):
    """What listens serves other models, and the advice names one of them."""
    with engine() as address:
        found = examine("--engine", address, "--model", "gpt-oss")["engine"]
        assert found["verdict"] == "fault"
        served = found["advice"].rpartition("--model ")[2]
        assert examine("--engine", address, "--model", served)["engine"]["verdict"] == "ok"


def test_a_full_disk_is_found(examine, tmp_path_factory):
    """A real one, of 64 MiB; the data moved to another, as advised, it is well, and so it is with more room here."""
    tmp_path, elsewhere = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    mount, umount = shutil.which("mount"), shutil.which("umount")
    small = [mount or "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path]
    if mount is None or subprocess.run(small, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be made only by root")
    try:
        found = examine("--data", tmp_path / "provider")["disk"]
        assert (found["verdict"], "--data" in found["advice"]) == ("fault", True)
        assert examine("--data", elsewhere)["disk"]["verdict"] in {"ok", "warning"}
    finally:
        subprocess.run([umount, tmp_path], check=True)
    assert examine("--data", tmp_path / "provider")["disk"]["verdict"] in {"ok", "warning"}
