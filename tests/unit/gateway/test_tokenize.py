"""Texts are split for nothing, within bounds."""

import pytest


@pytest.mark.parametrize("field", ["prompt", "content"])
async def test_a_text_is_tokenized_as_vllm_and_llama_cpp_ask_for_it(doors, field):
    """Both engines' forms are understood, and the answer is one that both's clients read."""
    answer = await doors.post("/tokenize", json={"model": "tiny", field: "ab", "add_special_tokens": False})
    assert answer.json() == {"count": 2, "max_model_len": 8_192, "tokens": [97, 98], "token_strs": None}


async def test_the_only_model_on_offer_need_not_be_named(doors, market, scripts):
    """As engines with one model have it; with several, the question is what is meant."""
    assert (await doors.post("/tokenize", json={"content": "a"})).json()["tokens"] == [97]
    market.listed.append(("c1" * 32, scripts.listed(model="other")))
    refused = await doors.post("/tokenize", json={"content": "a"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "tiny", "messages": [{"role": "user", "content": "a"}]}, 400, "prompt"),
        ({"model": "tiny", "prompt": 5}, 400, "prompt"),
        ({"model": "other", "prompt": "a"}, 404, "model"),
    ],
)
async def test_what_cannot_be_tokenized_is_said(doors, body, status, param):
    """A chat has no text before a template; a model has no tokens before an offer."""
    refused = await doors.post("/tokenize", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


async def test_tokenizing_asks_for_a_key_and_bounds_each(doors, config):
    """What is free is not for everybody, nor without end."""
    object.__setattr__(config, "tokenize_per_s", 3)
    stranger = await doors.post("/tokenize", json={"content": "a"}, headers={"authorization": ""})
    assert stranger.status_code == 401
    statuses = [(await doors.post("/tokenize", json={"content": "a"})).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
