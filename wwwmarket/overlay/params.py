"""The overlay's numbers: what a member spends, and how soon it notices. Defaults suit a wide-area network."""

from typing import Annotated

from msgspec import Meta

from wwwmarket.domain.shape import Value

_Positive = Annotated[int, Meta(ge=1)]


class OverlayParams(Value):
    tick_ms: _Positive = 250
    """How often the node calls: half of the shortest timeout."""

    near_links: _Positive = 3
    """An attacker who is nearer than everybody else can take these and no more, so they are the smaller part."""
    random_links: _Positive = 5
    """Long links keep the graph connected (a random graph of degree 4 almost surely is) and asks spread."""
    nearer_percent: _Positive = 80
    """A candidate takes a near place below this share of its round trip; otherwise noise would swap them."""

    reservoir_max: _Positive = 128
    """Announcements kept beside the view, for a second round: at most 600 KB even where all are the largest."""
    source_max: _Positive = 16
    """Of those from any one neighbour; eight neighbours fill it, and no single one can."""
    strangers_max: _Positive = 32
    """Of those from all strangers together: keys are free, so a bound per stranger is none."""
    resample_ms: _Positive = 600_000
    """How often the reservoir's secret is renewed, so that no identity is in or out of it for good."""
    buried_max: _Positive = 64
    """Dead and departed nodes remembered: for refusing their old words, and for finding the dead again."""

    refresh_ms: _Positive = 120_000
    """How often a node announces itself anew though nothing changed."""
    reissue_min_ms: _Positive = 1_000
    """Between two announcements of one's own, whatever others ask: a signature and a spread each."""
    age_max_ms: _Positive = 600_000
    """After five missed refreshes an announcement is no longer passed on nor accepted. Shorter lives would leave a node
    too few honest ones to choose from: it is told of about a hundred a minute, most of them known."""
    skew_max_ms: _Positive = 120_000
    """How far a clock may be ahead. One that lags by less than the age limit is heard too."""

    probe_ms: _Positive = 500
    """Between probes; each neighbour's turn comes every four seconds at eight neighbours."""
    probe_timeout_ms: _Positive = 500
    """For a direct answer; three times the usual round trip where that is longer."""
    helpers: _Positive = 3
    """Asked to probe in one's stead. At 10 % loss all three paths fail in 4 % of cases."""
    helpers_timeout_ms: _Positive = 1_000
    suspicion_ms: _Positive = 3_000
    """How long a suspect has to be heard, itself or by a later announcement; it is probed again in that time."""

    hurried_ms: _Positive = 1_000
    """First gap between shuffles, and between candidates. Each next one is a quarter longer, up to the usual, so that
    a newcomer mixes with all within a minute or so instead of staying with the friends of its contact."""
    shuffle_ms: _Positive = 10_000
    shuffle_bytes_max: _Positive = 8_192
    """Of announcements in one message: the usual eight fit twice, the largest eight do not."""
    shuffle_timeout_ms: _Positive = 5_000
    farewells_max: _Positive = 2
    """Farewells told on in one shuffle."""

    courted_max: _Positive = 4
    """Candidates probed at once while the view is short."""
    rotation_ms: _Positive = 15_000
    """Between candidates once the view is full: a random link lives 75 s, and connections opened stay few."""
    courtship_timeout_ms: _Positive = 1_500
    reunion_ms: _Positive = 15_000
    """Between attempts to find one that was thought dead: how halves of a partition meet again."""
    contact_ms: _Positive = 600_000
    """Between visits to the contacts of one's own start, which all visit."""

    acquaintances_bytes_per_s: _Positive = 131_072
    """Received from and answered to nodes that one knows, in sum: a hundred times the usual."""
    strangers_bytes_per_s: _Positive = 131_072
    """The same for all strangers together: about 25 joins a second."""
    burst_bytes: _Positive = 262_144
    """What either may use at once after a pause."""
    relays_max: _Positive = 16
    """Probes under way on behalf of others."""
    watchers_max: _Positive = 32
    """Nodes whose probes came last, and who are told of one's leaving."""

    @property
    def view_max(self) -> int:
        return self.near_links + self.random_links
