"""A market of real processes, used as its users use it: with the official OpenAI client, and by commands."""

import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import openai
import pytest

from wwwmarket.cli.demo.buyers import HttpBuyer
from wwwmarket.cli.demo.processes import Child

HELLO = [{"role": "user", "content": "Tell me about the river."}]
AWARD = "x-wwwmarket-award"


@pytest.fixture
def key(new_key):
    return new_key("1")


@pytest.fixture
def client(market, key) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=market.gateway, api_key=key["key"], max_retries=0) as made:
        yield made


def with_key(market, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=market.gateway, api_key=secret, max_retries=0)


def available_micro(http, account: str) -> int:
    balance = http.get(f"/v1/accounts/{account}").json()["balance"]
    return balance["available_micro"] + balance["locked_micro"]


def settled(http, until, award: str) -> dict[str, object]:
    """The award's explanation, once the ledger has settled it."""
    return until(
        lambda: (told := http.get(f"/v1/awards/{award}").json())["status"] == "settled" and told, f"{award} is settled"
    )


# The OpenAI client


def test_a_chat_is_answered(market, client):
    """A whole chat completion has its text, its usage, its cost and its award."""
    answer = client.chat.completions.create(model=market.model, messages=HELLO, max_tokens=24)
    assert answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.cost > 0
    assert answer.wwwmarket["provider"]


def test_a_chat_is_streamed(market, client):
    """A streamed chat comes in pieces; its last one has the usage with its cost, when it was asked for."""
    chunks = list(
        client.chat.completions.create(
            model=market.model, messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.cost > 0
    assert chunks[-1].wwwmarket["award"]


def test_a_stream_without_usage_has_none(market, client):
    """Nobody gets a usage chunk that did not ask for it."""
    chunks = list(client.chat.completions.create(model=market.model, messages=HELLO, max_tokens=8, stream=True))
    assert all(chunk.usage is None for chunk in chunks)


def test_a_completion_is_answered(market, client):
    """The older completions door sells as well."""
    answer = client.completions.create(model=market.model, prompt="The river", max_tokens=8)
    assert answer.choices[0].text
    assert answer.usage.cost > 0


def test_the_models_are_listed(market, client):
    """What is on offer is in the list, with its price and how many sell it."""
    (model,) = client.models.list().data
    assert (model.id, model.providers) == (market.model, 3)
    assert client.models.retrieve(market.model).pricing["completion"] == model.pricing["completion"]


def test_unknown_fields_pass(market, client):
    """What this market does not know reaches the engine, which ignores it."""
    answer = client.chat.completions.create(
        model=market.model, messages=HELLO, max_tokens=8, extra_body={"field_of_next_year": {"a": 1}}
    )
    assert answer.choices[0].message.content


def test_an_unknown_key_is_401(market):
    """A key that this gateway did not make buys nothing."""
    with with_key(market, "sk-nobody") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model=market.model, messages=HELLO)


def test_an_unknown_model_is_404(client):
    """A model that nobody offers is not found."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody-has-this", messages=HELLO)


def test_a_key_without_credit_is_402(market, new_key):
    """A key that cannot lock the price is told so."""
    with with_key(market, new_key("0")["key"]) as poor, pytest.raises(openai.APIStatusError) as told:
        poor.chat.completions.create(model=market.model, messages=HELLO, max_tokens=8)
    assert told.value.status_code == 402
    assert told.value.body["type"] == "insufficient_quota"


def test_a_prompt_beyond_the_context_is_400(market, client):
    """A request that fits into no model's context says what would."""
    long = [{"role": "user", "content": "river " * 20_000}]
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model=market.model, messages=long, max_tokens=8)
    assert told.value.code == "context_length_exceeded"


def test_an_objective_that_nobody_meets_is_503(market, client):
    """When no ask is good enough, the answer says so in OpenAI's form, and when to come back."""
    with pytest.raises(openai.InternalServerError) as told:
        client.chat.completions.create(
            model=market.model, messages=HELLO, max_tokens=8, extra_headers={"x-slo-ttft-ms": "1", "x-slo-tpot-ms": "1"}
        )
    assert told.value.status_code == 503
    assert int(told.value.response.headers["retry-after"]) >= 1
    assert told.value.body["type"] == "service_unavailable_error"


@pytest.mark.parametrize("stream", [True, False])
def test_plain_http_buys_as_well(market, key, http, stream):
    """Without the OpenAI client the demo's requests are the same."""
    with closing(HttpBuyer(market.base, key["key"], market.model)) as buyer:
        reply = buyer.buy("Hello", {"x-slo-ttft-ms": "9000"}, stream=stream)
    assert reply.text
    assert http.get(f"/v1/awards/{reply.award}").json()["bid"]["client"] == key["account"]


# What it cost, and why


def test_every_asked_provider_is_explained(market, client, http):
    """An award's explanation has each asked provider once, with a verdict and a reason."""
    raw = client.chat.completions.with_raw_response.create(model=market.model, messages=HELLO, max_tokens=8)
    told = http.get(f"/v1/awards/{raw.headers[AWARD]}").json()
    offers = http.get("/v1/offers").json()["data"]
    assert {ask["provider"] for ask in told["asks"]} == {offer["provider"] for offer in offers}
    assert all(ask["reason"] and ask["verdict"] for ask in told["asks"])
    assert [ask["verdict"] for ask in told["asks"]].count("won") == 1


def test_a_keys_balance_falls_by_what_its_requests_cost(market, client, key, http, until):
    """Whole and streamed, the sum of the costs told is what has left the account, to the micro-credit."""
    costs = []
    for place in range(4):
        stream = place % 2 == 1
        answer = client.chat.completions.create(
            model=market.model,
            messages=HELLO,
            max_tokens=8 + place,
            stream=stream,
            **({"stream_options": {"include_usage": True}} if stream else {}),
        )
        last = list(answer)[-1] if stream else answer
        told = settled(http, until, last.wwwmarket["award"])
        receipt = http.get(last.wwwmarket["receipt"]).json()
        assert told["cost_micro"] == receipt["cost_micro"] == last.wwwmarket["cost_micro"]
        assert receipt["receipt"]["body"]["verdict"] == "agreed"
        costs.append(last.wwwmarket["cost_micro"])
        assert last.usage.cost == pytest.approx(costs[-1] / 1e6)
    assert available_micro(http, key["account"]) == 1_000_000 - sum(costs)


# Commands


def award_of(market, client) -> str:
    raw = client.chat.completions.with_raw_response.create(model=market.model, messages=HELLO, max_tokens=8)
    return raw.headers[AWARD]


def test_explain_shows_every_ask(market, client, program, http, until):
    """`explain` is a table of all asks, the rule, and the receipt; as JSON it is the explanation itself."""
    award = award_of(market, client)
    settled(http, until, award)
    shown = program("explain", award, gateway=market.base)
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in (award, "won", "runner_up", "lost", "agreed, settled by entry"))
    told = json.loads(program("explain", award, "--json", gateway=market.base).stdout)
    assert (told["id"], len(told["asks"])) == (award, 3)
    assert told["receipt"]["award"] == award


def test_explain_of_nothing_is_refused(market, program):
    """An award that was never made leaves with 1 and one line."""
    done = program("explain", "0" * 64, gateway=market.base)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_bid_shows_the_answer_and_then_who_won(market, key, program):
    """The answer is alone on stdout; the award, the winner and the price are on stderr."""
    done = program(
        *("bid", "Hello", "--model", market.model, "--max-tokens", "8"), gateway=market.base, api_key=key["key"]
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert all(word in done.stderr for word in ("award", "winner", "credits", "runner-up"))


def test_bid_streams(market, key, program):
    """`--stream` shows the same on the same channels."""
    done = program(
        *("bid", "-", "--model", market.model, "--max-tokens", "8", "--stream", "--ttft-ms", "5000"),
        gateway=market.base,
        api_key=key["key"],
        typed="Hello",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "winner" in done.stderr


def test_bid_as_json_is_the_purchase(market, key, program):
    """With `--json` the purchase is on stdout: its award, its cost, its answer."""
    done = program(
        *("bid", "Hello", "--model", market.model, "--max-tokens", "8", "--json", "--max-price", "0.1"),
        gateway=market.base,
        api_key=key["key"],
    )
    bought = json.loads(done.stdout)
    assert bought["outcome"] == "completed"
    assert bought["cost_micro"] > 0
    assert bought["response"]["choices"]


def test_a_bid_below_every_price_is_refused(market, key, program):
    """A maximum price that no ask fits leaves with 1, and with the reason."""
    done = program(
        *("bid", "Hello", "--model", market.model, "--max-price", "0.000001"), gateway=market.base, api_key=key["key"]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "maximum price" in done.stderr


def test_an_account_is_shown(market, key, program):
    """`account show` has the balance; without an id it is the node's own."""
    one = program("account", "show", key["account"], "--json", gateway=market.base)
    assert json.loads(one.stdout)["balance"]["available_micro"] == 1_000_000
    assert "1.00 credits" in program("account", "show", key["account"], gateway=market.base).stdout
    own = json.loads(program("account", "show", "--json", gateway=market.base).stdout)
    assert own["balance"]["available_micro"] > 1_000_000


def test_api_keys_are_listed_funded_and_revoked(market, key, program, http):
    """A top-up adds to a key's account; a revoked key buys no more, and what it had is the node's again."""
    admin = {"gateway": market.base, "admin_token_file": market.admin_token_file}
    topped = program("node", "keys", "top-up", key["id"], "0.5", "--json", **admin)
    assert json.loads(topped.stdout)["id"] == key["id"]
    listed = {one["id"]: one for one in json.loads(program("node", "keys", "list", "--json", **admin).stdout)}
    assert listed[key["id"]]["available_micro"] == 1_500_000
    assert json.loads(program("node", "keys", "revoke", key["id"], "--json", **admin).stdout)["revoked"]
    assert available_micro(http, key["account"]) == 0
    with with_key(market, key["key"]) as revoked, pytest.raises(openai.AuthenticationError):
        revoked.chat.completions.create(model=market.model, messages=HELLO)


def test_an_admin_token_of_another_node_is_refused(market, program, tmp_path):
    """Without the node's own token no key is made."""
    token = tmp_path / "admin.token"
    token.write_text("admin-wrong")
    done = program("node", "keys", "create", "--name", "eve", gateway=market.base, admin_token_file=str(token))
    assert (done.returncode, done.stdout) == (1, "")


def test_a_provider_says_how_it_is(market, program):
    """`provider status` finds the provider by its data, and shows its offer and balance."""
    done = program("provider", "status", "--data", str(market.data / "provider-1"), "--json")
    told = json.loads(done.stdout)
    assert [offer["model"] for offer in told["offers"]] == [market.model]
    assert "available" in program("provider", "status", "--data", str(market.data / "provider-1")).stdout


def test_what_a_provider_is_known_for_is_shown(market, key, program, http, until):
    """After a request is settled, its provider has an award to its name: by the door, to people and to programs."""
    done = program(
        *("bid", "Hello", "--model", market.model, "--max-tokens", "4", "--json"),
        gateway=market.base,
        api_key=key["key"],
    )
    provider = json.loads(done.stdout)["provider"]

    def known():
        told = http.get(f"/v1/providers/{provider}").json()
        return told if told["reputation"]["standing"].get("served_milli", 0) >= 1_000 else None

    told = until(known, "the settlement is counted")
    assert told["keys"] == {"owner": provider}
    shown = program("provider", "reputation", provider, gateway=market.base)
    assert (shown.returncode, "newcomer" in shown.stdout) == (0, True)
    whole = json.loads(program("provider", "reputation", provider, "--json", gateway=market.base).stdout)
    assert whole["reputation"]["standing"]["served_milli"] >= told["reputation"]["standing"]["served_milli"]
    unknown = program("provider", "reputation", "12" * 32, gateway=market.base)
    assert (unknown.returncode, unknown.stdout) == (1, "")


def test_a_provider_joins_and_leaves(market, program, http, until, tmp_path):
    """Its offer is listed while it serves; told to leave it withdraws the offer, and ends with 0."""
    terms = ("--price-input", "900", "--price-output", "900", "--ttft-ms", "900", "--tpot-ms", "90", "--capacity", "1")
    command = ["provider", "join", "--market", market.base, "--engine", "embedded", *terms]
    with Child("newcomer", command, tmp_path) as newcomer:
        account = newcomer.ready().account
        until(lambda: account in providers_of(http), "the offer is listed")
        left = program("provider", "leave", "--data", str(tmp_path), "--json")
        assert json.loads(left.stdout) == {"account": account, "left": True}
        assert account not in providers_of(http)
        until(lambda: newcomer.returncode is not None, "its process has ended")
    assert newcomer.returncode == 0


def on_offer(http) -> list[dict[str, object]]:
    """The catalogue without ``market``, which each node takes from the awards that it has seen itself."""
    return [{**card, "market": None} for card in http.get("/v1/models").json()["data"]]


def providers_of(http) -> set[str]:
    return {offer["provider"] for offer in http.get("/v1/offers").json()["data"]}


def test_a_further_gateway_has_the_same_market(market, program, http, tmp_path):
    """A node that joins shows the same models, and serves a ledger that passes the same audit."""
    with Child("gateway", ["node", "run", "--market", market.base, "--port", "0"], tmp_path) as gateway:
        base = gateway.ready().gateway
        with httpx.Client(base_url=base, trust_env=False) as other:
            assert on_offer(other) == on_offer(http)
            assert other.get("/v1/status").json()["is_operator"] is False
        audited = program("audit", base, "--vkey", market.vkey)
    assert audited.stdout.splitlines()[-1] == "audit: pass", audited.stderr
    assert gateway.returncode == 0


def test_the_ledger_is_exported_and_audited(market, client, http, until, program, tmp_path):  # noqa: PLR0917
    """Anybody can copy the ledger, and have its whole history audited against the verifier key."""
    settled(http, until, award_of(market, client))
    copy = tmp_path / "ledger"
    exported = program("ledger", "export", str(copy), "--ledger", market.ledger, "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)
    audited = program("audit", str(copy), "--vkey", market.vkey)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert audited.stdout.splitlines()[-1] == "audit: pass"
    assert json.loads(program("audit", str(copy), "--vkey", market.vkey, "--json").stdout)


@pytest.mark.foreign("go", "/usr/share/gocode/src/golang.org/x/mod/sumdb")
def test_go_verifies_the_exported_ledger(market, client, http, until, program, go_verify, tmp_path):  # noqa: PLR0917
    """Go's checksum database code opens a live market's note, rebuilds its root and proves its entries."""
    settled(http, until, award_of(market, client))
    copy = tmp_path / "ledger"
    exported = program("ledger", "export", str(copy), "--ledger", market.ledger)
    assert exported.returncode == 0, exported.stderr
    verified = go_verify(copy)
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["size"] > 1
    first = copy / "tile" / "entries"
    bundle = next(path for path in sorted(first.rglob("*")) if path.is_file())
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    assert go_verify(copy).returncode != 0


def test_nodes_find_each_other(market, http, until):
    """The founding node hears of every provider from the overlay, though nobody told it where they are."""
    until(lambda: http.get("/v1/status").json()["peers"] >= 3, "three neighbours")
