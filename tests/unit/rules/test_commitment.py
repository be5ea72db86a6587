"""The root of rows, against a model that hashes everything each time."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import tagged
from wwwmarket.rules.commitment import BUCKETS, Commitment

rows = st.tuples(st.sampled_from(["account", "offer"]), st.sampled_from("abcdefgh"), st.integers(0, 3) | st.none())


def model_root(table: dict[tuple[str, str], int]) -> str:
    """RFC 6962, section 2.1, over the buckets, each being its rows' names and digests in ascending order."""
    buckets = [[] for _ in range(BUCKETS)]
    for (kind, key), value in table.items():
        name = sha256(f"{kind}/{key}".encode()).digest()
        place = int.from_bytes(name[:2], "big") % BUCKETS
        buckets[place].append(name + bytes.fromhex(tagged(f"state-{kind}/v1", canonical.encode([key, value]))))
    level = [sha256(b"\x00" + b"".join(sorted(bucket))).digest() for bucket in buckets]
    while len(level) > 1:
        level = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return level[0].hex()


@given(st.lists(rows, max_size=12), st.integers(0, 12))
def test_the_root_is_that_of_the_rows_there_are(writes, asked_after):
    """Whatever was written and removed before, and whenever the root was asked for, it is the model's."""
    commitment, table = Commitment(), {}
    for number, (kind, key, value) in enumerate(writes):
        commitment.put(kind, key, value)
        table[kind, key] = value
        if number == asked_after:
            commitment.root()
    present = {name: value for name, value in table.items() if value is not None}
    assert commitment.root() == model_root(present)
    assert commitment.root() == commitment.root()


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3)).flatmap(lambda d: st.permutations(list(d.items())))
)
def test_the_order_of_writing_does_not_matter(writes):
    """The same rows in any order give the same root."""
    forwards, backwards = Commitment(), Commitment()
    for key, value in writes:
        forwards.put("account", key, value)
    for key, value in reversed(writes):
        backwards.put("account", key, value)
    assert forwards.root() == backwards.root()


def test_rows_of_two_tables_never_stand_for_each_other():
    """The same key and value in another table is another state."""
    account, offer = Commitment(), Commitment()
    account.put("account", "a", 1)
    offer.put("offer", "a", 1)
    assert len({account.root(), offer.root(), Commitment().root()}) == 3
