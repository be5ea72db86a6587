"""``wwwmarket chat`` with a long answer, and Ctrl-C in the middle of it."""

import signal
import subprocess
import sys

import pytest

from tests.foreign.clients.conftest import FAST
from wwwmarket.cli.demo.processes import environment

pytestmark = pytest.mark.slow


def test_control_c_cancels_the_answer_and_pays_what_was_delivered(market):
    """The conversation goes on after it; the account has paid for fewer tokens than the longest answer has."""
    words = ["-m", "wwwmarket", "chat", "--model", FAST, "--max-tokens", "6000", "--gateway", market.base]
    chat = subprocess.Popen(
        [sys.executable, *words, "--api-key", market.key],
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    chat.stdin.write(b"Tell me everything about the river, at length.\n")
    chat.stdin.flush()
    assert chat.stdout.read(1)
    chat.send_signal(signal.SIGINT)
    said, told = chat.communicate(b"/cost\n/quit\n", timeout=60)
    assert chat.returncode == 0, told
    assert b"[cancelled; 0." in told
    assert b"1 answers, 0." in told
    assert len(said.split()) < 6_000
