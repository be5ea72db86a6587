"""The pure parts of the gateway, held against plain models of them."""

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.domain.errors import Exhausted
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE
from wwwmarket.gateway.amounts import credits_micro, credits_text, price_per_token
from wwwmarket.gateway.problems import headers_of
from wwwmarket.gateway.splice import DONE, StreamSplicer, splice
from wwwmarket.node.service import Delivered

DELIVERED = Delivered(
    award="aa" * 32,
    provider="bb" * 32,
    outcome="completed",
    usage=NO_USAGE,
    cost_micro=1_500_000,
    ttft_ms=None,
    latency_ms=1,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
texts = st.text() | st.sampled_from(['"usage"', "[DONE]", 'data: [DONE]\n\n{"choices":[],"usage":{}}'])


@given(st.integers(0, INTEGER_MAX))
def test_credits_are_written_exactly(micro):
    """The number in usage.cost is the micro-credits, to the last digit."""
    assert Decimal(credits_text(micro)) * 1_000_000 == micro
    assert json.loads(credits_text(micro)) is not None


@given(st.integers(0, 10**15 - 1))
def test_credits_are_read_as_they_are_written(micro):
    """Reading is the inverse of writing."""
    assert credits_micro(credits_text(micro), param="x") == micro


@given(st.integers(0, 10**12))
def test_prices_per_token_are_exact_decimals(price):
    """No price is rounded, and none has an exponent."""
    text = price_per_token(price)
    assert Decimal(text) * 10**12 == price
    assert set(text) <= set("0123456789.")


@given(st.integers(-5, 10**9))
def test_retry_after_is_never_too_soon_nor_zero(retry_after_ms):
    """Whole seconds, rounded up."""
    seconds = int(headers_of(Exhausted("full", retry_after_ms=retry_after_ms))["retry-after"])
    assert seconds >= 1
    assert seconds * 1000 >= retry_after_ms


@given(st.dictionaries(st.text(), values), st.none() | st.dictionaries(st.text(), values))
def test_splicing_changes_nothing_but_cost_and_wwwmarket(fields, usage):
    """Every other value of an answer is as the engine sent it."""
    answer = fields if usage is None else fields | {"usage": usage}
    spliced = json.loads(splice(json.dumps(answer).encode(), DELIVERED))
    assert spliced.pop("wwwmarket")["cost_micro"] == 1_500_000
    expected = answer.copy()
    expected.pop("wwwmarket", None)
    if isinstance(expected.get("usage"), dict):
        expected["usage"] = expected["usage"] | {"cost": 1.5}
    assert spliced == expected


@given(st.binary())
def test_splicing_arbitrary_bytes_never_raises(answer):
    """An engine's answer is a stranger's bytes."""
    splice(answer, DELIVERED)


@given(st.lists(texts, max_size=8), st.lists(st.booleans(), min_size=9, max_size=9), st.booleans())
def test_a_stream_passes_whole_but_for_usage_and_done(contents, cuts, include_usage):
    """However events are grouped into pieces, and whatever the text says, the text passes byte for byte."""
    text = [b"data: " + json.dumps({"choices": [{"delta": {"content": one}}]}).encode() + b"\n\n" for one in contents]
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n'
    events = [*text, usage + DONE]
    pieces, held = [], b""
    for event, cut in zip(events, cuts, strict=False):
        held += event
        if cut:
            pieces.append(held)
            held = b""
    splicer = StreamSplicer()
    passed = b"".join(splicer.passed(piece) for piece in [*pieces, held])
    assert passed == b"".join(text)
    ending = splicer.ending(DELIVERED, include_usage=include_usage)
    assert ending.endswith(DONE)
    assert (b'"cost":1.5' in ending) == include_usage


@given(st.lists(st.binary(), max_size=5))
def test_arbitrary_pieces_never_raise(pieces):
    """A provider's stream is a stranger's bytes."""
    splicer = StreamSplicer()
    for piece in pieces:
        splicer.passed(piece + b'"usage"')
    splicer.ending(DELIVERED, include_usage=True)
