"""Hypothesis strategies for every type in ``domain``, read off the types themselves."""

import re
from typing import get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from wwwmarket.crypto import canonical
from wwwmarket.domain.records import Ask, Attestation, Award, Bid, Body, Entry, Inclusion, Receipt, Settlement, Signed

BODIES = get_args(Body)
RECORDS = (*BODIES, Bid, Ask, Attestation, Receipt, Inclusion)
SHAPES = (
    *RECORDS,
    Entry,
    Signed[Bid],
    Signed[Ask],
    Signed[Attestation],
    Signed[Receipt],
    Signed[Settlement],
    Signed[Award],
)

_HEX = re.compile(re.escape("^[0-9a-f]{") + r"(\d+)" + re.escape(r"}\Z"))
"""Names and signatures, drawn as bytes: far quicker than from their pattern."""


def values(shape):
    """Values of ``shape``, a class of ``domain``."""
    return _of(inspect.type_info(shape))


def _of(kind):  # noqa: C901, PLR0911 - one line for each kind of type
    match kind:
        case inspect.StructType():
            return st.fixed_dictionaries({field.name: _of(field.type) for field in kind.fields}).map(
                lambda f: kind.cls(**f)
            )
        case inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case inspect.StrType(pattern=None):
            return st.text(max_size=16)
        case inspect.StrType() if hex_characters := _HEX.fullmatch(kind.pattern):
            size = int(hex_characters[1]) // 2
            return st.binary(min_size=size, max_size=size).map(bytes.hex)
        case inspect.StrType():
            return st.from_regex(kind.pattern, fullmatch=True)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.VarTupleType():
            return st.lists(
                _of(kind.item_type), min_size=kind.min_length or 0, max_size=min(kind.max_length or 3, 3)
            ).map(tuple)
        case inspect.DictType():
            return st.dictionaries(_of(kind.key_type), _of(kind.value_type), min_size=kind.min_length or 0, max_size=3)
        case inspect.UnionType():
            return st.one_of(*map(_of, kind.types))
        case inspect.NoneType():
            return st.none()
        case inspect.RawType():
            return st.one_of(*map(values, BODIES)).map(lambda body: msgspec.Raw(canonical.encode(body)))
    raise AssertionError(kind)
