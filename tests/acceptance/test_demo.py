"""The demo: one command, a whole market, an audit at its end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_demo_ends_in_a_passed_audit(program):
    """Every request is answered and paid for exactly, the audit passes, and the exit code says so."""
    done = program("demo", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["audit"], told["answered"], told["balanced"]) == ("pass", 6, True)
    assert all(request["winner"] and request["why"] for request in told["requests"])
    assert {request["stream"] for request in told["requests"]} == {True, False}
    changes = [account["change_micro"] for account in told["balances"]]
    assert sum(changes) == 0


def test_the_demo_tells_people_the_same(program):
    """Without JSON the last line is the audit's."""
    done = program("demo", "--providers", "1", "--requests", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "audit: pass"


@pytest.mark.parametrize(("options", "code"), [((), 130), (("--stay",), 0)])
def test_a_demo_that_is_told_to_end_ends_its_children(python, until, tmp_path: Path, options, code):
    """SIGTERM ends every process of the market, also while it opens; whoever wanted it to stay hears of no fault."""
    with subprocess.Popen(
        [python, "-P", "-m", "wwwmarket", "demo", "--dir", tmp_path, "--providers", "2", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as demo:
        until((tmp_path / "node" / "running.json").exists, "the node serves")
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(30) == code
    assert not list(processes_of(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_demo_leaves_no_process(python, until, tmp_path: Path):
    """Children end with their parent, also when it had no time to end them."""
    with subprocess.Popen(
        [python, "-P", "-m", "wwwmarket", "demo", "--dir", tmp_path, "--providers", "1", "--stay"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as demo:
        until((tmp_path / "provider-1" / "running.json").exists, "the provider serves")
        demo.kill()
    until(lambda: not list(processes_of(tmp_path)), "the children are gone")


def processes_of(directory: Path) -> list[str]:
    """Command lines, of this machine's processes, that name ``directory``."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and "wwwmarket" in line:
            found.append(line)
    return found
