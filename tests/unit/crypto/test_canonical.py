"""What is not the one encoding of a value is refused, whatever it is instead."""

import pytest

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest, request_digest, response_digest, tagged
from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.records import Body, Entry, Transfer, Withdrawal

A = b"a" * 64
TRANSFER = b'{"amount_micro":5,"kind":"transfer/v1","to":"' + A + b'"}'
WITHDRAWAL = b'{"kind":"withdrawal/v1","offer":"' + A + b'"}'


def test_the_canonical_form_itself_is_accepted():
    """The forms below are refused for their difference from this one, and for nothing else."""
    assert canonical.decode(TRANSFER, Transfer) == Transfer(to=A.decode(), amount_micro=5)


@pytest.mark.parametrize(
    "data",
    {
        "space": TRANSFER.replace(b":5", b": 5"),
        "leading space": b" " + TRANSFER,
        "trailing newline": TRANSFER + b"\n",
        "unsorted keys": b'{"kind":"transfer/v1","amount_micro":5,"to":"' + A + b'"}',
        "a float": TRANSFER.replace(b":5", b":5.0"),
        "an exponent": TRANSFER.replace(b":5", b":5e0"),
        "a leading zero": TRANSFER.replace(b":5", b":05"),
        "a plus": TRANSFER.replace(b":5", b":+5"),
        "below the least": TRANSFER.replace(b":5", b":0"),
        "minus zero": TRANSFER.replace(b":5", b":-0"),
        "2^53": TRANSFER.replace(b":5", b":9007199254740992"),
        "beyond 64 bits": TRANSFER.replace(b":5", b":99999999999999999999999999999999"),
        "a very long integer": TRANSFER.replace(b":5", b":" + b"9" * 10_000),
        "NaN": TRANSFER.replace(b":5", b":NaN"),
        "infinity": TRANSFER.replace(b":5", b":1e999"),
        "a string for an integer": TRANSFER.replace(b":5", b':"5"'),
        "true for an integer": TRANSFER.replace(b":5", b":true"),
        "null": TRANSFER.replace(b":5", b":null"),
        "a duplicated key": TRANSFER.replace(b'"kind"', b'"amount_micro":5,"kind"'),
        "a duplicated kind": TRANSFER.replace(b'"to"', b'"kind":"transfer/v1","to"'),
        "an escaped letter": TRANSFER.replace(b'"aa', b'"\\u0061a'),
        "an escaped key": TRANSFER.replace(b'"to"', b'"\\u0074o"'),
        "upper-case hex": TRANSFER.replace(A, b"A" * 64),
        "a newline after a name": TRANSFER.replace(A, A + b"\\n"),
        "a name too short": TRANSFER.replace(A, b"a" * 63),
        "an unknown field": TRANSFER.replace(b'"kind"', b'"extra":1,"kind"'),
        "a missing field": b'{"kind":"transfer/v1","to":"' + A + b'"}',
        "a missing kind": b'{"amount_micro":5,"to":"' + A + b'"}',
        "another kind": TRANSFER.replace(b"transfer/v1", b"transfer/v2"),
        "trailing bytes": TRANSFER + b"{}",
        "cut off": TRANSFER[:-1],
        "nothing": b"",
        "not UTF-8": TRANSFER.replace(b"aaaa", b"\xff\xfe\xfd\xfc"),
        "a lone surrogate": TRANSFER.replace(A, b"\\ud800"),
        "a byte order mark": b"\xef\xbb\xbf" + TRANSFER,
        "UTF-16": TRANSFER.decode().encode("utf-16"),
        "a list": b"[" + TRANSFER + b"]",
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("shape", [Transfer, Body], ids=["alone", "in a union"])
def test_any_other_form_is_malformed(data, shape):
    """One value, one encoding: every other way to write it, and everything near it, is refused."""
    with pytest.raises(Malformed):
        canonical.decode(data[1], shape)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"body":', b'{"kind":'])
def test_deep_nesting_is_malformed_and_crashes_nothing(opening):
    """A message of nothing but openings, as long as a message may be, is a refusal."""
    deep = opening * (canonical.MESSAGE_BYTES_MAX // len(opening))
    for shape in (Withdrawal, Body, Entry):
        with pytest.raises(Malformed):
            canonical.decode(deep, shape)


def test_a_deep_body_of_an_entry_crashes_nothing():
    """The body of an entry is kept raw, so its depth must be harmless there too."""
    depth = 10_000
    deep = (
        b'{"account":"' + A + b'","body":' + b"[" * depth + b"]" * depth + b',"prev":"' + A + b'","seq":0,"signature":"'
    )
    with pytest.raises(Malformed):
        canonical.decode(deep + A + A + b'"}', Entry)


def test_more_bytes_than_the_limit_are_refused_unread():
    """The limit is checked before a parser sees the bytes."""
    with pytest.raises(TooLarge):
        canonical.decode(WITHDRAWAL, Withdrawal, bytes_max=len(WITHDRAWAL) - 1)
    assert canonical.decode(WITHDRAWAL, Withdrawal, bytes_max=len(WITHDRAWAL)).offer == A.decode()


def test_digests_of_different_kinds_differ():
    """The same bytes under another tag have another digest."""
    assert tagged("request/v1", b"x") != tagged("response/v1", b"x")
    assert response_digest(b"x") == tagged("response/v1", b"x")
    assert digest(Withdrawal(offer=A.decode())) == tagged("withdrawal/v1", WITHDRAWAL)


def test_a_short_prompt_cannot_be_guessed_from_its_digest():
    """Another salt gives another digest of the same request."""
    assert request_digest(bytes(32), b"hi") != request_digest(b"\x01" * 32, b"hi")
    with pytest.raises(AssertionError):
        request_digest(b"short", b"hi")
