"""Every released contract gives today what it gave when it was released."""

import re
from hashlib import sha256

import msgspec
import pytest

from tests.vectors.contracts.cases import CASES, Vectors, follow, path_of
from wwwmarket.rules.registry import CATALOGUE, Registry

SOURCES = path_of("account/v1").parents[3] / "contracts"


def vectors_of(contract: str) -> Vectors:
    return msgspec.json.decode(path_of(contract).read_bytes(), type=Vectors)


@pytest.mark.parametrize("contract", CATALOGUE)
def test_a_contract_gives_its_vectors(contract):
    """Each case of a contract's vectors gives exactly the rows, or the refusal, that is written there."""
    vectors = vectors_of(contract)
    assert vectors.contract == contract
    for case in vectors.cases:
        assert follow(contract, case) == case, case.name


@pytest.mark.parametrize("contract", CATALOGUE)
def test_a_released_contract_is_never_edited(contract):
    """The source hash written beside the vectors is the registry's, and that of the file."""
    source = (SOURCES / f"{contract}.py").read_bytes()
    assert vectors_of(contract).sha256 == Registry.load().hashes[contract] == sha256(source).hexdigest()


@pytest.mark.parametrize("contract", CATALOGUE)
def test_every_numbered_refusal_has_a_vector(contract):
    """Each reason that a contract's list of checks names is the answer to some case, and no other reason is."""
    listed = set(re.findall(r"\(``([a-z_]+)``\)", (SOURCES / f"{contract}.py").read_text()))
    assert {case.refusal[1] for case in vectors_of(contract).cases if case.refusal} == listed


@pytest.mark.parametrize("contract", CATALOGUE)
def test_the_vectors_can_be_made_again(contract):
    """The cases from which the vectors were made are the vectors' cases."""
    made = [follow(contract, case) for case in CASES[contract]()]
    assert made == vectors_of(contract).cases
