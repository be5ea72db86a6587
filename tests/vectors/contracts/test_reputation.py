"""What a provider comes to be known for, step by step, is what it was when the contract was released."""

from pathlib import Path

import msgspec

from tests.unit.rules.world import NOW, PROVIDER, REGISTRY, make_attestation, make_receipt, named, usage
from wwwmarket.crypto import canonical
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE
from wwwmarket.domain.standing import Reputation, Standing

VECTORS = Path(__file__).with_name("reputation-v1-steps.json")
RULE = REGISTRY.current.reputation
DAY_MS = 86_400_000
AWARD = named("the award")


def story() -> list[Reputation]:
    """Every kind of event, on several days, with the reputation after each."""
    agreed = make_receipt(PROVIDER, AWARD).body
    fewer = make_receipt(PROVIDER, AWARD, usage=usage(1, 0, 1)).body
    done = make_attestation(PROVIDER, AWARD).body
    failed = make_attestation(PROVIDER, AWARD, outcome="failed", usage=NO_USAGE).body
    standing, now_ms, told = Standing(), NOW, []
    steps = (
        lambda: RULE.settled(standing, now_ms, done, agreed, 1_000, 1_000, 500),
        lambda: RULE.settled(standing, now_ms, done, agreed, 5_000, 4_000, 500),
        lambda: RULE.settled(standing, now_ms, done, agreed, 5_000, 2_500, 500),
        lambda: RULE.settled(standing, now_ms, done, None, 5_000, 5_000, 500),
        lambda: RULE.settled(standing, now_ms, done, fewer, 9, 9, 500),
        lambda: RULE.settled(standing, now_ms, failed, agreed, 0, 0, 500),
        lambda: RULE.silent(standing, now_ms, 7_000, 25),
        lambda: RULE.together(standing, now_ms, 1_000, 2_000_000, 1_900_000, 10**9),
        lambda: RULE.settled(standing, now_ms + DAY_MS, done, agreed, 1_000, 1_000, 500),
        lambda: RULE.settled(standing, now_ms + 40 * DAY_MS, done, agreed, 1_000, 1_000, 500),
        lambda: RULE.together(standing, now_ms + 40 * DAY_MS, INTEGER_MAX, INTEGER_MAX, 0, 0),
        lambda: RULE.silent(standing, now_ms + 4_000 * DAY_MS, INTEGER_MAX, INTEGER_MAX),
    )
    for step in steps:
        standing = step()
        told.append(RULE.reputation(standing, now_ms + 41 * DAY_MS))
        told.append(RULE.reputation(standing, now_ms))
    return told


def test_reputation_gives_its_vectors():
    """Each step gives exactly what is written there. Without the file, it is written."""
    if not VECTORS.exists():
        VECTORS.write_bytes(msgspec.json.format(canonical.encode(story()), indent=1) + b"\n")
    assert story() == msgspec.json.decode(VECTORS.read_bytes(), type=list[Reputation])
