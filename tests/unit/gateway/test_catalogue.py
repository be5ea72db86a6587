"""What is on offer, in OpenAI's form and OpenRouter's, and what it lately came to."""

import pytest
from msgspec.structs import replace

from wwwmarket.domain.quantity import Slo
from wwwmarket.gateway.catalogue import live_of


async def test_models_are_listed_with_price_context_and_providers(openai, market, scripts):
    """The catalogue has OpenAI's form, and the cheapest listed price per token as decimal strings."""
    market.listed.append(("c1" * 32, scripts.listed("b1" * 32, output=200_000, precision="fp8")))
    models = (await openai.models.list()).data
    assert [model.id for model in models] == ["tiny"]
    price = {"prompt": "0.0000001", "completion": "0.0000002", "input_cache_read": "0.00000001"}
    assert models[0].pricing.items() >= price.items()
    assert (models[0].providers, models[0].context_length) == (2, 8_192)
    assert models[0].quantizations == ["bf16", "fp8"]
    assert (await openai.models.retrieve("tiny")).id == "tiny"


async def test_the_catalogue_has_openrouters_fields(doors):
    """Clients of other markets find what they look for; prices are strings, never floats."""
    card = (await doors.get("/v1/models")).json()["data"][0]
    assert card["name"] == card["canonical_slug"] == "tiny"
    assert card["top_provider"] == {"context_length": 8_192, "max_completion_tokens": None, "is_moderated": False}
    assert card["architecture"]["input_modalities"] == card["architecture"]["output_modalities"] == ["text"]
    assert {"tools", "response_format", "logprobs", "seed", "max_tokens"} <= set(card["supported_parameters"])
    assert card["per_request_limits"] is None
    assert all(isinstance(price, str) for price in card["pricing"].values())
    assert card["description"].startswith("Offered by 1 provider;")


async def test_a_model_name_may_have_slashes(doors, market, scripts):
    """Names such as org/model are one path."""
    market.listed.append(("c1" * 32, scripts.listed(model="org/tiny")))
    assert (await doors.get("/v1/models/org/tiny")).json()["id"] == "org/tiny"
    assert (await doors.get("/v1/models/org/none")).status_code == 404


async def test_the_latest_awards_tell_the_lowest_ask_and_how_often_objectives_were_met(doors):
    """A model carries what its market came to lately."""
    live = (await doors.get("/v1/models/tiny")).json()["market"]
    assert live == {
        "lowest_ask": {
            "prompt": "0.0000001",
            "completion": "0.0000004",
            "input_cache_read": "0.00000001",
            "request": "0",
            "image": "0",
            "web_search": "0",
            "internal_reasoning": "0",
        },
        "awards": 1,
        "attainment": 1.0,
    }


async def test_a_model_without_awards_claims_nothing(doors, market):
    """Nothing known is said as such, not as perfect."""
    market.awards.clear()
    live = (await doors.get("/v1/models/tiny")).json()["market"]
    assert live == {"lowest_ask": None, "awards": 0, "attainment": None}


async def test_the_awards_are_not_read_for_every_list(doors, market):
    """A client that polls the list does not poll the database."""
    for _ in range(5):
        await doors.get("/v1/models")
    assert market.looked == 1


@pytest.mark.parametrize(
    ("changes", "attainment"),
    [
        ({"ttft_ms": 500, "latency_ms": 550}, 1.0),
        ({"ttft_ms": 501, "latency_ms": 550}, 0.0),
        ({"ttft_ms": 40, "latency_ms": 91}, 0.0),
        ({"ttft_ms": None, "latency_ms": 400}, 1.0),
        ({"ttft_ms": None, "latency_ms": None}, None),
        ({"status": "expired", "latency_ms": None}, 0.0),
        ({"status": "refused"}, 0.0),
    ],
)
def test_an_award_attains_when_it_began_and_went_on_as_fast_as_was_wanted(scripts, changes, attainment):
    """Both times count, to the millisecond; what expired is missed, what runs counts for nothing yet."""
    award = scripts.explanation()
    award = replace(award, bid=replace(award.bid, slo=Slo(ttft_ms=500, tpot_ms=50)), **changes)
    assert live_of([award]).attainment == attainment
