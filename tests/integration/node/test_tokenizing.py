"""A text is split by an engine of whoever offers the model, for nothing and only so often."""

import pytest

from tests.integration.node.town import MODEL, Town, simulate
from wwwmarket.domain.errors import Exhausted, NotFound, TooLarge
from wwwmarket.node.messages import TEXT_BYTES_MAX
from wwwmarket.node.tokenizing import FREE_PER_S


def test_a_text_is_tokenized_by_a_provider_of_the_model():
    """A node without an engine asks one that has it, and pays nothing."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        await town.listed(1)
        told = await operator.answers.tokenize(MODEL.name, "Hello")
        assert told == await provider.answers.tokenize(MODEL.name, "Hello")
        assert len(told) > 0
        assert town.available(provider.key.account) == 0

    simulate(story)


def test_what_is_free_is_bounded():
    """Long texts, unknown models, and more texts in a second than a provider gives away are refused."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        await town.listed(1)
        with pytest.raises(TooLarge):
            await operator.answers.tokenize(MODEL.name, "\u00e9" * (TEXT_BYTES_MAX // 2 + 1))
        with pytest.raises(NotFound):
            await operator.answers.tokenize("nobody/has-it", "Hello")
        for _ in range(FREE_PER_S):
            await provider.answers.tokenize(MODEL.name, "Hello")
        with pytest.raises(Exhausted):
            await operator.answers.tokenize(MODEL.name, "Hello")

    simulate(story)
