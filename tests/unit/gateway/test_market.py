"""The market's own doors, the operator's, and the ledger's."""

import json

import pytest

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import sign_entry
from wwwmarket.domain.records import Transfer


@pytest.fixture
def leaf(scripts):
    """A signed entry's canonical text."""
    body = Transfer(to="ab" * 32, amount_micro=1)
    return canonical.encode(sign_entry(scripts.client, seq=0, prev="0" * 64, body=body))


async def test_a_bid_with_a_key_buys_the_request_as_it_stands(doors, market, scripts):
    """The inner request's exact bytes are bought, under the bid's own preferences."""
    body = (
        b'{"path":"/v1/chat/completions","request":{"messages":[{"role":"user","content":"x"}], "model":"tiny"},'
        b'"max_price_micro":77,"slo":{"ttft_ms":5,"tpot_ms":6},"time_value_micro_per_s":8}'
    )
    answer = (await doors.post("/v1/bids", content=body, headers={"x-wwwmarket-max-price": "1"})).json()
    assert market.purchases[0].request == b'{"messages":[{"role":"user","content":"x"}], "model":"tiny"}'
    assert market.purchases[0].preferences.max_price_micro == 77
    assert market.purchases[0].preferences.slo.tpot_ms == 6
    assert market.purchases[0].preferences.time_value_micro_per_s == 8
    assert (answer["award"], answer["cost_micro"], answer["outcome"]) == (scripts.award, 1_250, "completed")
    assert answer["receipt"] == f"/v1/receipts/{scripts.award}"
    assert answer["finality"] == "pending"
    assert answer["response"]["choices"][0]["message"]["content"] == "Hello"


async def test_a_bid_whose_answer_is_not_json_gets_it_as_a_string(doors, market, scripts, chat):
    """Whatever an engine says, this door's answer is JSON."""
    market.script = [scripts.awarded, scripts.started, scripts.piece(b"\xff not json"), scripts.delivered]
    answer = await doors.post("/v1/bids", json={"path": "/v1/chat/completions", "request": chat})
    assert answer.json()["response"] == "\ufffd not json"


async def test_a_streamed_bid_is_refused_with_the_way_to_go(doors, chat):
    """A door that answers whole says which one streams."""
    answer = await doors.post("/v1/bids", json={"path": "/v1/chat/completions", "request": chat | {"stream": True}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "request.stream")


async def test_a_bid_without_a_key_or_a_signature_is_401(doors, chat):
    """Somebody has to pay."""
    bid = {"path": "/v1/chat/completions", "request": chat}
    assert (await doors.post("/v1/bids", json=bid, headers={"authorization": ""})).status_code == 401


async def test_a_signed_bid_gets_the_auctions_proposal(doors, market, scripts):
    """A client that signs for itself needs no key."""
    body = b'{"signed_bid":' + scripts.encode(scripts.signed_bid()) + b"}"
    answer = await doors.post("/v1/bids", content=body, headers={"authorization": ""})
    assert (answer.status_code, answer.json()["asks"][0]["verdict"]) == (200, "won")
    assert market.purchases == [scripts.signed_bid()]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_signed_award_is_executed_and_answered_in_the_requests_form(doors, market, leaf, chat, stream):
    """Entry, request and salt reach the service as exact bytes."""
    text = json.dumps(chat | {"stream": stream}, indent=1)
    body = {"entry": leaf.decode(), "path": "/v1/chat/completions", "request": text, "salt": "0f" * 32}
    answer = await doors.post("/v1/awards", json=body, headers={"authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    assert market.accepted == [(leaf, "/v1/chat/completions", text.encode(), b"\x0f" * 32)]


async def test_an_awards_entry_is_bounded(doors, chat):
    """An entry over the ledger's limit is refused at the door."""
    body = {"entry": "x" * 65_536, "path": "/v1/chat/completions", "request": json.dumps(chat), "salt": "0f" * 32}
    assert (await doors.post("/v1/awards", json=body)).status_code == 413


async def test_an_entry_gets_a_promise_of_inclusion(doors, leaf):
    """The body is the entry's canonical bytes and nothing else."""
    answer = await doors.post("/v1/entries", content=leaf, headers={"authorization": ""})
    assert answer.json()["body"]["index"] == 3
    assert (await doors.post("/v1/entries", content=leaf + b" ")).status_code == 400
    assert (await doors.post("/v1/entries", content=b"x" * 65_536)).status_code == 413


async def test_offers_come_in_merit_order(doors, market, scripts):
    """The cheapest output first, and no more than asked for."""
    market.listed.append(("c1" * 32, scripts.listed("b1" * 32, output=200_000)))
    market.listed.append(("c2" * 32, scripts.listed("b1" * 32, model="other")))
    offers = (await doors.get("/v1/offers", params={"model": "tiny"})).json()["data"]
    assert [(offer["id"][:2], offer["finality"]) for offer in offers] == [("c1", "final"), ("cc", "pending")]
    assert len((await doors.get("/v1/offers", params={"limit": 1})).json()["data"]) == 1


async def test_awards_receipts_accounts_and_status_are_open_to_read(doors, scripts):
    """What is on the ledger is everybody's."""
    assert (await doors.get("/v1/awards")).json()["data"][0]["id"] == scripts.award
    assert (await doors.get(f"/v1/awards/{scripts.award}")).json()["asks"][0]["reason"] == "the lowest score"
    assert (await doors.get(f"/v1/receipts/{scripts.award}")).json()["cost_micro"] == 1_250
    assert (await doors.get("/v1/asks")).json()["median_gap_micro"] == 7
    assert (await doors.get(f"/v1/accounts/{'ab' * 32}")).json()["balance"]["available_micro"] == 5
    assert (await doors.get(f"/v1/providers/{'f0' * 32}")).json()["reputation"]["score_ppm"] == 800_000
    assert (await doors.get("/v1/status")).json()["origin"] == "test/log"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/awards/{'12' * 32}", 404),
        (f"/v1/receipts/{'12' * 32}", 404),
        (f"/v1/evidence/{'12' * 32}", 404),
        ("/v1/evidence/short", 400),
        ("/v1/asks?limit=0", 400),
        ("/v1/awards/short", 400),
        ("/v1/accounts/short", 400),
        (f"/v1/providers/{'12' * 32}", 404),
        ("/v1/providers/short", 400),
        ("/v1/awards?limit=0", 400),
        ("/v1/offers?limit=many", 400),
        ("/nowhere", 404),
        ("/v1/chat/completions/", 404),
        ("/ledger/tile/0/999", 404),
    ],
)
async def test_what_is_not_there_is_said_in_the_one_form(doors, path, status):
    """Unknown names, malformed names and unknown paths have OpenAI's form of an error."""
    answer = await doors.get(path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_wrong_method_is_405_in_the_one_form(doors):
    """With the methods that would do."""
    answer = await doors.delete("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_keys_are_made_listed_topped_up_and_revoked_by_the_admin_alone(doors, market, scripts):
    """The secret is shown once; a client's key opens none of these doors."""
    admin = {"authorization": f"Bearer {scripts.admin}"}
    form = {"name": "grace", "budget_micro": 5}
    paths = ("", "/ada/top-up", "/ada/refund", "/ada/rotate")
    guarded = [("GET", ""), ("DELETE", "/ada"), ("PUT", "/ada/limits"), *(("POST", path) for path in paths)]
    for method, path in guarded:
        assert (await doors.request(method, f"/v1/keys{path}", json=form)).status_code == 401
    made = await doors.post("/v1/keys", json=form, headers=admin)
    assert (made.status_code, made.json()["key"], made.headers["cache-control"]) == (201, "sk-grace", "no-store")
    listed = (await doors.get("/v1/keys", headers=admin)).json()["data"]
    assert "grace" in {key["name"] for key in listed}
    assert all("key" not in key for key in listed)
    assert (await doors.post("/v1/keys/key-grace/top-up", json={"amount_micro": 5}, headers=admin)).status_code == 200
    assert market.paid == {"key-grace": 5}
    assert (await doors.post("/v1/keys/key-grace/top-up", json={"amount_micro": 0}, headers=admin)).status_code == 400
    assert (await doors.delete("/v1/keys/key-grace", headers=admin)).status_code == 200
    assert (await doors.delete("/v1/keys/key-none", headers=admin)).status_code == 404


async def test_a_key_s_money_moves_once_for_each_idempotency_key(doors, market, scripts):
    """Top-up and refund hand the header on; without one, each request moves credits."""
    once = {"authorization": f"Bearer {scripts.admin}", "idempotency-key": "monday"}
    await doors.post("/v1/keys", json={"name": "grace", "budget_micro": 0}, headers=once)
    for path in ("top-up", "top-up", "refund"):
        answer = await doors.post(f"/v1/keys/key-grace/{path}", json={"amount_micro": 5}, headers=once)
        assert answer.status_code == 200
    assert market.paid == {"key-grace": 0}


async def test_the_node_pays_others_at_its_operator_s_word_alone(doors, market, scripts):
    """To an account, a whole amount, once for each idempotency key; without the admin token nothing is heard."""
    form = {"to": "a" * 64, "amount_micro": 7}
    assert (await doors.post("/v1/payments", json=form)).status_code == 401
    once = {"authorization": f"Bearer {scripts.admin}", "idempotency-key": "bond"}
    paid = await doors.post("/v1/payments", json=form, headers=once)
    assert (paid.status_code, paid.json()["id"]) == (200, "a" * 64)
    assert market.calls[-1] == ("pay", "a" * 64, 7, "bond")
    for wrong in ({"to": "a" * 64, "amount_micro": 0}, {"to": "a" * 63, "amount_micro": 1}, {"amount_micro": 1}):
        assert (await doors.post("/v1/payments", json=wrong, headers=once)).status_code == 400


async def test_a_key_s_limits_are_set_and_shown(doors, scripts):
    """At its making, later, and in the list; a field that is none, or no limit at all, is refused."""
    admin = {"authorization": f"Bearer {scripts.admin}"}
    limits = {"models": ["tiny"], "requests_per_minute": 60, "period": {"budget_micro": 5, "length_ms": 3_600_000}}
    made = await doors.post("/v1/keys", json={"name": "grace", "budget_micro": 0, "limits": limits}, headers=admin)
    assert made.json()["limits"]["requests_per_minute"] == 60
    changed = await doors.put("/v1/keys/key-grace/limits", json={"tokens_per_minute": 9}, headers=admin)
    assert (changed.status_code, changed.json()["limits"]["tokens_per_minute"]) == (200, 9)
    for wrong in ({"requests_per_minute": 0}, {"requests_per_hour": 1}, {"period": {"budget_micro": 1}}):
        assert (await doors.put("/v1/keys/key-grace/limits", json=wrong, headers=admin)).status_code == 400


async def test_a_rotated_key_is_shown_once(doors, scripts):
    """The new secret comes in the answer, which nobody may store."""
    admin = {"authorization": f"Bearer {scripts.admin}"}
    await doors.post("/v1/keys", json={"name": "grace", "budget_micro": 0}, headers=admin)
    made = await doors.post("/v1/keys/key-grace/rotate", headers=admin)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert made.json()["key"] == "sk-new-key-grace"


async def test_the_ledger_is_served_as_static_files(doors):
    """Full tiles may be kept for ever, partial ones and the checkpoint may not."""
    checkpoint = await doors.get("/ledger/checkpoint")
    assert checkpoint.text.startswith("test/log\n4\n")
    assert checkpoint.headers["cache-control"] == "no-cache"
    assert checkpoint.headers["content-type"].startswith("text/plain")
    full, part = await doors.get("/ledger/tile/0/000"), await doors.get("/ledger/tile/0/001.p/5")
    assert (full.content, full.headers["content-type"]) == (b"\x01" * 32, "application/octet-stream")
    assert "immutable" in full.headers["cache-control"]
    assert "immutable" not in part.headers["cache-control"]
    assert (await doors.get("/ledger/vkey")).text == "test/log+00000000+AA==\n"
    final = await doors.get("/ledger/final")
    assert (final.text.count("\n- "), final.headers["cache-control"]) == (2, "no-cache")
