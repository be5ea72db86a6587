"""``wwwmarket chat`` in a market of real processes."""

import json


def test_a_conversation_is_paid_answer_by_answer(market, new_key, program):
    """Each line is a question; each answer has its text, provider, cost and first token; commands are not sent."""
    key = new_key("1")
    typed = "/help\nTell me about the river.\n/cost\n/new\nAnd the sea?\n/quit\nnever sent\n"
    done = program("chat", "--json", "--max-tokens", "16", typed=typed, gateway=market.base, api_key=key["key"])
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2
    for answer in answers:
        assert answer["text"]
        assert answer["cost_micro"] > 0
        assert answer["ttft_ms"] > 0
        assert not answer["cancelled"]
    assert "cancel the answer" in done.stderr
    total = sum(answer["cost_micro"] for answer in answers) / 1_000_000
    assert f"2 answers, {total:.6f}".rstrip("0") in done.stderr


def test_a_refusal_ends_the_question_and_not_the_conversation(market, new_key, program):
    """A model that nobody offers is refused; the next question goes to one that is on offer."""
    key = new_key("1")
    typed = f"/model nobody/has-it\nHello\n/model {market.model}\nTell me about the river.\n"
    done = program("chat", "--max-tokens", "8", typed=typed, gateway=market.base, api_key=key["key"])
    assert done.returncode == 0, done.stderr
    assert "nobody/has-it" in done.stderr
    assert "credits for" in done.stderr
    assert "first token after" in done.stderr
    assert done.stdout.strip()
