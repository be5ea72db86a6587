"""Two machines of one provider in a market of real processes, each with an engine and a key of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import tokenizers

from wwwmarket.cli.demo.processes import Child
from wwwmarket.crypto import keyfile

MODEL = "Qwen3-8B"
LONG_TOKENS = 600
CHAT = "/v1/chat/completions"
TERMS = ("--price-input", "20", "--price-output", "80", "--ttft-ms", "5000", "--tpot-ms", "500", "--capacity", "1")


@pytest.fixture(scope="module")
def site(program, until, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A market whose only provider sells with two machines, ``first`` (by its account's own key) and ``second``."""
    where = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        node = stack.enter_context(Child("node", ["node", "run", "--port", "0"], where / "node"))
        base = node.ready().gateway
        words = ["provider", "join", "--market", base, *TERMS, "--no-benchmark", "--engine"]
        pin = f"{MODEL}={tokenizer_in(where)}"
        first = Child("first", [*words, stack.enter_context(engine()), "--tokenizer", pin], where / "first")
        account = stack.enter_context(first).ready().account
        stack.callback(first.end)
        joining = [*words, stack.enter_context(engine()), "--account", account]
        too_early = program(*joining, "--data", str(where / "second"))
        pay(program, base, where / "node", account)
        delegate(program, base, account, where)
        second = stack.enter_context(Child("second", joining, where / "second"))
        stack.callback(second.end)
        http = stack.enter_context(httpx.Client(base_url=base, trust_env=False, timeout=30))
        second.ready()
        yield SimpleNamespace(
            base=base,
            http=http,
            account=account,
            first=first,
            second=second,
            where=where,
            joining=joining,
            too_early=too_early,
            key=new_key(program, base, where / "node", "1"),
            machine=keyfile.decode((where / "second" / "keys" / "node.pem").read_bytes(), None).account,
        )


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """An engine that takes seconds for a long answer."""
    command = ("--gpu", "H100-SXM", "--model", MODEL, "--output-tokens", str(LONG_TOKENS))
    with subprocess.Popen(
        [sys.executable, "-m", "wwwmarket.adapters.engines.emulated", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().rpartition('=')[2].strip()}"
        finally:
            process.terminate()


def pay(program, base: str, data: Path, account: str) -> None:
    """An account without credits has one key."""
    done = program("account", "pay", account, "0.1", gateway=base, admin_token_file=str(data / "admin.token"))
    assert done.returncode == 0, done.stderr


def delegate(program, base: str, account: str, where: Path) -> None:
    """As docs/joining.md says: a consent from the one machine, a delegation from the other."""
    consent = program("keys", "consent", account, "--data", str(where / "second"))
    assert consent.returncode == 0, consent.stderr
    (where / "machine.json").write_text(consent.stdout)
    done = program(
        "account", "delegate", str(where / "machine.json"), "--data", str(where / "first"), "--gateway", base
    )
    assert done.returncode == 0, done.stderr


def new_key(program, base: str, data: Path, budget: str) -> dict[str, str]:
    made = program(
        *("node", "keys", "create", "--name", "test", "--budget", budget, "--json"),
        gateway=base,
        admin_token_file=str(data / "admin.token"),
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def tokenizer_in(where: Path) -> Path:
    """A token for each byte: more than any engine counts."""
    file = where / "tokenizer.json"
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={one: i for i, one in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(file))
    return file


def chat(tokens: int) -> dict[str, object]:
    return {"model": MODEL, "max_tokens": tokens, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def buy_two(until, base: str, key: dict[str, str]) -> list[dict]:
    """The explanations of a long answer, and of a short one that was bought meanwhile; both settled."""
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {key['key']}"}, timeout=30) as client:
        with client.stream("POST", CHAT, json=chat(LONG_TOKENS)) as long:
            assert long.status_code == 200, long.read()
            pieces = long.iter_bytes()
            next(pieces)
            short = client.post(CHAT, json=chat(8))
            assert short.status_code == 200, short.text
            for _ in pieces:
                pass
        return [settled(client, until, answer) for answer in (long, short)]


def settled(client: httpx.Client, until, answer: httpx.Response) -> dict:
    award = answer.headers["x-wwwmarket-award"]
    return until(
        lambda: (told := client.get(f"/v1/awards/{award}").json())["status"] == "settled" and told,
        f"{award} is settled",
    )


def signers(explained: list[dict]) -> list[str]:
    return [one["award"]["winner"]["signer"] for one in explained]


def account_of(site, account: str) -> dict:
    return site.http.get(f"/v1/accounts/{account}").json()


def test_a_machine_that_nobody_delegated_to_sells_nothing(site):
    """It is told both commands; nothing was published by its key, which was still fresh when it was delegated to."""
    assert site.too_early.returncode == 1
    assert "wwwmarket keys consent" in site.too_early.stderr
    assert "wwwmarket account delegate" in site.too_early.stderr
    assert account_of(site, site.account)["keys"]["machines"] == [site.machine]


def test_both_machines_sell_and_one_account_earns(site, until):
    """While the one slot of one machine is taken, the other wins; both settle, and the account has all of it."""
    before_micro = account_of(site, site.account)["balance"]["available_micro"]
    explained = buy_two(until, site.base, site.key)
    assert sorted(signers(explained)) == sorted([site.account, site.machine])
    earned_micro = account_of(site, site.account)["balance"]["available_micro"] - before_micro
    assert earned_micro == sum(one["cost_micro"] for one in explained) > 0
    assert account_of(site, site.machine)["balance"]["available_micro"] == 0


def test_a_provider_s_gateway_recounts_by_the_tokenizer_that_it_pinned(site, program, until):
    """``provider join --tokenizer`` does what ``node run --tokenizer`` does, for what others answer."""
    gateway = site.first.ready().gateway
    explained = buy_two(until, gateway, new_key(program, gateway, site.where / "first", "0.08"))
    recounts = {one["award"]["winner"]["signer"]: one["recount"] for one in explained}
    assert recounts[site.account] is None
    assert (recounts[site.machine]["source"], recounts[site.machine]["beyond"]) == ("tokenizer", False)


def test_one_machine_killed_leaves_the_other_selling(site, program, until, tmp_path):
    """Requests go on at the other, in the same account's name; the audit of it all passes."""
    os.kill(site.second.pid, signal.SIGKILL)
    site.second.wait()
    for _ in range(5):
        answer = site.http.post(CHAT, json=chat(8), headers={"authorization": f"Bearer {site.key['key']}"})
        assert answer.status_code == 200, answer.text
        assert signers([settled(site.http, until, answer)]) == [site.account]
    vkey = site.http.get("/ledger/vkey").text.strip()
    audited = program("audit", site.base, "--vkey", vkey)
    assert audited.stdout.splitlines()[-1] == "audit: pass", audited.stdout + audited.stderr


def test_a_revoked_machine_does_not_come_back(site, program):
    """The account's own machine goes on; the other's key is of nobody."""
    data = ("--data", str(site.where / "first"), "--gateway", site.base)
    assert program("account", "revoke", site.machine, *data).returncode == 0
    again = program(*site.joining, "--data", str(site.where / "second"))
    assert again.returncode == 1
    assert "does not act for" in again.stderr
    answer = site.http.post(CHAT, json=chat(8), headers={"authorization": f"Bearer {site.key['key']}"})
    assert answer.status_code == 200, answer.text
