"""Proof files of C2SP tlog-proof: one form for what they say, and limits on what is read."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.ledger.checkpoint import Checkpoint
from wwwmarket.ledger.merkle import Frontier, leaf_hash, root_of
from wwwmarket.ledger.proof_file import (
    EXTRA_BYTES_MAX,
    FILE_BYTES_MAX,
    ProofFile,
    encode_proof_file,
    parse_proof_file,
    verify_proof_file,
)
from wwwmarket.ledger.proofs import Proof, inclusion_proof

NOTE = b"test.example/log\n3\nAAAA\n\n\xe2\x80\x94 a b\n"
HASH = bytes(range(32))
FIRST = b"c2sp.org/tlog-proof@v1\n"

hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(lambda each: Proof(tuple(each)))


@given(st.binary(max_size=100), st.integers(0, 2**63 - 1), hashes)
def test_what_is_written_is_read_again(extra, index, proof):
    """Extra data or none, any index, no hash up to 63 of them."""
    file = ProofFile(extra=extra, index=index, proof=proof, note=NOTE)
    assert parse_proof_file(encode_proof_file(file)) == file


def test_the_form_is_that_of_the_specification():
    """The lines of C2SP tlog-proof, in its order."""
    file = ProofFile(extra=b"age", index=73894, proof=Proof((HASH,)), note=NOTE)
    expected = FIRST + b"extra YWdl\nindex 73894\n" + b64encode(HASH) + b"\n\n" + NOTE
    assert encode_proof_file(file) == expected
    alone = ProofFile(extra=b"", index=0, proof=Proof(()), note=NOTE)
    assert encode_proof_file(alone) == FIRST + b"index 0\n\n" + NOTE


@given(st.data())
def test_a_changed_file_is_another_one_or_none(data):
    """Whatever is changed in a file, it is refused or reads as what it says now: there is one form for each content."""
    file = encode_proof_file(ProofFile(extra=b"some data", index=12, proof=Proof((HASH, HASH)), note=NOTE))
    at = data.draw(st.integers(0, len(file) - 1))
    changed = file[:at] + data.draw(st.binary(max_size=3)) + file[at + data.draw(st.integers(0, 3)) :]
    try:
        read = parse_proof_file(changed)
    except Malformed:
        return
    assert encode_proof_file(read) == changed


LINE = b64encode(HASH)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"c2sp.org/tlog-proof@v2\nindex 0\n\n",
        FIRST,
        FIRST + b"index 0\n",
        FIRST + b"index 0\n" + LINE + b"\n",
        FIRST + b"index 00\n\n",
        FIRST + b"index -1\n\n",
        FIRST + b"index 9223372036854775808\n\n",
        FIRST + b"index 1 \n\n",
        FIRST + b"extra \nindex 0\n\n",
        FIRST + b"extra A\nindex 0\n\n",
        FIRST + b"extra YWdl YWdl\nindex 0\n\n",
        FIRST + b"extra YW==\nindex 0\n\n",
        FIRST + b"extra YR==\nindex 0\n\n",
        FIRST + b"index 0\nextra YWdl\n\n",
        FIRST + b"extra YWdl\nextra YWdl\nindex 0\n\n",
        FIRST + b"index 0\n" + LINE[:-4] + b"\n\n",
        FIRST + b"index 0\n" + LINE + LINE + b"\n\n",
        FIRST + b"index 0\n" + LINE[:-2] + b"9=\n\n",
        FIRST + b"index 0\r\n\n",
        FIRST + b"index 0\n" + (LINE + b"\n") * 64 + b"\n",
    ],
)
def test_what_is_no_proof_is_refused(content):
    """Other first lines, numbers that are written twice over, base64 that is not canonical, hashes of a wrong width."""
    with pytest.raises(Malformed):
        parse_proof_file(content + NOTE if content.endswith(b"\n\n") else content)


def test_proofs_have_limits():
    """Ten thousand hashes, extra data beyond its limit, a file beyond its own."""
    with pytest.raises(Malformed):
        parse_proof_file(FIRST + b"index 0\n" + (LINE + b"\n") * 10_000 + b"\n" + NOTE)
    with pytest.raises(TooLarge):
        parse_proof_file(FIRST + b"extra " + b64encode(bytes(EXTRA_BYTES_MAX + 1)) + b"\nindex 0\n\n" + NOTE)
    with pytest.raises(TooLarge):
        parse_proof_file(FIRST + b"x" * FILE_BYTES_MAX)


@given(st.integers(1, 40), st.data())
def test_only_the_entry_itself_is_proven(size, data):
    """The right entry at its index verifies; another entry, index, size or number of hashes does not."""
    entries = [bytes([number]) for number in range(size)]
    tree = Frontier()
    nodes = {}
    for entry in entries:
        place = tree.size
        for level, node in enumerate(tree.append(leaf_hash(entry))):
            nodes[level, place >> level] = node
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, lambda level, at: nodes[level, at])
    file = ProofFile(extra=b"", index=index, proof=proof, note=NOTE)
    checkpoint = Checkpoint(origin="a", size=size, root=root_of(map(leaf_hash, entries)))
    verify_proof_file(file, entries[index], checkpoint)
    wrong = [
        (file, b"another", checkpoint),
        (ProofFile(extra=b"", index=index, proof=Proof((*proof, HASH)), note=NOTE), entries[index], checkpoint),
        (ProofFile(extra=b"", index=index + 1, proof=proof, note=NOTE), entries[index], checkpoint),
        (file, entries[index], Checkpoint(origin="a", size=size, root=HASH)),
    ]
    if proof:
        wrong.append((ProofFile(extra=b"", index=index, proof=Proof(proof[1:]), note=NOTE), entries[index], checkpoint))
    for claimed, entry, under in wrong:
        with pytest.raises(Malformed):
            verify_proof_file(claimed, entry, under)
