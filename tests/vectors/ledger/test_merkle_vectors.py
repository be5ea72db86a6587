"""The tree and its proofs agree with the public vectors of certificate-transparency and transparency-dev."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.merkle import EMPTY_ROOT, Frontier, complete_root, leaf_hash, node_hash, root_of
from wwwmarket.ledger.proofs import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion

VECTORS = json.loads(Path(__file__).with_name("merkle.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
NODES = [[bytes.fromhex(node) for node in level] for level in VECTORS["nodes"]]


def hashes(case):
    """The case with its hexadecimal strings as bytes."""
    return {
        key: [bytes.fromhex(each) for each in value]
        if key == "proof"
        else bytes.fromhex(value)
        if isinstance(value, str)
        else value
        for key, value in case.items()
        if key not in ("name", "refused")
    }


def refused(cases):
    return [
        pytest.param(hashes(case) | hashes(change), id=f"{case['name']}/{what}")
        for case in cases
        for what, change in case.get("refused", {"": {}}).items()
    ]


def accepted(cases):
    return [pytest.param(hashes(case), id=case["name"]) for case in cases if "additional" not in case["name"]]


def include(case):
    verify_inclusion(case["index"], case["size"], case["leaf_hash"], case["proof"], case["root"])


def extend(case):
    verify_consistency(case["old"], case["new"], case["old_root"], case["new_root"], case["proof"])


def test_every_prefix_of_the_known_leaves_has_its_known_root():
    """The roots of the nine trees of 0 to 8 known leaves are the published ones."""
    assert [root_of(LEAVES[:size]) for size in range(9)] == ROOTS


def test_appending_completes_the_known_nodes():
    """Every complete node of the known tree comes out of the frontier, at its level and index."""
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for index, leaf in enumerate(LEAVES):
        for level, node in enumerate(frontier.append(leaf)):
            assert node == NODES[level][index >> level]
        assert frontier.root() == ROOTS[index + 1]


def test_the_known_nodes_fold_from_the_nodes_below():
    """A level is the pairwise hash of the one below it."""
    for below, above in pairwise(NODES):
        assert [node_hash(*pair) for pair in zip(below[::2], below[1::2], strict=True)] == above
    assert complete_root(LEAVES) == ROOTS[8]


@pytest.mark.parametrize("case", accepted(VECTORS["inclusion"]))
def test_a_known_inclusion_proof_is_made_and_accepted(case):
    """The published proof verifies, and ours is the same."""
    include(case)
    made = inclusion_proof(case["index"], case["size"], lambda level, index: NODES[level][index])
    assert list(made) == case["proof"]


@pytest.mark.parametrize("case", refused(VECTORS["inclusion"]))
def test_a_corrupted_inclusion_proof_is_refused(case):
    """Each published corruption of an inclusion proof is refused."""
    with pytest.raises(Malformed):
        include(case)


@pytest.mark.parametrize("case", accepted(VECTORS["consistency"]))
def test_a_known_consistency_proof_is_made_and_accepted(case):
    """The published proof verifies, and ours is the same."""
    extend(case)
    made = consistency_proof(case["old"], case["new"], lambda level, index: NODES[level][index])
    assert list(made) == case["proof"]


@pytest.mark.parametrize("case", refused(VECTORS["consistency"]) + refused(VECTORS["consistency_refused"]))
def test_a_corrupted_consistency_proof_is_refused(case):
    """Each published corruption of a consistency proof is refused."""
    with pytest.raises(Malformed):
        extend(case)
