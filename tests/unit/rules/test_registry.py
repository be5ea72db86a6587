"""The door to the contracts: what is loaded is what is hashed, and nothing else is in force."""

import inspect
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.unit.rules.world import CLIENT, NOW, DictBook
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Transfer
from wwwmarket.rules import registry as door
from wwwmarket.rules.registry import CATALOGUE, Registry

SOURCES = {rule: (Path(door.__file__).parents[2] / f"contracts/{rule}.py").read_bytes() for rule in CATALOGUE}
PROTOCOLS = {
    "account/v1": (door.AccountRule,),
    "offer/v1": (door.OfferRule,),
    "award/v1": (door.AwardRule,),
    "settlement/v1": (door.SettlementRule,),
    "offer/v2": (door.OfferRule, door.OfferRuleV2),
    "settlement/v2": (door.SettlementRule, door.SettlementRuleV2),
    "account/v2": (door.AccountRule,),
    "award/v2": (door.AwardRule,),
    "keys/v1": (door.KeysRule,),
    "tab/v1": (door.TabRule,),
    "tab/v2": (door.TabRule,),
    "reputation/v1": (door.ReputationRule,),
}


def test_the_hashes_are_those_of_the_sources():
    """A rule's hash is the plain SHA-256 of its file."""
    assert Registry.load().hashes == {rule: sha256(source).hexdigest() for rule, source in SOURCES.items()}


def test_what_runs_is_what_is_hashed():
    """A registry made of other bytes has another hash and another meaning."""
    other = SOURCES["account/v2"].replace(b'"to_itself"', b'"to_oneself"')
    edited = Registry(SOURCES | {"account/v2": other})
    assert edited.hashes["account/v2"] == sha256(other).hexdigest() != Registry.load().hashes["account/v2"]
    with pytest.raises(Malformed) as refused:
        edited.current.account.apply(
            DictBook(now_ms=NOW), CLIENT.account, NO_ENTRY, Transfer(to=CLIENT.account, amount_micro=1)
        )
    assert refused.value.reason == "to_oneself"


def test_contracts_are_not_importable_through_the_registry():
    """Loading puts no module into the import system, where another could be put in its place."""
    before = set(sys.modules)
    Registry.load()
    assert set(sys.modules) == before


def test_the_catalogue_is_closed():
    """A registry with more or fewer rules than the catalogue is a bug of ours."""
    with pytest.raises(AssertionError, match="closed"):
        Registry(SOURCES | {"lottery/v1": b""})


def test_an_installed_package_carries_its_own_contracts(tmp_path, monkeypatch):
    """Where ``wwwmarket/_contracts`` exists it is read; otherwise the folder beside the package."""
    package = tmp_path / "wwwmarket"
    (package / "rules").mkdir(parents=True)
    monkeypatch.setattr(door, "__file__", str(package / "rules" / "registry.py"))
    with pytest.raises(FileNotFoundError):
        Registry.load()
    for rule, source in SOURCES.items():
        path = package / "_contracts" / f"{rule}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source + b"\n# installed\n")
    assert Registry.load().hashes["award/v1"] == sha256(SOURCES["award/v1"] + b"\n# installed\n").hexdigest()


def test_the_sources_in_force_must_be_ours():
    """A genesis that names our sources, or some of them, is accepted."""
    registry = Registry.load()
    registry.require(registry.hashes)
    registry.require({"offer/v1": registry.hashes["offer/v1"]})


def test_another_source_is_refused_and_both_hashes_are_named():
    """Where a source differs, the refusal says which was wanted and which is here."""
    registry = Registry.load()
    with pytest.raises(Conflict, match=f"{'0' * 64}.*{registry.hashes['offer/v1']}") as refused:
        registry.require({"offer/v1": "0" * 64})
    assert refused.value.reason == "contract_differs"


def test_an_unknown_contract_is_refused():
    """A rule in force that this program lacks is refused by name and hash."""
    with pytest.raises(Conflict, match=f"lottery/v1 with source {'0' * 64}") as refused:
        Registry.load().require({"lottery/v1": "0" * 64})
    assert refused.value.reason == "contract_missing"


@pytest.mark.parametrize("rule", PROTOCOLS)
def test_each_contract_is_what_its_protocol_says(rule):
    """A contract's public functions have the very signatures of its protocol, and there are no others."""
    registry = Registry.load()
    contract = getattr(registry.rules({rule: registry.hashes[rule]}), rule.partition("/")[0])
    promised = {
        name: body
        for protocol in PROTOCOLS[rule]
        for name, body in vars(protocol).items()
        if inspect.isfunction(body) and name[0] != "_"
    }
    promised.pop("__init__", None)
    functions = {n: b for n, b in vars(contract).items() if inspect.isfunction(b) and b.__module__ == contract.__name__}
    assert {name for name in functions if name[0] != "_"} == set(promised)
    for name, body in promised.items():
        ours = inspect.signature(functions[name])
        theirs = inspect.signature(body)
        assert list(ours.parameters) == list(theirs.parameters)[1:], name
        assert ours.return_annotation == theirs.return_annotation, name
