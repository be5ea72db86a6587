"""What a client checks before it signs, and what it hears of an answer."""

import json

import httpx2
import pytest
from msgspec.structs import replace

from tests.unit.rules.world import key
from wwwmarket.client.buying import Buyer, Terms, check_proposal
from wwwmarket.client.calls import Call, Refused, Reply, Wait, problem_of, refusal_of
from wwwmarket.client.hearing import Ear, without_usage
from wwwmarket.client.openai import terms_of
from wwwmarket.client.request import read_wanted
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest, response_digest
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Refusal, Unauthorised, Unavailable
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Prices, Slo
from wwwmarket.domain.records import Ask, Award, Bid, Inclusion, Transfer
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node.service import AccountView

CLIENT, PROVIDER, OPERATOR, STRANGER = key("client"), key("provider"), key("operator"), key("stranger")
PRICES = Prices(input_micro_per_mtok=1, cached_input_micro_per_mtok=1, output_micro_per_mtok=1)
NOW_MS = 1_000
BID = Bid(
    client=CLIENT.account,
    model=ModelRequirement(name="m"),
    input_tokens=1,
    max_input_tokens=1,
    expected_output_tokens=1,
    max_output_tokens=1,
    max_price_micro=100,
    time_value_micro_per_s=0,
    slo=Slo(ttft_ms=1, tpot_ms=1),
    request_digest="00" * 32,
    auctioneer=OPERATOR.account,
    issued_ms=NOW_MS,
    expires_ms=NOW_MS + 1,
)
ASK = Ask(
    bid=digest(BID),
    offer="11" * 32,
    prices=PRICES,
    predicted_ttft_ms=1,
    predicted_finish_ms=2,
    slo=BID.slo,
    held_until_ms=NOW_MS,
)


def award(ask: Ask = ASK, **changes) -> Award:
    made = Award(
        bid=BID,
        winner=signing.sign(PROVIDER, ask).signed,
        runner_up=None,
        asks=(digest(ask),),
        prices=PRICES,
        locked_micro=100,
        claim_after_ms=NOW_MS + 1,
        expires_ms=NOW_MS + 2,
    )
    return replace(made, **changes)


def test_an_honest_proposal_passes():
    """What the lies below are changes of."""
    check_proposal(BID, award(), NOW_MS)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (award(bid=replace(BID, max_price_micro=10**9)), "client_2"),
        (award(replace(ASK, bid="22" * 32)), "client_3"),
        (award(asks=("33" * 32,)), "client_4"),
        (award(locked_micro=101), "client_5"),
        (award(expires_ms=NOW_MS + 10**9), "client_6"),
    ],
)
def test_a_proposal_that_is_not_what_was_bid_for_is_not_signed(lie, reason):
    """Another bid, another ask, more locked, for longer: each check refuses under its own number."""
    with pytest.raises(Conflict) as told:
        check_proposal(BID, lie, NOW_MS)
    assert told.value.reason == reason


def test_a_winner_that_did_not_sign_is_refused():
    """Part of check 3: the ask's signature is its provider's."""
    forged = replace(award().winner, signer=STRANGER.account)
    with pytest.raises(Unauthorised):
        check_proposal(BID, award(winner=forged), NOW_MS)


def connected() -> Buyer:
    buyer = Buyer(CLIENT, VerifierKey(name="test.market", account=OPERATOR.account))
    buyer.node = OPERATOR.account
    return buyer


def played(conversation, answer):
    """Drive a conversation; ``answer`` gives a reply to each call."""
    said = next(conversation)
    try:
        while True:
            said = conversation.send(None if isinstance(said, Wait) else answer(said))
    except StopIteration as end:
        return end.value


def ledger(author=OPERATOR, origin="test.market", refuse=0):
    """Answers accounts and entries; ``refuse`` so many entries as out of their chain."""
    entries: list[bytes] = []
    left = [refuse]

    def answer(call: Call) -> Reply:
        if call.method == "GET":
            view = AccountView(
                id=CLIENT.account, balance=Account(available_micro=5), next_seq=7 + refuse - left[0], prev="44" * 32
            )
            return Reply(status=200, body=canonical.encode(view))
        if left[0]:
            left[0] -= 1
            error = {"error": {"message": "the chain has moved", "code": "chain"}}
            return Reply(status=409, body=json.dumps(error).encode())
        entries.append(call.body)
        name = signing.open_entry(call.body).id
        promise = Inclusion(entry=name, origin=origin, index=1, covered_by_ms=1)
        return Reply(status=200, body=canonical.encode(signing.sign(author, promise).signed))

    return answer, entries


BODY = Transfer(to=STRANGER.account, amount_micro=1)


def test_entries_follow_each_other_without_asking_again():
    """The second one names the first as its predecessor, though the gateway's replica may not know it yet."""
    buyer, (answer, entries) = connected(), ledger()
    first, _, _ = played(buyer.write(BODY), answer)
    played(buyer.write(BODY), answer)
    seconds = signing.open_entry(entries[1]).entry
    assert (seconds.seq, seconds.prev) == (8, first)


def test_a_chain_that_moved_is_read_again():
    """Another program wrote with the same key: the entry is signed anew, in its new place, a few times."""
    answer, entries = ledger(refuse=2)
    played(connected().write(BODY), answer)
    assert signing.open_entry(entries[0]).entry.seq == 9
    with pytest.raises(Conflict):
        played(connected().write(BODY), ledger(refuse=99)[0])


@pytest.mark.parametrize("lie", [{"author": STRANGER}, {"origin": "other.market"}])
def test_a_promise_that_is_not_the_logs_is_refused(lie):
    """Check 7: another's signature, or another log's name."""
    with pytest.raises(Unauthorised) as told:
        played(connected().write(BODY), ledger(**lie)[0])
    assert told.value.reason == "client_7"


def test_a_stream_is_heard_in_whole_events_and_hashed_byte_for_byte():
    """However the network cuts it."""
    stream = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
    ear = Ear(stream=True, begun_ms=10)
    pieces = [ear.hear(stream[at : at + 7], 12 + at) for at in range(0, len(stream), 7)]
    assert b"".join(pieces) == stream
    assert all(piece == b"" or piece.endswith(b"\n\n") for piece in pieces)
    heard = ear.heard(100)
    assert (heard.response_digest, heard.ttft_ms, heard.latency_ms) == (response_digest(stream), 2, 90)
    assert ear.text.texts == ("hi",)
    ear.check()


def test_an_error_at_the_end_of_a_stream_is_no_part_of_the_answer():
    """The gateway's word that the answer broke off is raised, not delivered."""
    ear = Ear(stream=True, begun_ms=0)
    assert ear.hear(b'data: 1\n\ndata: {"error":{"message":"gone"}}\n\n', 1) == b"data: 1\n\n"
    with pytest.raises(Unavailable, match="gone"):
        ear.check()


def test_usage_is_left_out_for_who_did_not_ask():
    """Only the event that carries nothing else; usage in every chunk is the client's own wish."""
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'
    chunk = b'data: {"choices":[{"delta":{}}],"usage":{}}\n\n'
    assert without_usage(chunk + usage + b"data: [DONE]\n\n") == chunk + b"data: [DONE]\n\n"


def test_bounds_are_of_all_choices_and_prompts():
    """What is locked covers the longest answer that the request allows."""
    chat = read_wanted("/v1/chat/completions", b'{"model":"m","n":3,"max_tokens":7,"messages":[{"content":"hello"}]}')
    assert (chat.bounds.max_output_tokens, chat.bounds.max_input_tokens >= 5, chat.stream) == (21, True, False)
    texts = read_wanted("/v1/completions", b'{"model":"m","prompt":["a","b"],"max_tokens":7,"stream":true}')
    assert (texts.bounds.max_output_tokens, texts.stream) == (14, True)
    assert read_wanted("/v1/embeddings", b'{"model":"m","input":"a"}').bounds.max_output_tokens == 0
    for path, request in (("/v1/other", b"{}"), ("/v1/completions", b"{}"), ("/v1/completions", b"no json")):
        with pytest.raises(Malformed):
            read_wanted(path, request)


def test_refusals_keep_their_meaning_in_both_directions():
    """Codes become refusals and codes again; an engine's own words stay as they were."""
    body = b'{"error":{"message":"gone","code":"model_not_found"}}'
    refusal = refusal_of(Reply(status=404, body=body))
    assert isinstance(refusal, NotFound)
    assert (refusal.reason, problem_of(refusal)[0]) == ("model_not_found", 404)
    own = refusal_of(Reply(status=418, body=b"tea"))
    assert isinstance(own, Refused)
    assert problem_of(own) == (418, b"tea")
    assert problem_of(Refusal("no"))[0] == 400


def test_terms_come_from_the_gateways_own_headers():
    """The same headers as with an API key; what is no number is refused."""
    headers = httpx2.Headers({"x-slo-ttft-ms": "800", "x-wwwmarket-max-price": "0.01"})
    terms = terms_of(headers, Terms(time_value_micro_per_s=3))
    assert (terms.slo.ttft_ms, terms.max_price_micro, terms.time_value_micro_per_s) == (800, 10_000, 3)
    with pytest.raises(Malformed):
        terms_of(httpx2.Headers({"x-wwwmarket-max-price": "much"}), Terms())
