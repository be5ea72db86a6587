"""Logs from servers: whole, moving, slow to be found, lying."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.unit.audit.logs import SIGNER, log_files, long_story, story
from tests.unit.rules.world import CLIENT, NOW, RIVAL
from wwwmarket.adapters.log_reader import TRIES_MAX, FolderLog, HttpLog, open_log
from wwwmarket.bootstrap import NodeSettings, open_node
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Malformed, NotFound, Unavailable
from wwwmarket.domain.records import Transfer

Answer = tuple[int, bytes]


class Served:
    """A server's content by path; ``asked`` are the paths that were asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Callable[[], Answer]] = {}
        self.asked: list[str] = []
        self.address = ""

    def answer(self, path: str) -> Answer:
        self.asked.append(path)
        found = self.answers.get(path)
        if callable(found):
            return found()
        return (404, b"") if found is None else (200, found)

    def put_log(self, files, prefix: str = "/ledger") -> None:
        self.answers |= {f"{prefix}/{path}": data for path, data in files.items()}
        self.answers[f"{prefix}/vkey"] = f"{SIGNER.verifier.text}\n".encode()

    def put_balances(self, state, *, size: int | None = None) -> None:
        for account, held in state.accounts().items():
            self.put_balance(state, account, held)
        self.answers["/v1/status"] = json.dumps(status(state.size if size is None else size)).encode()

    def put_balance(self, state, account, held) -> None:
        seq, prev = state.chain_head(account)
        view = {"id": account, "balance": held, "next_seq": seq, "prev": prev}
        self.answers[f"/v1/accounts/{account}"] = canonical.encode(view)


def status(size: int) -> dict[str, object]:
    return {
        "node": CLIENT.account,
        "account": CLIENT.account,
        "address": {"node": CLIENT.account, "sockets": []},
        "origin": SIGNER.verifier.name,
        "operator": SIGNER.verifier.account,
        "is_operator": True,
        "ledger_size": size,
        "checkpoint_size": size,
        "ledger_time_ms": NOW,
        "offers": 0,
        "peers": 0,
        "in_flight": 0,
        "draining": False,
        "started_ms": NOW,
        "version": "0",
    }


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, content = served.answer(self.path)
            self.send_response(code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # a reader may have had enough
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(Served()) as running:
        yield running


async def run(*arguments: str) -> tuple[int, str, str]:
    """The program in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wwwmarket", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_nodes_ledger_is_audited_and_exported(tmp_path):
    """The ledger of a running node passes, over HTTP and as a copy, under the key that the node is known by."""
    async with open_node(NodeSettings(data=tmp_path / "node")) as running:
        await running.answers.create_key("a", 5_000)
        key = running.answers.verifier_key()
        code, out, err = await run("audit", running.gateway, "--vkey", key, "--json")
        assert (code, err) == (0, "")
        report = json.loads(out)["report"]
        assert (report["verdict"], report["checks"][15]["verdict"]) == ("pass", "pass")
        copy = str(tmp_path / "copy")
        assert (await run("ledger", "export", copy, "--ledger", f"{running.gateway}/ledger"))[0] == 0
        assert (await run("ledger", "show", "0", "--ledger", running.gateway))[0] == 0
    code, out, _ = await run("audit", copy, "--vkey", key)
    assert (code, out.splitlines()[-1]) == (0, "audit: pass")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/ledger", "/ledger/"])
def test_every_form_of_a_nodes_address_is_taken(served, suffix):
    """A gateway's address is the same log with or without what stands behind it."""
    served.put_log(log_files(story().leaves))
    log = open_log(served.address + suffix)
    assert log.read("checkpoint", bytes_max=10_000) == served.answers["/ledger/checkpoint"]
    assert log.gateway == served.address
    log.close()


def test_static_files_at_any_prefix_are_a_log(served):
    """A mirror's prefix is a log without a gateway."""
    served.put_log(log_files(story().leaves), "/mirrors/one")
    log = open_log(f"{served.address}/mirrors/one")
    assert (log.gateway, log.read("tile/9/000", bytes_max=1)) == (None, None)
    log.close()


def test_what_is_no_log_is_refused(served, tmp_path):
    """An address without a checkpoint, a path without a folder, and what is no address."""
    with pytest.raises(NotFound):
        open_log(served.address)
    with pytest.raises(NotFound):
        open_log(str(tmp_path / "nowhere"))
    with pytest.raises(Malformed):
        open_log("http://")


def test_trouble_that_passes_is_outlived(served):
    """A server that is busy for a moment is asked again."""
    served.put_log(log_files(story().leaves))
    log = HttpLog(served.address, pause_s=0.001)
    troubles = iter([(503, b""), (429, b""), (200, b"tile")])
    served.answers["/ledger/tile/0/000"] = lambda: next(troubles)
    assert log.read("tile/0/000", bytes_max=10) == b"tile"
    log.close()


def test_trouble_that_stays_is_told(served):
    """After some tries, or at once where the answer will not change, the log cannot be read."""
    served.put_log(log_files(story().leaves))
    log = HttpLog(served.address, pause_s=0.001)
    served.answers["/ledger/tile/0/000"] = lambda: (500, b"")
    served.answers["/ledger/tile/0/001"] = lambda: (403, b"")
    for path, tries in (("tile/0/000", TRIES_MAX), ("tile/0/001", 1)):
        with pytest.raises(Unavailable):
            log.read(path, bytes_max=10)
        assert served.asked.count(f"/ledger/{path}") == tries
    log.close()


def test_an_endless_answer_is_cut_off(served):
    """No more is read of a file than may be in it, and one byte that tells that there is more."""
    served.put_log(log_files(story().leaves))
    served.answers["/ledger/vkey"] = b"x" * 10_000_000
    log = HttpLog(served.address)
    assert log.read("vkey", bytes_max=100) == b"x" * 101
    log.close()


def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    """A folder where a file should be is trouble of the disk, and no missing file."""
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(Unavailable):
        FolderLog(tmp_path).read("checkpoint", bytes_max=10)


async def test_nobody_there_leaves_with_2():
    """Where nobody answers, the audit could not run."""
    code, out, err = await run("audit", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert "could not run" in err


async def test_a_checkpoint_that_moves_is_not_followed(served):
    """The audit stays with the checkpoint that it began with."""
    leaves = long_story(300).leaves
    first = max(at + 1 for at, leaf in enumerate(leaves[:200]) if b"mark/v1" in leaf)
    served.put_log(log_files(leaves))
    served.put_log(log_files(leaves[:first]))
    notes = [log_files(leaves[:first])["checkpoint"]] * 2  # once to find the log, once to audit it
    served.answers["/ledger/checkpoint"] = lambda: (200, notes.pop(0) if notes else log_files(leaves)["checkpoint"])
    code, out, err = await run("audit", served.address, "--json")
    assert (code, json.loads(out)["report"]["entries"]) == (0, first)
    assert "Balances are not compared" in err


async def test_balances_that_a_node_tells_are_compared(served):
    """A node that tells its true balances passes check 16; one that forges a single balance fails it."""
    ledger = story()
    served.put_log(log_files(ledger.leaves))
    served.put_balances(ledger.state)
    code, out, _ = await run("audit", served.address, "--json")
    assert (code, json.loads(out)["report"]["checks"][15]["examined"]) == (0, 5)
    held = ledger.state.account(CLIENT.account)
    served.put_balance(ledger.state, CLIENT.account, {**forged(held), "available_micro": held.available_micro + 1})
    code, out, _ = await run("audit", served.address, "--json")
    (finding,) = json.loads(out)["report"]["findings"]
    assert (code, finding["check"], finding["account"]) == (1, 16, CLIENT.account)


def forged(held) -> dict[str, int]:
    return {name: getattr(held, name) for name in held.__struct_fields__}


async def test_a_node_that_is_ahead_of_its_checkpoint_is_no_liar(served):
    """Balances of entries that no checkpoint covers yet are held against the next one."""
    ledger = story()
    early = log_files(ledger.leaves)
    ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=7))
    served.put_balances(ledger.state)
    ledger.mark(NOW + 200_000)
    served.put_log(log_files(ledger.leaves))
    served.put_log(early)
    notes = [early["checkpoint"]] * 2
    served.answers["/ledger/checkpoint"] = lambda: (
        200,
        notes.pop(0) if notes else log_files(ledger.leaves)["checkpoint"],
    )
    code, out, _ = await run("audit", served.address, "--json")
    assert (code, json.loads(out)["report"]["entries"]) == (0, 12)
