"""``wwwmarket bid`` and the client beneath it: what a gateway may answer, and what becomes of it."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.cli import bid as command
from wwwmarket.cli import client as gateway_client
from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.bid import headers_of, pieces
from wwwmarket.cli.client import GatewayClient
from wwwmarket.domain.errors import Malformed, NotFound, Refusal, TooLarge, Unauthorised, Unavailable
from wwwmarket.domain.quantity import INTEGER_MAX, Slo
from wwwmarket.gateway.market import BidForKey


def chunk(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Answers everything with ``status`` and ``body``, whatever they are."""
    told = SimpleNamespace(status=200, body=b"{}", authorization=None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            told.authorization = self.headers["authorization"]
            self.send_response(told.status)
            self.send_header("content-length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        do_POST = do_GET  # noqa: N815 - the base class's form

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = Thread(target=serving.serve_forever)
        thread.start()
        told.address = f"http://127.0.0.1:{serving.server_port}"
        yield told
        serving.shutdown()
        thread.join()


def test_the_pieces_of_a_stream_are_its_text():
    """Comments, roles and empty deltas are no text; the end is the end."""
    lines = [
        ": hello",
        "",
        'data: {"choices":[{"delta":{"role":"assistant"}}]}',
        chunk("a"),
        chunk(" b"),
        "data: [DONE]",
    ]
    assert list(pieces(iter([*lines, chunk("late")]))) == ["a", " b"]


def test_an_error_in_a_stream_is_told():
    """What came before it stands, and the gateway's words follow."""
    found = pieces(iter([chunk("a"), 'data: {"error": {"message": "the provider stopped"}}']))
    assert next(found) == "a"
    with pytest.raises(Unavailable, match="the provider stopped"):
        next(found)


def test_a_stream_that_breaks_off_is_told():
    """Without its last event an answer is not whole."""
    with pytest.raises(Unavailable, match="broke off"):
        list(pieces(iter([chunk("a")])))


def test_a_stream_of_something_else_is_refused():
    """What is no chunk is not shown."""
    with pytest.raises(Malformed):
        list(pieces(iter(["data: <html>"])))


@given(st.integers(min_value=0, max_value=999_999_999_999_999), st.integers(min_value=0, max_value=INTEGER_MAX))
def test_the_terms_arrive_as_they_were_given(price, value):
    """The chat door's headers carry amounts exactly."""
    headers = headers_of(
        BidForKey(
            path="/v1/chat/completions",
            request=b"{}",
            max_price_micro=price,
            time_value_micro_per_s=value,
            slo=Slo(ttft_ms=7, tpot_ms=3),
        )
    )
    assert parse_credits(headers["x-wwwmarket-max-price"]) == price
    assert parse_credits(headers["x-wwwmarket-time-value"]) == value
    assert (headers["x-slo-ttft-ms"], headers["x-slo-tpot-ms"]) == ("7", "3")


def test_a_model_cannot_steer_the_terminal():
    """Escapes in an answer are shown, not obeyed; its lines stay lines."""
    assert command.plain("a\x1b[2J\nb\tc\x9b") == "a\\x1b[2J\nb\tc\\x9b"


def test_a_stream_is_not_json():
    """Whoever asks for both is told to choose."""
    with pytest.raises(typer.BadParameter, match="choose one"):
        command.bid("x", model="m", api_key="sk-1", stream=True, json=True)


def test_a_gateway_that_does_not_answer_is_named():
    """The refusal says which address was tried."""
    with GatewayClient("http://127.0.0.1:9/v1/") as client, pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9"):
        client.get("/v1/status", dict)


@pytest.mark.parametrize("address", ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://[::1"])
def test_what_is_no_address_is_refused(address):
    """An address without a scheme, or with another one, is refused before anything is sent."""
    with GatewayClient(address) as client, pytest.raises(Malformed, match="address of a gateway"):
        client.get("/v1/status", dict)


@pytest.mark.parametrize("secret", ["", "sk 1", "sk-\n1", "sk-\u00e9"])
def test_what_no_header_carries_is_no_key(secret):
    """Spaces, line ends and other scripts never reach a request."""
    with pytest.raises(Malformed, match="no key"):
        GatewayClient("http://127.0.0.1:9", secret)


def test_a_key_travels_as_a_bearer_token(server):
    """And nothing travels without one."""
    with GatewayClient(server.address, "sk-1") as client:
        client.get("/", dict)
        assert server.authorization == "Bearer sk-1"
    with GatewayClient(server.address) as client:
        client.get("/", dict)
        assert server.authorization is None


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (401, Unauthorised), (503, Refusal)])
def test_a_refusal_is_told_in_the_gateways_words(server, status, kind):
    """OpenAI's form of an error becomes the refusal that it was."""
    server.status, server.body = status, b'{"error": {"message": "not today", "code": "busy"}}'
    with GatewayClient(server.address) as client, pytest.raises(kind, match="not today") as told:
        client.get("/", dict)
    assert told.value.reason == "busy"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": 1}', b"\xff", b"[" * 100_000])
def test_a_refusal_of_another_form_names_its_status(server, body):
    """Whatever stands in front of a gateway may refuse in its own way."""
    server.status, server.body = 502, body
    with GatewayClient(server.address) as client, pytest.raises(Refusal, match="502"):
        client.get("/", dict)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b"[" * 100_000])
def test_an_answer_of_another_form_is_refused(server, body):
    """What answers there is no gateway of this version."""
    server.body = body
    with GatewayClient(server.address) as client, pytest.raises(Malformed, match="not this version's gateway"):
        client.get("/", dict)


def test_an_answer_without_end_is_cut_off(server, monkeypatch):
    """More than any answer is read of nobody."""
    monkeypatch.setattr(gateway_client, "ANSWER_BYTES_MAX", 1_000)
    server.body = b" " * 1_001
    with GatewayClient(server.address) as client, pytest.raises(TooLarge):
        client.get("/", dict)


def test_a_prompt_without_end_is_refused(monkeypatch):
    """Standard input is read up to a limit."""
    monkeypatch.setattr(command, "PROMPT_CHARACTERS_MAX", 3)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda count: "x" * count))
    with pytest.raises(typer.BadParameter, match="at most 3"):
        command._prompt("-")


@pytest.mark.parametrize(
    ("ttft_ms", "tpot_ms", "slo"),
    [(None, None, None), (5, None, (5, 60_000)), (None, 5, (3_600_000, 5)), (1, 2, (1, 2))],
)
def test_half_an_objective_leaves_the_other_half_open(ttft_ms, tpot_ms, slo):
    """Who asks for one latency does not ask for the other."""
    assert command.slo_of(ttft_ms, tpot_ms) == (None if slo is None else Slo(ttft_ms=slo[0], tpot_ms=slo[1]))
