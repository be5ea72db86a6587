"""Providers that count more than they deliver, in a whole market: what was delivered is what is paid."""

import json

import pytest

from tests.integration.node.town import MODEL, Town, bodies, buy, settlements, simulate
from wwwmarket.domain.quantity import Usage
from wwwmarket.domain.records import Settlement
from wwwmarket.market.recount import OUTPUT_MARKS
from wwwmarket.node.service import Preferences
from wwwmarket.simulator.engine import Begin, End, Say

WORDS = ("the ", "river ", "runs ", "to ", "the ", "sea ") * 8
ASKED = json.dumps({"model": MODEL.name, "messages": [{"role": "user", "content": "rivers?"}], "stream": True}).encode()


class Words:
    """A tokenizer for tests: a token for each word."""

    digest = "00" * 32

    def count(self, text: str) -> int:
        return len(text.split())


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def play(output_tokens: int, input_tokens: int = 10):
    usage = Usage(input_tokens=input_tokens, cached_input_tokens=0, output_tokens=output_tokens)
    return (Begin(), *(Say(data=event(word)) for word in WORDS), End(usage=usage))


async def bought_of(town: Town, output_tokens: int, *, own_engine: bool = False, others: int = 0):
    """One purchase from a provider that says it wrote so many tokens; and that provider."""
    operator = await town.house("operator", *([] if own_engine else [None]))
    provider = await town.house("provider", play(output_tokens))
    for number in range(others):
        await town.house(f"other {number}")
    await town.listed(1 + own_engine + others)
    only = Preferences(only=(provider.key.account,))
    bought = await buy(operator, request=ASKED, max_output_tokens=20_000, prompt_bytes=200, preferences=only)
    await town.settled()
    return bought.delivered, provider


def test_a_provider_that_counts_200_times_too_much_is_paid_for_what_was_delivered():
    """By the node's pinned tokenizer: the receipt has the own count, the ledger pays it, the award's explanation and the
    node's metrics say so, and the attestation stands beside it as evidence.
    """

    async def story(town: Town) -> None:
        town.tokenizers = {MODEL.name: Words()}
        delivered, provider = await bought_of(town, 200 * len(WORDS))
        operator = town.operator
        assert delivered.usage.output_tokens == len(WORDS)
        assert town.available(provider.key.account) == delivered.cost_micro
        assert settlements(operator) == {delivered.award: 1}
        (settled,) = bodies(operator, Settlement)
        assert settled.receipt.body.verdict == "disputed"
        assert settled.attestation.body.usage.output_tokens == 200 * len(WORDS)
        told = await operator.answers.explain(delivered.award)
        assert (told.recount.source, told.recount.beyond) == ("tokenizer", True)
        counters = operator.answers.counters().counters
        assert (counters["recounts_total"], counters["overcounts_total"]) == (1, 1)

    simulate(story)


def test_an_honest_provider_is_paid_what_it_counted():
    """End of turn and other marks that no reader sees are within the tolerance."""

    async def story(town: Town) -> None:
        town.tokenizers = {MODEL.name: Words()}
        said = len(WORDS) + OUTPUT_MARKS
        delivered, _ = await bought_of(town, said)
        assert delivered.usage.output_tokens == said
        (settled,) = bodies(town.operator, Settlement)
        assert settled.receipt.body.verdict == "agreed"
        assert "overcounts_total" not in town.operator.answers.counters().counters

    simulate(story)


def test_a_node_that_sells_the_model_counts_by_its_own_engine():
    """Without a pinned tokenizer; the twin's engine has a token for each byte."""

    async def story(town: Town) -> None:
        delivered, _ = await bought_of(town, 200 * len(WORDS), own_engine=True)
        told = await town.operator.answers.explain(delivered.award)
        assert told.recount.source == "own_engine"
        assert delivered.usage.output_tokens == len("".join(WORDS))

    simulate(story)


def test_without_any_tokenizer_bytes_are_the_bound():
    """No more tokens than bytes of delivered text, whatever JSON is around them."""

    async def story(town: Town) -> None:
        delivered, _ = await bought_of(town, 200 * len(WORDS))
        told = await town.operator.answers.explain(delivered.award)
        assert told.recount.source == "bytes"
        assert delivered.usage.output_tokens == len("".join(WORDS))

    simulate(story)


@pytest.mark.parametrize("said", [1, 5])
def test_who_counts_less_is_paid_less(said):
    """A recount never raises a bill."""

    async def story(town: Town) -> None:
        town.tokenizers = {MODEL.name: Words()}
        delivered, _ = await bought_of(town, said)
        assert delivered.usage.output_tokens == said

    simulate(story)


def test_who_overcounts_is_asked_last():
    """As whoever lets a node down: after all others, whichever way they were drawn."""

    async def story(town: Town) -> None:
        town.tokenizers = {MODEL.name: Words()}
        _, provider = await bought_of(town, 200 * len(WORDS), others=2)
        purse = town.operator.node.buying.purse
        drawn = purse.candidates(MODEL.name)
        for order in (drawn, drawn[::-1]):
            assert purse.order(order)[-1].node == provider.id

    simulate(story)
