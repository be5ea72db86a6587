"""The committee's doors: everybody reads, the node's admin writes what a quorum signed."""

from wwwmarket.crypto.signing import KeyPair, certify
from wwwmarket.domain.records import Certified, Mint

MEMBER = KeyPair(b"\x11" * 32)
MINT = Mint(origin="test.market", number=0, to=MEMBER.account, amount_micro=1)


def certified(body=MINT, signed=MINT) -> dict:
    import msgspec

    return msgspec.to_builtins({"resolution": Certified(body=body, signatures=(certify(MEMBER, signed),))})


async def test_everybody_reads_who_decides(doors):
    """The committee, the decrees so far, and the contracts in force."""
    answer = await doors.get("/v1/governance")
    assert answer.status_code == 200
    assert answer.json()["governance"]["committee"] == {"members": []}


async def test_a_decree_is_written_by_the_admin_alone(doors, scripts):
    """Its place comes back, and that it is not final yet; without the token it is refused, and so is a signature that does not hold."""
    admin = {"authorization": f"Bearer {scripts.admin}"}
    assert (await doors.post("/v1/decrees", json=certified())).status_code == 401
    written = await doors.post("/v1/decrees", json=certified(), headers=admin)
    assert (written.status_code, written.json()["index"], written.json()["finality"]) == (200, 9, "pending")
    forged = certified(signed=Mint(origin="test.market", number=1, to=MEMBER.account, amount_micro=1))
    assert (await doors.post("/v1/decrees", json=forged, headers=admin)).status_code == 401
    assert (await doors.post("/v1/decrees", json={"resolution": 1}, headers=admin)).status_code == 400
