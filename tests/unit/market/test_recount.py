"""The buyer's own count: an honest provider is paid what it counted, and nobody for what did not arrive."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.domain.quantity import Usage
from wwwmarket.market.recount import (
    OUTPUT_MARKS,
    TEMPLATE_MARKS,
    TOOLS_MARKS,
    Answer,
    byte_split,
    count,
    read_prompt,
)

TEXT = "the river runs down to the sea and does not ask who owns it"
WORDS = len(TEXT.split())
ASKED = json.dumps({"model": "m", "messages": [{"role": "user", "content": "name three rivers"}]}).encode()


def words(text: str) -> int:
    return len(text.split())


def event(**delta) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def streamed(*events: bytes) -> Answer:
    answer = Answer(stream=True)
    for each in events:
        answer.feed(each)
    return answer


def whole(message: dict, **more) -> Answer:
    answer = Answer(stream=False)
    body = json.dumps({"choices": [{"index": 0, "message": message}], **more}).encode()
    answer.feed(body[:7])
    answer.feed(body[7:])
    return answer


def used(output: int, input_tokens: int = 3, cached: int = 0) -> Usage:
    return Usage(input_tokens=input_tokens, cached_input_tokens=cached, output_tokens=output)


def judge(answer: Answer, said: Usage, *, request: bytes = ASKED, split=words, source="tokenizer", cancelled=False):
    return count(read_prompt(request), answer, split, source).against(said, cancelled=cancelled)


def test_an_overcount_is_paid_by_the_own_count():
    """Two hundred times what was delivered: what was delivered is paid, and it is a finding."""
    said = used(200 * WORDS)
    found = judge(streamed(*(event(content=word + " ") for word in TEXT.split())), said)
    assert found.beyond
    assert found.agreed.output_tokens == found.output_tokens == WORDS


@pytest.mark.parametrize("beyond", [False, True])
def test_the_tolerance_is_what_is_stated(beyond):
    """Ten percent and the marks of one choice: the provider's count stands up to there, and not one token further."""
    text = " ".join(["word"] * 1_000)
    most = 1_000 + 100 + OUTPUT_MARKS
    found = judge(whole({"content": text}), used(most + beyond))
    assert found.beyond is beyond
    assert found.agreed.output_tokens == (1_000 if beyond else most)


def test_an_undercount_is_the_providers_affair():
    """Who counts less is paid less."""
    assert judge(whole({"content": TEXT}), used(1)).agreed.output_tokens == 1


def test_tool_calls_are_counted_with_what_wraps_them():
    """A call's name and arguments are text; each has marks around it that no reader sees."""
    calls = [{"index": n, "function": {"name": "price", "arguments": '{"of": "tea"}'}} for n in range(3)]
    answer = streamed(event(tool_calls=calls), event(tool_calls=[{"index": 0, "function": {"arguments": " end"}}]))
    assert answer.calls == 3
    assert not judge(answer, used(10 + OUTPUT_MARKS * 4)).beyond
    assert judge(answer, used(12 + OUTPUT_MARKS * 4)).beyond


def test_reasoning_that_is_delivered_is_counted_once():
    """Servers give it under one of two names, or under both at once."""
    for names in (("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")):
        answer = streamed(event(**dict.fromkeys(names, TEXT)), event(content=TEXT))
        assert judge(answer, used(2 * WORDS)).output_tokens == 2 * WORDS


@pytest.mark.parametrize("hiding", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_what_the_client_did_not_want_to_see_is_not_held_against_the_provider(hiding):
    """Reasoning left out at the client's own wish: the provider's count of output stands."""
    request = json.dumps({**json.loads(ASKED), **hiding}).encode()
    found = judge(whole({"content": TEXT}), used(5_000), request=request)
    assert not found.beyond
    assert found.output_tokens is None


def test_reasoning_that_a_provider_hides_by_itself_is_not_paid():
    """The client did not ask for that."""
    assert judge(whole({"content": TEXT}), used(5_000)).agreed.output_tokens == WORDS


def test_choices_are_counted_by_themselves():
    """Each has its own text and its own marks, however their events are mixed."""
    answer = Answer(stream=True)
    for index in (0, 1, 0, 1):
        choice = {"index": index, "text": "two words "}
        answer.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert (answer.choices, answer.texts) == (2, ("two words two words ",) * 2)
    assert not judge(answer, used(8 + 2 * OUTPUT_MARKS)).beyond


def test_bytes_bound_tokens_where_nobody_can_split():
    """Without a tokenizer, no more tokens than bytes of text are paid; not the bytes of JSON around them."""
    answer = streamed(event(content="é" * 50, padding="x" * 10_000))
    assert judge(answer, used(100), split=byte_split, source="bytes").agreed.output_tokens == 100
    assert judge(answer, used(10_000), split=byte_split, source="bytes").agreed.output_tokens == 100


def test_what_is_no_answer_counts_as_the_text_that_it_is():
    """A provider cannot evade the count by sending what cannot be read; and unknown fields carry no paid text."""
    answer = streamed(b"data: {nonsense\n\n", event(content="one"), event(unseen="a b c d"))
    assert answer.texts == ("{nonsense", "one")
    assert judge(answer, used(500)).agreed.output_tokens == 2


def test_the_input_is_counted_with_its_template():
    """Roles and separators of a chat template are allowed for; more than that is not paid."""
    most = 3 + 2 * TEMPLATE_MARKS
    assert not judge(whole({"content": "hi"}), used(1, most, cached=most)).beyond
    found = judge(whole({"content": "hi"}), used(1, 4_000, cached=4_000))
    assert found.beyond
    assert found.agreed.input_tokens == found.agreed.cached_input_tokens == 3 + 2 * 6


def test_tools_may_have_a_long_preamble():
    """Templates say a lot around a list of tools."""
    tools = [{"type": "function", "function": {"name": "price"}}]
    request = json.dumps({**json.loads(ASKED), "tools": tools}).encode()
    assert not judge(whole({"content": "hi"}), used(1, 3 + TOOLS_MARKS + 2 * TEMPLATE_MARKS), request=request).beyond


@pytest.mark.parametrize(
    ("asked", "texts", "ids", "opaque"),
    [
        ({"prompt": "a b"}, ("a b",), 0, False),
        ({"prompt": ["a", "b c"]}, ("a", "b c"), 0, False),
        ({"prompt": [1, 2, 3]}, (), 3, False),
        ({"prompt": [[1], [2, 3]]}, (), 3, False),
        ({"input": ["a", "b"]}, ("a", "b"), 0, False),
        ({"messages": [{"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, ("a",), 0, True),
        ({"messages": [{"content": None, "tool_calls": [1]}]}, ("[1]",), 0, False),
        ({"messages": "no list"}, (), 0, True),
        ({"prompt": 7}, (), 0, True),
    ],
)
def test_prompts_are_read_in_all_their_forms(asked, texts, ids, opaque):
    """Texts, lists of texts, token ids, content parts; what is no text cannot be counted."""
    prompt = read_prompt(json.dumps(asked).encode())
    assert (prompt.texts, prompt.token_ids, prompt.opaque) == (texts, ids, opaque)


def test_the_input_of_a_cancelled_answer_is_the_bids_estimate():
    """Its engine never said how much it read, so it is not held against the provider."""
    assert not judge(whole({"content": TEXT}), used(WORDS, 1_000), cancelled=True).beyond
    assert judge(whole({"content": TEXT}), used(200 * WORDS, 1_000), cancelled=True).beyond


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_break_the_count(data, stream):
    """Requests and answers of any bytes are counted somehow, and never above what was said."""
    answer = Answer(stream=stream)
    answer.feed(data)
    said = used(1_000, 1_000, cached=1_000)
    found = count(read_prompt(data), answer, byte_split, "bytes").against(said)
    assert found.agreed.output_tokens <= 1_000
    assert found.agreed.input_tokens <= 1_000
