"""Whom to believe (C2SP tlog-policy): which logs, which witnesses, and how many of these, as a file that people keep.

    log <verifier key> [<URL>]
    witness <name> <verifier key> [<URL>]
    group <name> all|any|<k> <name>...           of witnesses and groups above, each in one group at most
    quorum <name>|none                           exactly once

Names have no meaning outside of the file, and are opaque bytes; ``none`` is no name of a witness or group.
"""

import re
from collections.abc import Sequence, Sized
from typing import Final

from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint, open_checkpoint, parse_checkpoint
from wwwmarket.ledger.note import SignatureType, VerifierKey, parse_note, parse_verifier_key
from wwwmarket.ledger.quorum import cosigner_key

POLICY_BYTES_MAX: Final = 131_072
LINES_OF_A_KIND_MAX: Final = 64
"""Twice what the specification bids to support, and less than the signatures that a note may have."""

NONE: Final = b"none"

_SPACE: Final = re.compile(rb"[ \t]+")
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_DECIMAL: Final = re.compile(rb"[1-9][0-9]{0,3}", re.ASCII)


class Group(Value):
    """Witnesses a checkpoint when ``threshold`` of its members do."""

    threshold: int
    members: tuple[bytes, ...]


class Policy(Value):
    """``quorum`` None: no witness is asked for. Made by ``parse_policy`` alone."""

    logs: tuple[VerifierKey, ...]
    witnesses: dict[bytes, VerifierKey]
    groups: dict[bytes, Group]
    quorum: bytes | None

    def accept(self, note: bytes) -> VerifiedCheckpoint:
        """Read a checkpoint that this policy believes, with the cosignatures of its witnesses.

        Raises:
            TooLarge, Malformed: not a checkpoint.
            Unauthorised: of no log of this policy, not signed by it, wrongly signed in the name of a known key
                (``other_log``), or not cosigned by its quorum (``no_quorum``).
        """
        opened = self._open(note)
        if not self._is_met(opened):
            count = len(self.cosigners(opened))
            raise Unauthorised(
                f"{count} of the policy's witnesses have cosigned this checkpoint, which is not its quorum; if the "
                "committee has changed since, the policy has too",
                reason="no_quorum",
            )
        return opened

    def _open(self, note: bytes) -> VerifiedCheckpoint:
        """By the first of the log's keys that has signed it: a log that changes its key has two for a while."""
        origin = parse_checkpoint(parse_note(note).text).origin
        why = Unauthorised(f"the policy knows no log called {origin}", reason="other_log")
        for log in self.logs:
            if log.name == origin:
                try:
                    return open_checkpoint(note, log, self.witnesses.values())
                except Unauthorised as refusal:
                    why = refusal
        raise why

    def cosigners(self, opened: VerifiedCheckpoint) -> tuple[VerifierKey, ...]:
        """Those of its witnesses that have cosigned, each once."""
        have = {each.by for each in opened.cosignatures}
        return tuple(key for key in self.witnesses.values() if key in have)

    def _is_met(self, opened: VerifiedCheckpoint) -> bool:
        have = set(self.cosigners(opened))
        met = {name: key in have for name, key in self.witnesses.items()}
        for name, group in self.groups.items():  # a group comes after its members
            met[name] = sum(met[member] for member in group.members) >= group.threshold
        return self.quorum is None or met[self.quorum]


def parse_policy(data: bytes) -> Policy:
    """Read a policy file.

    Raises:
        TooLarge: over 131,072 bytes, or more than 64 logs, witnesses or groups.
        Malformed: not a policy; the message names the line.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise TooLarge(f"a policy has at most {POLICY_BYTES_MAX} bytes")
    if _FORBIDDEN.search(data):
        raise Malformed("a policy has no control characters but tabs and newlines")
    if data and not data.endswith(b"\n"):
        raise Malformed("every line of a policy ends in a newline")
    reading = _Reading()
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        words = _SPACE.split(line.strip(b" \t"))
        if not words[0] or words[0].startswith(b"#"):
            continue
        try:
            reading.take(words)
        except TooLarge:
            raise
        except Malformed as refusal:
            raise Malformed(f"line {number} of the policy: {refusal.message}") from None
    return reading.end()


def policy_text(log: VerifierKey, committee: Committee, url: str | None = None) -> str:
    """The policy that believes what the committee's quorum has made final; without members, what the log says alone."""
    lines = [f"log {log.text}{'' if url is None else f' {url}'}"]
    names = [f"mirror-{number}" for number in range(1, len(committee.members) + 1)]
    for name, member in zip(names, committee.members, strict=True):
        lines.append(f"witness {name} {cosigner_key(member).text} {member.url}")
    if names:
        lines += [f"group committee {committee.quorum} {' '.join(names)}", "quorum committee"]
    else:
        lines.append("quorum none")
    return "".join(f"{line}\n" for line in lines)


class _Reading:
    def __init__(self) -> None:
        self._logs: dict[AccountId, VerifierKey] = {}
        self._witnesses: dict[bytes, VerifierKey] = {}
        self._groups: dict[bytes, Group] = {}
        self._grouped: set[bytes] = set()
        self._quorum: bytes | None = None

    def take(self, words: Sequence[bytes]) -> None:
        match words:
            case [b"log", key, *url] if len(url) <= 1:
                self._log(_key(key, SignatureType.ED25519))
            case [b"witness", name, key, *url] if len(url) <= 1:
                self._check_name(name)
                self._witness(name, _key(key, SignatureType.COSIGNATURE))
            case [b"group", name, threshold, *members] if members:
                self._check_name(name)
                self._group(name, threshold, members)
            case [b"quorum", name]:
                self._choose(name)
            case _:
                raise Malformed("not a log, a witness, a group or the quorum, with all that belongs to it")

    def _log(self, key: VerifierKey) -> None:
        if key.account in self._logs:
            raise Malformed("another line has this log's key")
        self._logs[key.account] = key
        _limit(self._logs, "logs")

    def _witness(self, name: bytes, key: VerifierKey) -> None:
        if key.account in {witness.account for witness in self._witnesses.values()}:
            raise Malformed("another line has this witness's key")
        self._witnesses[name] = key
        _limit(self._witnesses, "witnesses")

    def _group(self, name: bytes, threshold: bytes, members: Sequence[bytes]) -> None:
        for member in members:
            if member not in self._witnesses and member not in self._groups:
                raise Malformed(f"nothing above is called {_told(member)}")
            if member in self._grouped:
                raise Malformed(f"{_told(member)} is a member already, and may be one once")
            self._grouped.add(member)
        needed = {b"all": len(members), b"any": 1}.get(threshold)
        if needed is None and _DECIMAL.fullmatch(threshold):
            needed = int(threshold)
        if needed is None or needed > len(members):
            raise Malformed(f"a group asks for all, any, or 1 to {len(members)} of its members")
        self._groups[name] = Group(threshold=needed, members=tuple(members))
        _limit(self._groups, "groups")

    def _choose(self, name: bytes) -> None:
        if self._quorum is not None:
            raise Malformed("there is a quorum already")
        if name != NONE and name not in self._witnesses and name not in self._groups:
            raise Malformed(f"nothing above is called {_told(name)}")
        self._quorum = name

    def _check_name(self, name: bytes) -> None:
        if name == NONE or name in self._witnesses or name in self._groups:
            raise Malformed(f"{_told(name)} is taken")

    def end(self) -> Policy:
        if self._quorum is None:
            raise Malformed("a policy has a line 'quorum <name>', be it 'quorum none'")
        return Policy(
            logs=tuple(self._logs.values()),
            witnesses=self._witnesses,
            groups=self._groups,
            quorum=None if self._quorum == NONE else self._quorum,
        )


def _key(text: bytes, kind: SignatureType) -> VerifierKey:
    key = parse_verifier_key(text.decode("utf-8", "replace"))
    if key.type is not kind:
        use = "signing a log's" if kind is SignatureType.ED25519 else "cosigning"
        raise Malformed(f"a key of type {key.type:d} is not one for {use} checkpoints")
    return key


def _limit(lines: Sized, of: str) -> None:
    if len(lines) > LINES_OF_A_KIND_MAX:
        raise TooLarge(f"a policy has at most {LINES_OF_A_KIND_MAX} {of}")


def _told(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")[:128]
