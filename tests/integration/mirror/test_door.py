"""``add-checkpoint`` and the files of a mirror, as C2SP tlog-witness, tlog-tiles and tlog-mirror have them, over HTTP."""

import asyncio
from base64 import b64encode
from hashlib import sha256

import httpx

from tests.integration.mirror.conftest import NAME, Site, open_site
from tests.unit.mirror.world import LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, RIVAL, STRANGER
from wwwmarket.domain.records import Transfer
from wwwmarket.ledger.bundles import BUNDLE_BYTES_MAX, decode_bundle
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.merkle import EMPTY_ROOT
from wwwmarket.ledger.note import NOTE_BYTES_MAX, parse_note
from wwwmarket.ledger.witness import REQUEST_BYTES_MAX, encode_request

PLAIN = "text/plain; charset=utf-8"


def said(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, the first word of the body, and the media type."""
    return answer.status_code, answer.text.partition(":")[0], answer.headers["content-type"]


def grown(log: LyingLog) -> LyingLog:
    log.add(CLIENT, Transfer(to=RIVAL.account, amount_micro=5))
    log.mark(log.state.now_ms + 1)
    return log


async def test_200_is_signature_lines_that_complete_the_note(site: Site) -> None:
    """The body is cosignatures alone: appended to the note that was asked about, they make a cosigned note."""
    note = site.log.note()
    answer = await site.ask()
    assert (answer.status_code, answer.headers["content-type"]) == (200, PLAIN)
    assert answer.text.startswith(f"\N{EM DASH} {NAME} ")
    assert answer.text.endswith("\n")
    mirror = site.mirroring.mirror
    opened = open_checkpoint(note + answer.content, mirror.log, [mirror._cosigner.verifier])
    assert [each.timestamp_s for each in opened.cosignatures] == [NOW // 1_000]


async def test_the_same_again_is_200_and_nothing_is_read_again(site: Site) -> None:
    """From its own size to its own size, a mirror says again what it said."""
    await site.ask()
    site.published.reads.clear()
    assert (await site.ask()).status_code == 200
    assert site.published.reads == []


async def test_409_names_the_size_that_was_cosigned_last(site: Site) -> None:
    """Of its own media type, in decimal, with a newline: the asker needs nothing else to ask again."""
    first = await site.ask(old=1)
    assert (first.status_code, first.content, first.headers["content-type"]) == (409, b"0\n", "text/x.tlog.size")
    await site.ask()
    size = len(site.log.leaves)
    grown(site.log)
    again = await site.ask(old=0)
    assert (again.status_code, again.content, again.headers["content-type"]) == (
        409,
        f"{size}\n".encode(),
        "text/x.tlog.size",
    )
    assert (await site.ask(old=size)).status_code == 200


async def test_409_is_the_answer_to_another_tree_of_the_same_size(site: Site) -> None:
    """And both notes are kept as evidence."""
    await site.ask()
    size = len(site.log.leaves)
    other = site.log.fork(size - 1)
    other.mark(NOW + 2)
    answer = await site.offer(size, (), other.note())
    assert (answer.status_code, answer.content) == (409, f"{size}\n".encode())
    async with asyncio.timeout(10):
        while not site.evidence:  # noqa: ASYNC110 - it is written beside the answer, and tells nobody
            await asyncio.sleep(0.01)
    assert len(site.evidence) == 1


async def test_404_is_the_answer_to_a_log_that_is_not_mirrored(site: Site) -> None:
    """Whoever signed it."""
    other = LyingLog(signer=STRANGER, origin="other.example/log")
    other.forge(b"x")
    assert said(await site.offer(0, (), other.note())) == (404, "unknown_log", PLAIN)


async def test_403_is_the_answer_to_a_signature_that_is_not_the_logs(site: Site) -> None:
    """The origin is right, and nobody known has signed."""
    other = LyingLog(site.log.leaves, signer=STRANGER)
    assert said(await site.offer(0, (), other.note())) == (403, "bad_signature", PLAIN)


async def test_422_is_the_answer_to_a_proof_that_proves_nothing(site: Site) -> None:
    """Wrong, missing, or too much of it; also for what does not follow."""
    await site.ask()
    size = len(site.log.leaves)
    note, proof = grown(site.log).note(), site.log.proof(size)
    for wrong in ((), proof[:-1], (*proof, proof[0]), (bytes(32), *proof[1:])):
        assert said(await site.offer(size, wrong, note)) == (422, "not_consistent", PLAIN)
    assert (await site.offer(size, proof, note)).status_code == 200


async def test_an_empty_tree_may_be_cosigned_and_has_one_root(site: Site) -> None:
    """With another root it is no checkpoint: 400 (torchwood answers 422, for a proof that leads nowhere)."""
    empty = LyingLog()
    assert (await site.offer(0, (), empty.note())).status_code == 200
    text = parse_note(empty.note()).text.replace(b64encode(EMPTY_ROOT).decode(), b64encode(bytes(32)).decode())
    line = empty.signer.sign(text).line
    assert said(await site.offer(0, (), f"{text}\n{line}".encode())) == (400, "malformed", PLAIN)


async def test_400_is_the_answer_to_what_is_no_request(site: Site) -> None:
    """Each limit and each form, at its edge and past it."""
    body = encode_request(site.log.request(0))
    head, _, note = body.partition(b"\n\n")
    line = note.splitlines(keepends=True)[-1]
    bad = {
        "nothing": b"",
        "no old line": b"\n\n" + note,
        "a leading zero": body.replace(b"old 0", b"old 00"),
        "a negative size": body.replace(b"old 0", b"old -1"),
        "a size over 2^63": body.replace(b"old 0", b"old 99999999999999999999"),
        "an old size past the checkpoint's": body.replace(b"old 0", b"old 999"),
        "64 hashes": head + b"\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + note,
        "a hash of 31 bytes": head + b"\nAAAA\n\n" + note,
        "carriage returns": body.replace(b"\n", b"\r\n"),
        "no blank line": head + b"\n" + note,
        "a note of 10,000 signatures": body + line * 2_000,
        "a note of 101 signatures": body + line * 100,
        "no signature": body.removesuffix(line),
        "a byte that is no UTF-8": body.replace(line, b"\xff" + line),
    }
    for what, request in bad.items():
        answer = await site.post(request)
        assert said(answer) == (400, "malformed", PLAIN), what
    assert (await site.post(body + line * 99)).status_code == 200, "100 signatures may be"


async def test_413_is_the_answer_to_more_than_a_request_can_have(site: Site) -> None:
    """A note of 10,000 signatures at their real length is not even read to its end."""
    body = encode_request(site.log.request(0))
    line = body.splitlines(keepends=True)[-1]
    assert len(line) * 10_000 > REQUEST_BYTES_MAX > NOTE_BYTES_MAX
    assert (await site.post(body + line * 10_000)).status_code == 413


async def test_what_it_cosigned_is_served_as_a_log_with_its_cosignature(site: Site) -> None:
    """Where a log's files are, and where tlog-mirror puts them: under the digest of the origin."""
    assert (await site.http.get("/ledger/checkpoint")).status_code == 503
    await site.ask()
    origin = site.mirroring.mirror.log.name
    for prefix in ("/ledger", f"/{sha256(origin.encode()).hexdigest()}"):
        note = await site.http.get(f"{prefix}/checkpoint")
        mirror = site.mirroring.mirror
        assert len(open_checkpoint(note.content, mirror.log, [mirror._cosigner.verifier]).cosignatures) == 1
        size = len(site.log.leaves)
        bundle = await site.http.get(f"{prefix}/tile/entries/000.p/{size}")
        assert decode_bundle(bundle.content, width=size) == site.log.leaves
        assert (await site.http.get(f"{prefix}/tile/0/000.p/{size}")).status_code == 200


NOT_THERE = {
    "tile/0/000": 404,
    "tile/0/000.p/0": 400,
    "tile/0/000.p/256": 400,
    "tile/0/000.p/255": 404,
    "tile/0/001.p/1": 404,
    "tile/entries/000": 404,
    "tile/entries/000.p/255": 404,
    "tile/64/000": 400,
    "tile/63/000.p/1": 404,
    "tile/0/x999/x999/x999/x999/x999/x999/999": 400,
    "tile/entries/x999/x999/x999/x999/x999/x999/999": 400,
    "tile/0/x000/000": 400,
    "tile/../../etc/passwd": 404,
    "tile/0/000/" + "x" * 100: 400,
}


async def test_a_tile_that_is_not_there_is_404_and_what_is_no_tile_400(site: Site) -> None:
    """Wrong widths, levels and numbers beyond any tree, and paths that are none."""
    await site.ask()
    found = {path: (await site.http.get(f"/ledger/{path}")).status_code for path in NOT_THERE}
    assert found == NOT_THERE


async def test_oversized_tiles_of_a_log_are_refused_and_cosign_nothing(site: Site) -> None:
    """Entries longer than said, shorter, cut off, too many, or in a file of any length: 503 or 422, never 200."""
    size = len(site.log.leaves)
    path = f"tile/entries/000.p/{size}"
    good = await site.published.read(path, bytes_max=BUNDLE_BYTES_MAX)
    for bad in (good[:-1], good + b"\x00", good * 2, b"\xff" * 40, bytes(BUNDLE_BYTES_MAX + 1)):
        site.published.changed[path] = bad
        assert (await site.ask()).status_code == 503
    flipped = bytearray(good)
    flipped[40] ^= 1
    site.published.changed[path] = bytes(flipped)
    assert said(await site.ask()) == (422, "not_consistent", PLAIN)
    assert site.mirroring.mirror.cosigned_size == 0
    site.published.changed.clear()
    assert (await site.ask()).status_code == 200


async def test_a_size_that_goes_back_is_never_cosigned(site: Site) -> None:
    """An older checkpoint of the very same log: 409 with the size, or 400 where the request contradicts itself."""
    older = site.log.note()
    await site.ask()
    grown(site.log)
    await site.ask()
    size = len(site.log.leaves)
    back = await site.offer(size - 2, (), older)
    assert (back.status_code, back.content) == (409, f"{size}\n".encode())
    assert (await site.offer(size, (), older)).status_code == 400
    assert site.mirroring.mirror.cosigned_size == size


async def test_a_log_of_two_bundles_is_followed_and_served(url: str) -> None:
    """Over a tile's edge: full and partial tiles, from the disk and from memory."""
    async with open_site(url, honest(300)) as site:
        assert (await site.ask()).status_code == 200
        width = len(site.log.leaves) - 256
        for path in ("tile/0/000", f"tile/0/001.p/{width}", "tile/1/000.p/1", "tile/entries/000"):
            assert (await site.http.get(f"/ledger/{path}")).status_code == 200, path
