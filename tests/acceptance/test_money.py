"""Money in a market of real processes: statements, links to proofs, keys replaced and revoked, and a tab's two entries."""

import contextlib
import json
import re
from types import SimpleNamespace

import httpx
import openai
import pytest

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli.demo.processes import Child
from wwwmarket.client import Client
from wwwmarket.domain.errors import Refusal

HELLO = [{"role": "user", "content": "Tell me about the river."}]
TERMS = (
    *("--engine", "embedded", "--no-benchmark", "--price-input", "20", "--price-output", "80"),
    *("--ttft-ms", "4000", "--tpot-ms", "200", "--capacity", "2"),
)
ANSWERS = 4


def ask(gateway: str, model: str, secret: str) -> dict[str, object]:
    """One small answer; what the market says of it."""
    with openai.OpenAI(base_url=gateway, api_key=secret, max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
    return answer.wwwmarket


def balance_of(http, account: str) -> dict[str, int]:
    return http.get(f"/v1/accounts/{account}").json()["balance"]


def statement(program, market, account: str, *arguments: str) -> dict[str, object]:
    done = program("account", "statement", account, "--ledger", market.base, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def spent(market, new_key, http, until):
    """A key that has bought two answers, both settled."""
    made = new_key("1")
    cost = sum(ask(market.gateway, market.model, made["key"])["cost_micro"] for _ in range(2))
    until(lambda: balance_of(http, made["account"])["available_micro"] == 1_000_000 - cost, "both are settled")
    return made


def test_a_statement_is_the_ledger_s_balance_and_its_links_prove_it(market, spent, program, http, *, until, tmp_path):
    """The lines add up to what the node says; each link leads to a proof that verifies offline, or to a receipt."""
    account, page = spent["account"], tmp_path / "page.html"
    told = until(
        lambda: (
            (said := statement(program, market, account, "--page", str(page)))["closing"]["locked_micro"] == 0 and said
        ),
        "a checkpoint covers the settlements",
    )
    assert told["closing"] == balance_of(http, account)
    assert sum(line["available_micro"] for line in told["lines"]) == told["closing"]["available_micro"]
    links = re.findall(r'href="([^"]+)"', page.read_text())
    proofs = [link for link in links if "/ledger/proof/entry/" in link]
    assert len(proofs) == len(told["lines"])
    policy = tmp_path / "market.policy"
    policy.write_text(program("ledger", "policy", gateway=market.base).stdout)
    for link in links:
        got = http.get(link)
        assert got.status_code == 200, link
        if link in proofs:
            (tmp_path / "proof").write_bytes(got.content)
            done = program("verify", str(tmp_path / "proof"), "--policy", str(policy), "--json")
            assert (done.returncode, json.loads(done.stdout)["proven"]["index"]) == (0, int(link.rpartition("/")[2]))
        else:
            assert got.json()["cost_micro"] > 0


def test_a_revoked_key_buys_nothing(market, spent, program):
    """401, with a code; its credits are back with the node."""
    admin = {"gateway": market.base, "admin_token_file": market.admin_token_file}
    done = program("node", "keys", "revoke", str(spent["id"]), "--json", **admin)
    assert done.returncode == 0, done.stderr
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(market.gateway, market.model, spent["key"])
    assert refused.value.status_code == 401


@pytest.fixture
def pay(market, program, http, until):
    """Credits from the market's node to another account."""

    def send(account: str, amount: str) -> None:
        admin = {"gateway": market.base, "admin_token_file": market.admin_token_file}
        done = program("account", "pay", account, amount, "--json", **admin)
        assert done.returncode == 0, done.stderr
        until(lambda: balance_of(http, account)["available_micro"] > 0, "the payment is on the ledger")

    return send


def test_a_rotated_key_keeps_the_balance_and_its_old_key_is_refused(market, program, http, until, *, tmp_path, pay):
    """Whoever finds the replaced key can do nothing with it; the account goes on under the next one."""
    command = ["node", "run", "--market", market.base, "--port", "0"]
    with Child("gateway", command, tmp_path) as gateway:
        serving = gateway.ready()
        pay(serving.account, "2")
        old = KeyStore(tmp_path / "keys").load("node", None)
        done = program("keys", "rotate", "--data", str(tmp_path), "--json", gateway=serving.gateway)
        assert done.returncode == 0, done.stderr
    assert balance_of(http, serving.account)["available_micro"] == 2_000_000
    with Client(market.base, old) as thief, pytest.raises(Refusal):
        thief.transfer(old.account[::-1], 1)
    with Child("gateway", command, tmp_path) as gateway:
        again = gateway.ready()
        assert again.account == serving.account
        admin = {"gateway": again.gateway, "admin_token_file": again.admin_token_file}
        paid = program("account", "pay", http.get("/v1/status").json()["account"], "1", "--json", **admin)
        assert paid.returncode == 0, paid.stderr
    until(lambda: balance_of(http, serving.account)["available_micro"] == 1_000_000, "the next key pays")


@pytest.mark.slow
def test_a_tab_leaves_two_entries_and_the_audit_passes(program, until, tmp_path):
    """Several answers of one provider, one settlement: each is proven to be paid from a copy, and all adds up."""
    with contextlib.ExitStack() as running:

        def start(name: str, *command: str):
            return running.enter_context(Child(name, [*command, "--port", "0"], tmp_path / name)).ready()

        founder = start("founder", "node", "run")
        http = running.enter_context(httpx.Client(base_url=founder.gateway, trust_env=False, timeout=30))
        provider = start("seller", "provider", "join", "--market", founder.gateway, *TERMS, "--accept-tabs").account
        made, bought = _buy_over_a_tab(founder, program, until, tmp_path)
        account, cost = made["account"], sum(one["cost_micro"] for one in bought)
        until(lambda: balance_of(http, provider)["available_micro"] == cost, "the tab is settled")
        assert balance_of(http, account) == {**_NOTHING, "available_micro": 5_000_000 - cost}
        at = SimpleNamespace(base=founder.gateway)
        until(lambda: statement(program, at, account)["closing"] == balance_of(http, account), "it is covered")
        log = tmp_path / "log"
        assert program("ledger", "export", str(log), "--ledger", f"{at.base}/ledger").returncode == 0
    audited = program("audit", str(log))
    assert audited.returncode == 0, audited.stdout
    lines = statement(program, SimpleNamespace(base=str(log)), account)["lines"]
    assert [line["kind"] for line in lines] == ["transfer", "tab", "tab-settlement"]
    assert lines[-1]["answers"] == ANSWERS
    last = program("tab", "verify", str(tmp_path / "answer.json"), "--ledger", str(log), "--json")
    assert (last.returncode, json.loads(last.stdout)["paid_micro"]) == (0, bought[-1]["cost_micro"])


def _buy_over_a_tab(founder, program, until, tmp_path):
    """A gateway buys some answers for a key, keeps the last one's proof, and leaves: the key, and what the market said."""
    command = ["node", "run", "--market", founder.gateway, "--port", "0", "--tabs", "1"]
    with Child("buyer", command, tmp_path / "buyer") as buyer:
        serving = buyer.ready()
        admin = {"gateway": founder.gateway, "admin_token_file": founder.admin_token_file}
        assert program("account", "pay", serving.account, "6", **admin).returncode == 0
        with httpx.Client(base_url=serving.gateway, trust_env=False, timeout=30) as near:
            until(lambda: balance_of(near, serving.account)["available_micro"] > 0, "the buyer has read of its credits")
            until(lambda: near.get("/v1/offers").json()["data"], "the buyer has read of the offer")
        admin = {"gateway": serving.gateway, "admin_token_file": serving.admin_token_file}
        key = program("node", "keys", "create", "--name", "t", "--budget", "5", "--json", **admin)
        made = json.loads(key.stdout)
        bought = [ask(serving.openai, "wwwmarket-tiny", made["key"]) for _ in range(ANSWERS)]
        proof = program("tab", "proof", bought[-1]["award"], gateway=serving.gateway)
        assert proof.returncode == 0, proof.stderr
        (tmp_path / "answer.json").write_text(proof.stdout)
    return made, bought


_NOTHING = {"available_micro": 0, "locked_micro": 0, "bonded_micro": 0}
