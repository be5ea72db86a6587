"""The doors of proofs: bytes as the node made them, refusals as everywhere."""

from tests.unit.gateway.conftest import CLIENT


async def test_proofs_are_files(doors):
    """Text, with a name to save it under, never kept by a cache."""
    for path, name in (("entry/3", "entry-3"), (f"account/{CLIENT.account}", f"account-{CLIENT.account[:16]}")):
        answer = await doors.get(f"/ledger/proof/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.headers["content-disposition"] == f'inline; filename="{name}.tlog-proof"'
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.content.startswith(b"c2sp.org/tlog-proof@v1\n")


async def test_what_has_no_proof_is_refused(doors):
    """No such entry, no index, no account's name, and a balance that nothing final covers yet."""
    for path, status in (
        ("entry/4", 404),
        ("entry/-1", 400),
        ("entry/9007199254740992", 400),
        ("entry/x", 400),
        ("account/x", 400),
        (f"account/{'0' * 64}", 503),
    ):
        answer = await doors.get(f"/ledger/proof/{path}")
        assert (answer.status_code, "error" in answer.json()) == (status, True), path
    assert "retry-after" in answer.headers
