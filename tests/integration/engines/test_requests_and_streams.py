"""What is edited in a request on its way to an engine, and how its answer is read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.adapters.engines import openai_stream
from wwwmarket.adapters.engines.openai_request import REQUEST_BYTES_MAX, prepare
from wwwmarket.adapters.engines.tiny_model import make_model
from wwwmarket.domain.errors import Malformed, TooLarge, Unavailable
from wwwmarket.domain.quantity import Usage

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def edited(request: bytes, path=CHAT, output_tokens_max=10) -> dict:
    return msgspec.json.decode(prepare(path, request, output_tokens_max=output_tokens_max).body)


def test_what_is_not_edited_travels_byte_for_byte():
    """Numbers, order and unknown fields keep their exact bytes; only the bound is added."""
    request = b'{"z":1.0,"model":"m","big":123456789012345678901234567890,"a":{"b": [1e2]}}'
    prepared = prepare(CHAT, request, output_tokens_max=10)
    assert prepared.body == request[:-1] + b',"max_tokens":10}'
    assert (prepared.model, prepared.stream) == ("m", False)


def test_a_field_given_twice_is_sent_once():
    """Two readers that disagree on which of two values counts cannot be played against each other."""
    prepared = prepare(CHAT, b'{"max_tokens":3,"max_tokens":99}', output_tokens_max=10)
    assert prepared.body == b'{"max_tokens":10}'


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        (b"{}", {"max_tokens": 10}),
        (b'{"max_tokens":null}', {"max_tokens": 10}),
        (b'{"max_tokens":4}', {"max_tokens": 4}),
        (b'{"max_tokens":0}', {"max_tokens": 0}),
        (b'{"max_tokens":"99"}', {"max_tokens": 10}),
        (b'{"max_completion_tokens":4}', {"max_completion_tokens": 4, "max_tokens": 4}),
        (b'{"max_completion_tokens":99,"max_tokens":4}', {"max_completion_tokens": 10, "max_tokens": 4}),
        (b'{"n_predict":-1}', {"n_predict": 10, "max_tokens": 10}),
        (b'{"n":2}', {"n": 2, "max_tokens": 5}),
    ],
)
def test_every_bound_is_at_most_what_is_paid_for(fields, bound):
    """Each name of the bound is lowered, whatever its type, and divided among the choices."""
    assert edited(fields) == bound


def test_several_prompts_share_the_bound():
    """Each of several prompts is a text to pay for; one prompt of token ids is one."""
    assert edited(b'{"prompt":["a","b"]}', TEXT)["max_tokens"] == 5
    assert edited(b'{"prompt":[[1,2],[3]]}', TEXT)["max_tokens"] == 5
    assert edited(b'{"prompt":[1,2,3]}', TEXT)["max_tokens"] == 10


def test_streams_are_asked_for_their_usage():
    """``include_usage`` is set beside whatever other stream options there are."""
    options = edited(b'{"stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}}')
    assert options["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"stream":1}',
        b'{"stream":true,"stream_options":3}',
        b'{"n":"2"}',
        b'{"model":7}',
        b"[" * 5000,
    ],
)
def test_what_is_read_must_make_sense(request_bytes):
    """No JSON object, or a field that is read here of another type."""
    with pytest.raises(Malformed):
        prepare(CHAT, request_bytes, output_tokens_max=10)


@pytest.mark.parametrize("request_bytes", [b" " * (REQUEST_BYTES_MAX + 1), b'{"n":129}', b'{"n":11}'])
def test_requests_have_limits(request_bytes):
    """Bytes, choices, and choices against the bound."""
    with pytest.raises(TooLarge):
        prepare(CHAT, request_bytes, output_tokens_max=10)


@given(
    st.lists(st.sampled_from([b"data: a\n\n", b"data: b\r\n\r\n", b": ping\n\n", b"data: c\n\r\n"]), max_size=8),
    st.data(),
)
def test_events_are_cut_whole_wherever_the_network_cuts(events, data):
    """However the bytes arrive, pieces are whole events, and nothing is lost or altered."""
    stream = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    splitter, pieces, last = openai_stream.EventSplitter(), [], 0
    for cut in [*cuts, len(stream)]:
        pieces.append(splitter.feed(stream[last:cut]))
        last = cut
    assert b"".join(pieces) == stream
    assert splitter.rest == b""
    ends = {sum(map(len, events[: i + 1])) for i in range(len(events))} | {0}
    assert all(sum(map(len, pieces[: i + 1])) in ends for i in range(len(pieces)))


def test_an_endless_event_is_refused():
    """An event over the limit ends the stream."""
    splitter = openai_stream.EventSplitter()
    with pytest.raises(Unavailable):
        splitter.feed(b"x" * (openai_stream.EVENT_BYTES_MAX + 1))


def test_usage_is_read_only_where_it_is_usage():
    """The last usage counts, cached tokens are part of the input, and text that speaks of usage is text."""
    piece = (
        b'data: {"choices":[{"delta":{"content":"\\"usage\\":{"}}],"usage":null}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}\n\n'
    )
    assert not openai_stream.has_usage(piece.split(b"\n\n")[0])
    assert openai_stream.usage_of_stream(piece) == Usage(input_tokens=9, cached_input_tokens=5, output_tokens=4)
    assert openai_stream.usage_of(b'{"usage":{"prompt_tokens":-1}}') is None
    assert openai_stream.usage_of(b"nothing") is None


def test_the_small_model_is_made_of_its_seed(tmp_path):
    """The same seed writes the same bytes, another seed others; half a megabyte."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_model(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert len(a) < 1_000_000
