"""``wwwmarket provider``: what is refused before anything is published, and what is shown while it sells."""

import json
import os
import subprocess
import sys

import pytest
import typer

from wwwmarket.cli.provider import _engine_key, _running, live_text
from wwwmarket.domain.errors import NotFound, Unavailable

TERMS = ("--market", "http://127.0.0.1:9", "--ttft-ms", "500", "--tpot-ms", "50", "--capacity", "4")


def join(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wwwmarket", "provider", "join", *TERMS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_engine_that_does_not_answer_is_refused(tmp_path):
    """The engine is looked at first: one line says what is wrong with it, and nothing was published."""
    done = join(
        *("--engine", "http://127.0.0.1:9", "--price-input", "0.1", "--price-output", "0.4", "--data", str(tmp_path))
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "127.0.0.1:9" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_cache_dearer_than_no_cache_is_a_mistake(tmp_path):
    """Cached input above the price of input is refused with 2."""
    done = join(
        *("--engine", "embedded", "--price-input", "0.1", "--price-output", "0.4", "--price-cached-input", "0.2"),
        *("--data", str(tmp_path)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--price-cached-input" in done.stderr


def test_a_policy_that_cannot_be_read_is_a_mistake(tmp_path):
    """A policy that is wrong is refused with 2, by the name of its key, and nothing was published."""
    (tmp_path / "mine.toml").write_text("shares = 0.5\n")
    done = join(
        *("--engine", "embedded", "--price-input", "0.1", "--price-output", "0.4"),
        *("--policy", str(tmp_path / "mine.toml"), "--data", str(tmp_path / "data")),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "shares" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("price", ["0.1.2", "-1", "0.00000001", "free"])
def test_what_is_no_price_is_a_mistake(price, tmp_path):
    """Prices are exact decimals."""
    done = join("--engine", "embedded", "--price-input", price, "--price-output", "1", "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")


def test_an_engines_key_is_taken_from_the_environment(monkeypatch):
    """Its name is on the command line, it itself never is."""
    monkeypatch.setenv("ENGINE_KEY", "secret")
    assert _engine_key("ENGINE_KEY") == "secret"
    assert _engine_key(None) is None
    monkeypatch.delenv("ENGINE_KEY")
    with pytest.raises(typer.BadParameter, match="ENGINE_KEY is not set"):
        _engine_key("ENGINE_KEY")


def test_a_provider_that_does_not_run_cannot_leave(tmp_path):
    """Without a running provider there is nothing to ask."""
    with pytest.raises(NotFound):
        _running(tmp_path)


def test_a_process_that_only_has_the_number_is_left_alone(tmp_path):
    """A process number alone is no provider: its gateway must answer for it."""
    told = {
        "gateway": "http://127.0.0.1:9",
        "openai": "http://127.0.0.1:9/v1",
        "account": "a" * 64,
        "vkey": "v",
        "admin_token_file": "t",
        "data": str(tmp_path),
        "pid": os.getpid(),
    }
    (tmp_path / "running.json").write_text(json.dumps(told))
    with pytest.raises(Unavailable):
        _running(tmp_path)


def test_the_live_line_counts():
    """What was asked, won, is at work and was earned, in one line."""
    counters = {"bids_received_total": 12.0, "awards_received_total": 3.0}
    assert live_text(counters, 2, 1_500_000) == "asked 12 · won 3 · in flight 2 · earned 1.50 credits"
