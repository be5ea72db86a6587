"""Keys, limits and earnings of a running market, as its operator, its clients and its providers see them."""

import json

import openai
import pytest

HELLO = [{"role": "user", "content": "Tell me about the river."}]


@pytest.fixture
def keys(market, program):
    """Runs a command of ``node keys``; gives its answer as JSON."""

    def run(*arguments: str) -> dict[str, object]:
        done = program(
            "node", "keys", *arguments, "--json", gateway=market.base, admin_token_file=market.admin_token_file
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def ask(market, secret: str, **changes: object):
    with openai.OpenAI(base_url=market.gateway, api_key=secret, max_retries=0) as client:
        return client.chat.completions.create(**({"model": market.model, "messages": HELLO, "max_tokens": 8} | changes))


def refusal(market, secret: str, **changes: object) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(market, secret, **changes)
    return caught.value


def test_a_key_is_told_what_to_do_about_its_limits(market, keys):
    """Its requests a minute, its models, its price, its budget: each refusal has its code and says what helps."""
    made = keys("create", "--name", "limited", "--budget", "1", "--requests-per-minute", "1")
    secret, name = str(made["key"]), str(made["id"])
    assert ask(market, secret).usage.cost > 0
    busy = refusal(market, secret)
    assert (busy.status_code, busy.code) == (429, "requests_per_minute")
    assert 0 < int(busy.response.headers["retry-after"]) <= 60
    assert "1 requests a minute" in busy.message
    keys("limit", name, "--allow-model", "another/model")
    other = refusal(market, secret)
    assert (other.status_code, other.code) == (403, "model_not_allowed")
    assert "another/model" in other.message
    keys("limit", name, "--max-price", "0.000001")
    dear = refusal(market, secret)
    assert (dear.status_code, dear.code) == (402, "insufficient_credit")
    assert "raise the maximum price" in dear.message
    keys("limit", name)
    keys("refund", name, str(available(keys, name) / 1_000_000))
    poor = refusal(market, secret)
    assert (poor.status_code, poor.code) == (402, "insufficient_credit")
    assert "add credit" in poor.message


def available(keys, name: str) -> int:
    """What a key has left, once nothing of it is locked."""
    (listed,) = [one for one in keys("list") if one["id"] == name]
    return int(listed["available_micro"])


def test_what_providers_earned_is_what_clients_paid(market, keys, program, http, until):
    """Over all providers and all keys of a market, earnings by counterparty come to what the key's statement says."""
    made = keys("create", "--name", "earner", "--budget", "1")
    account = str(made["account"])
    cost = sum(ask(market, str(made["key"])).wwwmarket["cost_micro"] for _ in range(2))
    until(lambda: http.get(f"/v1/accounts/{account}").json()["balance"]["available_micro"] == 1_000_000 - cost, "paid")
    providers = {offer["provider"] for offer in http.get("/v1/offers").json()["data"]}

    def earned() -> int:
        return sum(
            total["earned_micro"]
            for provider in providers
            for total in json.loads(
                program(
                    "provider", "earnings", provider, "--by", "counterparty", "--ledger", market.base, "--json"
                ).stdout
            )["totals"]
            if total["group"] == account
        )

    until(lambda: earned() == cost, "the earnings are the costs")
