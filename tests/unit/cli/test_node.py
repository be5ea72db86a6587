"""``wwwmarket node``: how a node starts, says where it serves, and leaves."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from wwwmarket.cli import load
from wwwmarket.cli.options import WHOLE_PPM, parse_share, passphrase_of
from wwwmarket.cli.serving import Interrupts, find_running, run_until_told, write_whole
from wwwmarket.domain.errors import Malformed, NotFound

OURS = ("node:app", "provider:app", "bid:bid", "explain:explain", "account:app", "demo:demo")


@contextmanager
def running_node(directory: Path, *arguments: str, stdin: int = subprocess.DEVNULL):
    """A node's process, once its ready file is there, and what the file says."""
    ready = directory / "ready.json"
    command = [sys.executable, "-m", "wwwmarket", "node", "run", "--port", "0", "--data", directory / "data"]
    with subprocess.Popen(
        [*command, "--ready-file", ready, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until_s = time.monotonic() + 30
            while not ready.exists() and process.poll() is None and time.monotonic() < until_s:
                time.sleep(0.02)
            yield process, json.loads(ready.read_text())
        finally:
            if process.poll() is None:
                process.kill()


def options_of(command: object) -> list[object]:
    """All options of a command and its sub-commands, but for --help."""
    commands = getattr(command, "commands", {})
    own = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    return own + [one for sub in commands.values() for one in options_of(sub)]


@pytest.mark.parametrize("target", OURS)
def test_every_option_can_be_set_in_the_environment(target):
    """Each option has a variable with the program's prefix."""
    for one in options_of(load(f"wwwmarket.cli.{target}")):
        assert one.envvar == "WWWMARKET_" + one.opts[0].removeprefix("--").upper().replace("-", "_")


@pytest.mark.parametrize("target", OURS)
def test_every_command_prints_json(target):
    """Each command has --json."""
    command = load(f"wwwmarket.cli.{target}")
    leaves = [command] if not hasattr(command, "commands") else list(leaves_of(command))
    assert leaves
    assert all("json" in {one.name for one in leaf.params} for leaf in leaves)


def leaves_of(group: object):
    for sub in group.commands.values():
        yield from leaves_of(sub) if hasattr(sub, "commands") else [sub]


def test_the_keys_of_a_gateway_are_a_group_of_the_node():
    """`node keys` has its seven commands."""
    from wwwmarket.cli.node import app

    assert set(get_command(app).commands["keys"].commands) == {
        "create",
        "limit",
        "list",
        "refund",
        "revoke",
        "rotate",
        "top-up",
    }


@given(st.integers(min_value=0, max_value=WHOLE_PPM))
def test_a_share_is_exact(ppm):
    """A share written with six digits is read as that many parts per million."""
    assert parse_share(f"{ppm // WHOLE_PPM}.{ppm % WHOLE_PPM:06d}") == ppm


@pytest.mark.parametrize("text", ["", "-0.1", "1.000001", "2", "0.0000001", ".5", "5e-1", "nan"])
def test_what_is_no_share_is_refused(text):
    """Beyond 0 to 1, finer than a millionth, or no decimal."""
    with pytest.raises(typer.BadParameter):
        parse_share(text)


def test_a_node_serves_and_leaves_in_order(tmp_path):
    """It says on stdout, as JSON, and in the ready file where it serves; SIGTERM ends it with 0, and the file is gone."""
    with running_node(tmp_path, "--json", "--origin", "test.market", "--credits", "12.5") as (process, told):
        status = httpx.get(f"{told['gateway']}/v1/status", trust_env=False).json()
        balance = httpx.get(f"{told['gateway']}/v1/accounts/{told['account']}", trust_env=False).json()["balance"]
        assert find_running(tmp_path / "data").pid == process.pid == told["pid"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (status["origin"], status["account"], balance["available_micro"]) == (
        "test.market",
        told["account"],
        12_500_000,
    )
    assert process.returncode == 0
    assert json.loads(out) == told
    assert "No backup" in err
    assert not (tmp_path / "ready.json").exists()
    assert stat.S_IMODE(Path(told["admin_token_file"]).stat().st_mode) == 0o600


def test_a_node_leaves_when_its_parent_has_gone(tmp_path):
    """With --end-with-stdin the end of standard input is as good as a signal."""
    with running_node(tmp_path, "--end-with-stdin", stdin=subprocess.PIPE) as (process, _):
        process.communicate(timeout=20)
    assert process.returncode == 0


async def told_twice(patient: list[str]) -> None:
    """Asked to end by a first signal, and told to by a second."""
    with Interrupts(stdin=False) as interrupts:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await interrupts.wait(forever())
        patient.append("leaving in order")
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await forever()


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise Malformed("the node broke")


def test_the_second_signal_stops_at_once(capsys):
    """The first lets a program end in order; the second does not wait for it, and the exit code says so."""
    patient: list[str] = []
    with pytest.raises(SystemExit) as left:
        run_until_told(told_twice(patient))
    assert (patient, left.value.code) == (["leaving in order"], 130)
    assert "Stopped at once" in capsys.readouterr().err


def test_a_signal_before_it_serves_stops_at_once():
    """Nothing is in flight yet, so there is nothing to wait for."""

    async def starting() -> None:
        with Interrupts(stdin=False):
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
            await forever()

    with pytest.raises(SystemExit) as left:
        run_until_told(starting())
    assert left.value.code == 130


async def test_a_node_that_breaks_ends_its_program():
    """What broke it is raised where the program waits."""
    with Interrupts(stdin=False) as interrupts, pytest.raises(Malformed, match="broke"):
        await interrupts.wait(broken())


def test_two_nodes_do_not_share_their_data(tmp_path):
    """The second one is refused in one line that names the first."""
    with running_node(tmp_path) as (process, _):
        second = subprocess.run(
            [sys.executable, "-m", "wwwmarket", "node", "run", "--port", "0", "--data", tmp_path / "data"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert str(process.pid) in second.stderr
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_a_market_that_does_not_answer_is_refused(tmp_path):
    """Joining nothing leaves with 1, and says what does not answer."""
    done = subprocess.run(
        [sys.executable, "-m", "wwwmarket", "node", "run", "--market", "http://127.0.0.1:9", "--data", tmp_path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no market answers at http://127.0.0.1:9" in done.stderr


def test_nothing_serves_where_nothing_ever_did(tmp_path):
    """Data without a running file belong to nobody at work."""
    with pytest.raises(NotFound, match="nothing serves"):
        find_running(tmp_path)


def test_what_was_killed_is_not_running(tmp_path):
    """A running file whose process is gone is told apart."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    write_whole(tmp_path / "running.json", json.dumps(running(tmp_path, gone.pid)).encode())
    with pytest.raises(NotFound, match="was killed"):
        find_running(tmp_path)


def test_a_damaged_running_file_is_refused(tmp_path):
    """What is no running file is named."""
    write_whole(tmp_path / "running.json", b"{}")
    with pytest.raises(Malformed, match="damaged"):
        find_running(tmp_path)


def running(data: Path, pid: int) -> dict[str, object]:
    return {
        "gateway": "http://127.0.0.1:1",
        "openai": "http://127.0.0.1:1/v1",
        "account": "a" * 64,
        "vkey": "v",
        "admin_token_file": "t",
        "data": str(data),
        "pid": pid,
    }


def test_a_ready_file_is_its_owners(tmp_path):
    """It may hold a key, so nobody else can read it; nothing of its writing is left behind."""
    write_whole(tmp_path / "new" / "ready.json", b"1")
    (written,) = (tmp_path / "new").iterdir()
    assert (written.read_bytes(), stat.S_IMODE(written.stat().st_mode)) == (b"1", 0o600)


def test_a_key_without_passphrase_asks_for_none(tmp_path, monkeypatch):
    """The variable decides; without it only an encrypted key needs a passphrase."""
    monkeypatch.delenv("WWWMARKET_PASSPHRASE", raising=False)
    assert passphrase_of(tmp_path, "node") is None
    monkeypatch.setenv("WWWMARKET_PASSPHRASE", "correct horse")
    assert passphrase_of(tmp_path, "node") == os.fsencode("correct horse")
