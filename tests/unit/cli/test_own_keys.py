"""Keys rotated, delegated and recovered by the commands that people use, against a node at work."""

import json

import pytest
from typer.testing import CliRunner

from tests.unit.cli.test_node import running_node
from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli import app
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.own_keys import write_as
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.records import Transfer
from wwwmarket.node.service import AccountView, NodeStatus


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


def own_account(gateway):
    with GatewayClient(gateway) as client:
        return client.get("/v1/status", NodeStatus).account


def test_a_node_s_key_is_rotated_and_its_account_goes_on(tmp_path):
    """Its API keys' accounts with it; after a restart it has the same account, credits and keys, under another key."""
    data = tmp_path / "data"
    with running_node(tmp_path) as (_, ready):
        gateway, account = ready["gateway"], ready["account"]
        token = ("--gateway", gateway, "--admin-token-file", data / "admin.token")
        made = run("node", "keys", "create", "--name", "ada", "--budget", "5", *token, "--json")
        told = run("keys", "rotate", "--data", data, "--gateway", gateway, "--json")
        assert (told["account"], told["also"]) == (account, [made["account"]])
        before = run("account", "show", account, "--gateway", gateway, "--json")
        assert before["keys"]["owner"] == told["owner"] != account
        old = KeyStore(data / "keys").load("node", None)
        with GatewayClient(gateway) as client, pytest.raises(Refusal) as refused:
            write_as(client, old, Transfer(to=made["account"], amount_micro=1))
        assert refused.value.reason == "key_replaced"
    (tmp_path / "ready.json").unlink(missing_ok=True)
    with running_node(tmp_path) as (_, ready):
        gateway = ready["gateway"]
        assert own_account(gateway) == account
        token = ("--gateway", gateway, "--admin-token-file", data / "admin.token")
        run("node", "keys", "top-up", made["id"], "1", *token, "--json")
        again = run("keys", "rotate", "--data", data, "--gateway", gateway, "--json")
        assert again["account"] == account
        assert again["owner"] != told["owner"]


def test_machines_and_recovery_are_set_up_from_the_command_line(tmp_path):
    """A machine consents and is delegated, and revoked; a guard is named, and announces a new owner."""
    data, keys = tmp_path / "data", tmp_path / "elsewhere" / "keys"
    with running_node(tmp_path) as (_, ready):
        gateway, account = ready["gateway"], ready["account"]
        here = ("--data", data, "--gateway", gateway, "--json")
        done = CliRunner().invoke(app, ["keys", "consent", account, "--data", str(tmp_path / "machine")])
        consented = tmp_path / "machine.json"
        consented.write_text(done.stdout)
        machine = json.loads(done.stdout)["signer"]
        run("account", "delegate", consented, *here)
        assert run("account", "show", account, "--gateway", gateway, "--json")["keys"]["machines"] == [machine]
        run("account", "revoke", machine, *here)
        made = run("keys", "create", "--name", "recovery", "--dir", keys, "--no-passphrase", "--json")
        run("account", "guard", made["account"], *here)
        told = run("account", "recover", account, "--dir", keys, "--gateway", gateway, "--json")
        assert (told["owner"], told["done"], told["from_ms"] > 0) == (account, False, True)
        with GatewayClient(gateway) as client:
            held = client.get(f"/v1/accounts/{account}", AccountView).keys
        assert held.successor == KeyStore(keys).load("recovered", None).account
        run("account", "guard", "--nobody", *here)
        assert run("account", "show", account, "--gateway", gateway, "--json")["keys"] == {"owner": account}
