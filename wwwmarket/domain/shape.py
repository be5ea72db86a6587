"""The shape of every value: frozen, by keyword only, and strict about what it does not know."""

from typing import dataclass_transform

from msgspec import Struct, field


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Value(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a record."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Record(Value, tag_field="kind"):
    """A value that stands alone in bytes: its class names its kind and version as ``tag``."""
