"""``add-checkpoint`` is answered as torchwood's litewitness answers it, whose requests and statuses these are."""

import json
from base64 import b64decode
from pathlib import Path

import pytest

from tests.unit.rules.world import REGISTRY
from wwwmarket.config import MirrorConfig
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed
from wwwmarket.gateway.mirror import STATUS
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.merkle import EMPTY_ROOT
from wwwmarket.ledger.note import Cosigner, parse_verifier_key
from wwwmarket.ledger.proofs import verify_consistency
from wwwmarket.ledger.witness import encode_request, parse_request
from wwwmarket.mirror.events import Answer, CheckpointOffered, Effect, Fetch, Refused
from wwwmarket.mirror.machine import Mirror

VECTORS = json.loads(Path(__file__).with_name("witness.json").read_text())
LOG = parse_verifier_key(VECTORS["vkey"])
BY_NAME = {case["name"]: case for case in VECTORS["requests"]}
ROOTS = {
    0: EMPTY_ROOT,
    1: b64decode("KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    3: b64decode("RcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0="),
}
"""Of the checkpoints that the published requests lead from."""


def offered(case: dict[str, str]) -> list[Effect]:
    """What a mirror of that log does about the request. It has cosigned nothing, since those leaves are no entries."""
    mirror = Mirror(LOG, Cosigner("mirror.example", KeyPair(bytes(32))), REGISTRY, MirrorConfig())
    return mirror.step(CheckpointOffered(call=1, request=parse_request(case["body"].encode()), now_ms=0))


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("a signature that is not the log's, in canonical base64", 403),
        ("an unknown log", 404),
        ("an old size that was left behind", 409),
        ("a note without signatures", 400),
        ("a signed note that is no checkpoint", 400),
        ("old size greater than new", 400),
        ("a first checkpoint with a proof", 422),
    ],
)
def test_a_mirror_refuses_a_published_request_with_its_published_status(name: str, status: int) -> None:
    """403, 404, 409, 400 and 422, each for its reason."""
    assert BY_NAME[name]["status"] == status
    (effect,) = offered(BY_NAME[name])
    assert isinstance(effect, Answer)
    assert isinstance(effect.answer, Refused)
    assert STATUS[effect.answer.reason] == status


def test_base64_that_is_not_canonical_is_malformed_here() -> None:
    """Go takes bits of no byte at the end of a signature, and then finds the signature bad: 403. Here the line is none:
    400. Either way nothing is cosigned.
    """
    case = BY_NAME["a signature that is not the log's"]
    (effect,) = offered(case)
    assert isinstance(effect, Answer)
    assert isinstance(effect.answer, Refused)
    assert (case["status"], STATUS[effect.answer.reason]) == (403, 400)


def test_a_published_first_checkpoint_is_taken_up() -> None:
    """The mirror goes on to read the entries, which it cosigns only if they follow."""
    assert offered(BY_NAME["the first checkpoint"]) == [Fetch(start=0, end=1, size=1)]


@pytest.mark.parametrize("name", [name for name, case in BY_NAME.items() if case["status"] in (200, 422)])
def test_a_published_consistency_proof_is_judged_as_published(name: str) -> None:
    """The requests that were cosigned prove growth from what was cosigned before; those answered by 422 do not."""
    case = BY_NAME[name]
    request = parse_request(case["body"].encode())
    checkpoint = open_checkpoint(request.note, LOG).checkpoint
    sides = (request.old, checkpoint.size, ROOTS[request.old], checkpoint.root, request.proof)
    if case["status"] == 200:
        verify_consistency(*sides)
    else:
        with pytest.raises(Malformed):
            verify_consistency(*sides)


def test_a_published_request_with_64_hashes_is_malformed() -> None:
    """63 lines of proof are all that a tree can need."""
    with pytest.raises(Malformed):
        parse_request(BY_NAME["64 hashes"]["body"].encode())


@pytest.mark.parametrize(
    "case", [case for case in VECTORS["requests"] if case["name"] != "64 hashes"], ids=lambda case: case["name"]
)
def test_a_published_request_is_written_as_it_was_read(case: dict[str, str]) -> None:
    """The body's form is one: encoding gives the same bytes."""
    assert encode_request(parse_request(case["body"].encode())) == case["body"].encode()
