"""One backup restores every key: sub-account keys and the sealing seed are derived from the node's key by label.

HKDF-SHA256 (RFC 5869) of the seed, without salt, with the label as info. A derived key tells nothing about its parent
or its siblings.
"""

import re
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wwwmarket.crypto.signing import SEED_BYTES, KeyPair
from wwwmarket.domain.errors import Malformed

SEALING: Final = "sealing"
"""Label of the seed for ``crypto.sealing.SealingPair``."""

_INFO: Final = b"wwwmarket/v1/"
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")


def derive_seed(key: KeyPair, label: str) -> bytes:
    """32 secret bytes that only ``key`` and ``label`` decide.

    Raises:
        Malformed: a label that is not 1 to 64 of ``a-z 0-9 . _ / -``, beginning with a letter or digit.
    """
    if not _LABEL.fullmatch(label):
        raise Malformed("a label is 1 to 64 of a-z 0-9 . _ / - and begins with a letter or digit", param="label")
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=_INFO + label.encode("ascii")).derive(key.seed)


def child(key: KeyPair, label: str) -> KeyPair:
    """The sub-account of ``key`` under ``label``, such as ``account/team-a``.

    Raises:
        Malformed: as ``derive_seed``.
    """
    return KeyPair(derive_seed(key, label))
