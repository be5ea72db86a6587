"""A provider's own rules: when it sells, to whom, how much of its engine, and at what share of its list prices.

They stay with the provider: the ledger sees the offer, a buyer sees the reason of a decline. Deciding is pure, so that
the same picture always gets the same answer. It knows nothing of the bid's content, and holds nothing.
"""

from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Count, Millis, PartsPerMillion
from wwwmarket.domain.shape import Value

WHOLE_PPM: Final = 1_000_000
WEEK_MINUTES: Final = 7 * 24 * 60
_DAY_MINUTES: Final = 24 * 60
_MINUTE_MS: Final = 60_000
_EPOCH_MINUTE: Final = 3 * _DAY_MINUTES
"""1970-01-01 was a Thursday, and weeks begin on Monday."""
WINDOWS_MAX: Final = 256
ACCOUNTS_MAX: Final = 65_536

Curve: TypeAlias = Literal["linear", "convex"]
"""How the price rises from floor to cap with the load (0 to 1): in proportion to it, or to its square.

Under the convex curve the first half of the load costs a quarter of the rise: idle capacity stays cheap for longer.
"""


class Window(Value):
    """Minutes of the week since Monday 00:00 UTC, the end excluded. One that ends before it begins spans Sunday night.

    Raises:
        Malformed: it lies outside the week, or is empty.
    """

    from_minute: Count
    until_minute: Count

    def __post_init__(self) -> None:
        if not (0 <= self.from_minute < WEEK_MINUTES and 0 <= self.until_minute <= WEEK_MINUTES):
            raise Malformed(f"a window lies within the week's {WEEK_MINUTES} minutes")
        if self.from_minute == self.until_minute:
            raise Malformed("a window that ends where it begins is empty")

    def covers(self, minute: int) -> bool:
        if self.from_minute < self.until_minute:
            return self.from_minute <= minute < self.until_minute
        return minute >= self.from_minute or minute < self.until_minute


class Picture(Protocol):
    """What a policy may go by when a bid comes: the time, who asks, and what the engine has to do."""

    @property
    def at_ms(self) -> Millis: ...
    @property
    def client(self) -> AccountId: ...
    @property
    def sold(self) -> Count:
        """Executions for the market, in sequences."""
        ...

    @property
    def own_running(self) -> Count:
        """Sequences on the engine that are not the market's."""
        ...

    @property
    def own_waiting(self) -> Count: ...
    @property
    def sequences(self) -> Count:
        """On offer at once."""
        ...


class Policy(Value):
    """Everything is allowed that no field forbids. Shares are parts per million.

    Raises:
        Malformed: a share out of range, a floor above the cap, an account both served and not, too many of anything.
    """

    schedule: tuple[Window, ...] = ()
    """When it sells; empty: always."""
    only: frozenset[AccountId] = frozenset()
    """Whom it serves; empty: everybody."""
    never: frozenset[AccountId] = frozenset()
    share_ppm: PartsPerMillion = WHOLE_PPM
    """Of the sequences on offer that the market may fill, at least one; the rest is for own traffic."""
    target_ppm: PartsPerMillion | None = None
    """Of the sequences on offer, how many may be busy with anybody's work before selling pauses; None: any number."""
    own_running_max: Count | None = None
    """Own sequences that may run before selling pauses; None: any number."""
    own_waiting_max: Count | None = None
    accept_ppm: PartsPerMillion = WHOLE_PPM
    """Of bids that are answered: published in the offer, since it says how much an offer is worth asking."""
    floor_ppm: PartsPerMillion = WHOLE_PPM
    """Of the list prices, asked when idle."""
    cap_ppm: PartsPerMillion = WHOLE_PPM
    """Of the list prices, asked when full."""
    curve: Curve = "linear"

    def __post_init__(self) -> None:
        shares = {
            "share": self.share_ppm,
            "target": WHOLE_PPM if self.target_ppm is None else self.target_ppm,
            "accept": self.accept_ppm,
            "floor": self.floor_ppm,
            "cap": self.cap_ppm,
        }
        for name, share_ppm in shares.items():
            if not 0 <= share_ppm <= WHOLE_PPM:
                raise Malformed(f"{name} is a share: from 0 to 1", param=name)
        if self.floor_ppm > self.cap_ppm:
            raise Malformed("the floor of the price is above its cap", param="floor")
        if 0 in {self.share_ppm, self.target_ppm}:
            raise Malformed("a share or target of nothing sells nothing", param="share")
        if self.only & self.never:
            raise Malformed("an account is both among those served and those never served", param="never")
        if len(self.schedule) > WINDOWS_MAX or len(self.only) + len(self.never) > ACCOUNTS_MAX:
            raise Malformed(f"at most {WINDOWS_MAX} windows and {ACCOUNTS_MAX} accounts", param="schedule")
        if min(self.own_running_max or 0, self.own_waiting_max or 0) < 0:
            raise Malformed("own work is counted from 0", param="own_running_max")

    def decide(self, picture: Picture) -> str | None:
        """None: accept. Otherwise why not, in words for the buyer."""
        for_sale = max(1, picture.sequences * self.share_ppm // WHOLE_PPM)
        busy_ppm = (picture.sold + picture.own_running) * WHOLE_PPM // picture.sequences
        checks = (
            (not self._is_open(picture.at_ms), "outside the hours in which the provider sells"),
            (not self._serves(picture.client), "the provider does not serve this account"),
            (_exceeds(picture.own_running, self.own_running_max), "the provider's own traffic comes first"),
            (_exceeds(picture.own_waiting, self.own_waiting_max), "the provider's own traffic is waiting"),
            (picture.sold >= for_sale, f"all {for_sale} sequences for sale are busy"),
            (
                self.target_ppm is not None and busy_ppm >= self.target_ppm,
                "the engine is as busy as its provider wants it",
            ),
        )
        return next((reason for failed, reason in checks if failed), None)

    def price_ppm(self, sold: Count, sequences: Count) -> PartsPerMillion:
        """The share of the list prices to ask for with so many of the sequences sold, rounded down."""
        load, full = min(sold, sequences), sequences
        if self.curve == "convex":
            load, full = load * load, full * full
        return self.floor_ppm + (self.cap_ppm - self.floor_ppm) * load // full

    def _is_open(self, at_ms: Millis) -> bool:
        minute = (at_ms // _MINUTE_MS + _EPOCH_MINUTE) % WEEK_MINUTES
        return not self.schedule or any(window.covers(minute) for window in self.schedule)

    def _serves(self, client: AccountId) -> bool:
        return client not in self.never and (not self.only or client in self.only)


def daily(from_minute: int, until_minute: int, days: range = range(7)) -> tuple[Window, ...]:
    """A window on each of ``days`` (0 is Monday), in minutes of the day; one that ends before it begins ends next day.

    Raises:
        Malformed: as Window.
    """
    lasts = (until_minute - from_minute) % _DAY_MINUTES or _DAY_MINUTES
    begins = [day * _DAY_MINUTES + from_minute for day in days]
    return tuple(Window(from_minute=begin, until_minute=_end(begin + lasts)) for begin in begins)


def _end(minute: int) -> int:
    return minute if minute <= WEEK_MINUTES else minute - WEEK_MINUTES


def _exceeds(count: int, most: int | None) -> bool:
    return most is not None and count > most


_CHEAP_WHEN_IDLE: Final = 500_000
"""An idle engine that earns half its list price earns more than one that waits."""

PRESETS: Final = MappingProxyType(
    {
        "always": Policy(floor_ppm=_CHEAP_WHEN_IDLE),
        "idle-only": Policy(floor_ppm=_CHEAP_WHEN_IDLE, own_running_max=0, own_waiting_max=0),
        "night": Policy(floor_ppm=_CHEAP_WHEN_IDLE, schedule=daily(20 * 60, 6 * 60)),
        # WWW.Serve's provider: it accepts 0.8 of what it is asked while its users' queue is empty and its engine is
        # under target. Its offload and queue frequencies are about where a request goes, which the auction decides.
        "wwwserve": Policy(accept_ppm=800_000, target_ppm=700_000, own_waiting_max=0),
    }
)
"""Policies by name. Hours are UTC."""
