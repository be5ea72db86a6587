"""Proofs of a running market, by whoever keeps nothing but a policy: with the operator alone, and with four mirrors."""

import asyncio
import contextlib
import socket
import sys

import httpx

from wwwmarket.bootstrap import NodeSettings, open_node
from wwwmarket.bootstrap_mirror import MirrorSettings, make_member, open_mirror
from wwwmarket.domain.committee import Committee
from wwwmarket.ledger.note import parse_verifier_key
from wwwmarket.ledger.policy import parse_policy, policy_text
from wwwmarket.market.light import verify_file

MIRRORS = 4


async def run(*arguments: object) -> tuple[int, str, str]:
    """The program in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wwwmarket",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def get(http: httpx.AsyncClient, path: str) -> bytes:
    """Asked again until what is asked for is final."""
    async with asyncio.timeout(30):
        while True:
            answer = await http.get(path)
            if answer.status_code == 200:
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
                return answer.content
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)


async def test_what_a_node_proves_holds_after_it_is_gone(tmp_path):
    """An entry and a balance are verified by a policy alone, which the node printed before."""
    async with open_node(NodeSettings(data=tmp_path / "node")) as running:
        _, key = await running.answers.create_key("a", 5_000)
        async with httpx.AsyncClient(base_url=running.gateway) as http:
            balance = await get(http, f"/ledger/proof/account/{key.account}")
            assert (await http.get("/ledger/proof/entry/1000000")).status_code == 404
            assert (await http.get("/ledger/proof/account/nobody")).status_code == 400
        code, policy, err = await run("ledger", "policy", "--gateway", running.gateway)
        assert (code, "operator alone" in err) == (0, True)
        entry = tmp_path / "entry"
        assert (await run("ledger", "prove", 0, "--gateway", running.gateway, "--out", entry))[0] == 0
    believed = parse_policy(policy.encode())
    proven = verify_file(balance, believed).balance
    assert proven is not None
    assert proven.account == key.account
    assert verify_file(entry.read_bytes(), believed).body.origin == "local.market"


async def test_proofs_of_a_market_with_mirrors_bear_a_quorum(tmp_path):
    """Under a committee of four, proofs lead to a checkpoint that three have cosigned, and the policy asks for them."""
    ports = free_ports(MIRRORS)
    folders = [tmp_path / f"m{number}" for number in range(MIRRORS)]
    for folder in folders:
        folder.mkdir()
    members = tuple(
        make_member(folder, None, f"http://127.0.0.1:{port}", None) for folder, port in zip(folders, ports, strict=True)
    )
    committee = Committee(members=members)
    async with contextlib.AsyncExitStack() as stack:
        settings = NodeSettings(data=tmp_path / "node", committee=committee)
        running = await stack.enter_async_context(open_node(settings))
        async with httpx.AsyncClient(base_url=running.gateway) as http:
            assert (await http.get("/ledger/proof/entry/0")).status_code == 503
            for folder, port in zip(folders, ports, strict=True):
                await stack.enter_async_context(
                    open_mirror(MirrorSettings(data=folder, log=running.gateway, port=port))
                )
            _, key = await running.answers.create_key("a", 5_000)
            policy = parse_policy(policy_text(parse_verifier_key(running.answers.verifier_key()), committee).encode())
            async with asyncio.timeout(30):
                while True:
                    file = await get(http, f"/ledger/proof/account/{key.account}")
                    proven = verify_file(file, policy)
                    assert proven.balance is not None
                    if proven.balance.balance.available_micro:
                        break
            entry = verify_file(await get(http, "/ledger/proof/entry/0"), policy)
    assert proven.balance.balance.available_micro == 5_000
    assert (proven.quorum, entry.body.origin) == ("committee", "local.market")
    assert min(len(proven.cosignatures), len(entry.cosignatures)) >= 3
