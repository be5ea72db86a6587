"""The demo's parts: its children, its terms, its buyers."""

import sys
import time
from contextlib import closing

import pytest

from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.demo import buyers, processes
from wwwmarket.cli.demo.buyers import HttpBuyer, OpenAiBuyer, new_buyer
from wwwmarket.cli.demo.market import terms_of
from wwwmarket.cli.demo.processes import Child, environment
from wwwmarket.cli.options import parse_share
from wwwmarket.domain.errors import Malformed, Unavailable


def test_a_child_that_does_not_start_shows_its_last_words(tmp_path):
    """What it logged is in the refusal."""
    with Child("node", ["node", "run", "--port", "99999"], tmp_path) as child, pytest.raises(Unavailable) as told:
        child.ready()
    assert "node ended with code 2" in told.value.message
    assert "--port" in told.value.message


def test_a_child_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    """Starting is bounded, and so is stopping."""
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.0)
    begun = time.monotonic()
    with Child("node", ["node", "run", "--port", "0"], tmp_path) as child, pytest.raises(Unavailable, match="within 0"):
        child.ready()
    assert time.monotonic() - begun < processes.STOP_TIMEOUT_S


def test_a_demo_does_not_inherit_settings(monkeypatch):
    """What is set for other commands does not reach the demo's children."""
    monkeypatch.setenv("WWWMARKET_PORT", "1")
    assert not [name for name in environment() if name.startswith("WWWMARKET_")]


@pytest.mark.parametrize("place", range(16))
def test_the_terms_of_every_provider_can_be_offered(place):
    """Prices and shares are what the command reads, and no two providers ask alike."""
    terms = terms_of(place)
    assert parse_credits(terms.price_input) <= parse_credits(terms.price_output)
    assert parse_share(terms.ask_floor) > 0
    assert min(terms.ttft_ms, terms.tpot_ms) > 0
    assert terms != terms_of(place + 1)


def test_the_stock_client_is_taken_where_it_is_installed(monkeypatch):
    """Without it plain HTTP does."""
    with closing(new_buyer("http://127.0.0.1:9", "sk-1", "m")) as stock:
        assert isinstance(stock, OpenAiBuyer)
    monkeypatch.setitem(sys.modules, "openai", None)
    with closing(new_buyer("http://127.0.0.1:9", "sk-1", "m")) as plain:
        assert isinstance(plain, HttpBuyer)


@pytest.mark.parametrize(("texts", "award"), [([], "a"), (["x"], "")])
def test_an_answer_without_text_or_award_is_none(texts, award):
    """An empty answer, and one that no market sold, are refused."""
    with pytest.raises(Malformed):
        buyers._timed(iter(texts), award, 0.0)
