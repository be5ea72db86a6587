"""Failure detection by probes: directly, through helpers, then suspicion (SWIM: Das, Gupta and Motivala, DSN 2002).

Unlike SWIM's, suspicion is not spread: each member judges its own neighbours, so nobody can talk a node to death.
What ends a suspicion is a word of the suspect itself, on the wire or under its signature.
"""

from typing import Literal, TypeAlias

from msgspec import structs

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Nonce

Phase: TypeAlias = Literal["direct", "indirect", "suspected", "dead"]
_NEXT: dict[Phase, Phase] = {"direct": "indirect", "indirect": "suspected", "suspected": "dead"}


class Probe(Value):
    """One under way. ``nonce`` and ``sent_ms`` are of the latest ping, which alone measures a round trip."""

    nonce: Nonce
    sent_ms: Millis
    phase: Phase
    deadline_ms: Millis


class Detector:
    """The probes under way, at most one for each neighbour."""

    def __init__(self, params: OverlayParams) -> None:
        self._params = params
        self.probes: dict[NodeId, Probe] = {}

    def begin(self, node: NodeId, nonce: Nonce, at_ms: Millis, round_trip_ms: Millis) -> None:
        deadline_ms = at_ms + max(self._params.probe_timeout_ms, 3 * round_trip_ms)
        self.probes[node] = Probe(nonce=nonce, sent_ms=at_ms, phase="direct", deadline_ms=deadline_ms)

    def again(self, node: NodeId, nonce: Nonce, at_ms: Millis) -> None:
        """Another ping of the same probe."""
        self.probes[node] = structs.replace(self.probes[node], nonce=nonce, sent_ms=at_ms)

    def unreachable(self, node: NodeId, at_ms: Millis) -> None:
        """The transport gave up on it: no need to wait for the direct answer."""
        probe = self.probes.get(node)
        if probe is not None and probe.phase == "direct":
            self.probes[node] = structs.replace(probe, deadline_ms=at_ms)

    def answered(self, node: NodeId, nonce: Nonce, at_ms: Millis) -> Millis | None:
        """The round trip, where this answers the latest ping."""
        probe = self.probes.get(node)
        return at_ms - probe.sent_ms if probe is not None and probe.nonce == nonce else None

    def heard(self, node: NodeId) -> None:
        """It spoke, whatever it said: it lives. Also for whom is no neighbour any more."""
        self.probes.pop(node, None)

    def is_suspected(self, node: NodeId) -> bool:
        probe = self.probes.get(node)
        return probe is not None and probe.phase == "suspected"

    def advance(self, at_ms: Millis) -> list[tuple[NodeId, Phase]]:
        """Who has just entered which phase."""
        entered: list[tuple[NodeId, Phase]] = []
        for node, probe in list(self.probes.items()):
            if at_ms < probe.deadline_ms:
                continue
            phase = _NEXT[probe.phase]
            wait_ms = self._params.helpers_timeout_ms if phase == "indirect" else self._params.suspicion_ms
            self.probes[node] = structs.replace(probe, phase=phase, deadline_ms=at_ms + wait_ms)
            entered.append((node, phase))
        return entered
