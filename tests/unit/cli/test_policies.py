"""Policies as people write them: presets by name, files in TOML, and mistakes that say where they are."""

import pytest
import typer

from wwwmarket.cli import policies
from wwwmarket.cli.policies import parse_policy, read_policy
from wwwmarket.cli.provider import _adjusted
from wwwmarket.domain.errors import Malformed
from wwwmarket.market.policy import PRESETS, Policy, Window

ACCOUNT = "a" * 64

WHOLE = f"""
preset = "idle-only"
schedule = ["mon-tue 20:00-06:00", "sun 12:30-24:00"]
only = ["{ACCOUNT}"]
never = ["{"b" * 64}"]
share = 0.5
target = 0.9
own_running_max = 2
own_waiting_max = 1
accept = 0.8
floor = 0.25
cap = 1
curve = "convex"
"""


def test_every_key_of_a_file_is_read():
    """Shares are decimals, windows are hours of days, and what is said comes before the preset."""
    assert read_policy(WHOLE.encode()) == Policy(
        schedule=(
            Window(from_minute=1_200, until_minute=1_800),
            Window(from_minute=2_640, until_minute=3_240),
            Window(from_minute=9_390, until_minute=10_080),
        ),
        only=frozenset({ACCOUNT}),
        never=frozenset({"b" * 64}),
        share_ppm=500_000,
        target_ppm=900_000,
        own_running_max=2,
        own_waiting_max=1,
        accept_ppm=800_000,
        floor_ppm=250_000,
        cap_ppm=1_000_000,
        curve="convex",
    )


def test_a_preset_is_a_policy(tmp_path):
    """By its name, and as what a file begins with."""
    assert parse_policy("night") == PRESETS["night"]
    (tmp_path / "mine.toml").write_text('preset = "night"\n')
    assert parse_policy(str(tmp_path / "mine.toml")) == PRESETS["night"]
    assert read_policy(b"") == PRESETS["always"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"share = ", "not a policy"),
        (b"\xff", "not a policy"),
        (b"shares = 0.5", "shares"),
        (b"share = 1.5", "share"),
        (b"share = 0.1234567", "share"),
        (b"share = nan", "share"),
        (b"share = 0.0", "sells nothing"),
        (b"floor = 0.9\ncap = 0.8", "above its cap"),
        (b'curve = "steep"', "steep"),
        (b'only = ["me"]', "only"),
        (b"own_running_max = -1", "own_running_max"),
        (b'preset = "sometimes"', "sometimes"),
        (b'schedule = ["monday 20:00-06:00"]', "monday"),
        (b'schedule = ["fri-mon 20:00-06:00"]', "Monday"),
        (b'schedule = ["mon 24:30-06:00"]', "24:30"),
        (b'schedule = ["mon 10:60-11:00"]', "10:60"),
        (b'schedule = ["mon 24:00-06:00", "sun 24:00-06:00"]', "window"),
    ],
)
def test_a_mistake_in_a_file_says_where_it_is(written, says):
    """Each mistake is refused with the key or the value at fault."""
    with pytest.raises(Malformed, match=says):
        read_policy(written)


def test_a_mistake_names_its_file(tmp_path):
    """Which file is wrong, and that a name is no preset."""
    (tmp_path / "mine.toml").write_text("share = 2\n")
    with pytest.raises(typer.BadParameter, match=r"mine\.toml: share"):
        parse_policy(str(tmp_path / "mine.toml"))
    with pytest.raises(typer.BadParameter, match="idle-only"):
        parse_policy("sometimes")
    with pytest.raises(typer.BadParameter, match="no file"):
        parse_policy(str(tmp_path))


def test_a_file_without_end_is_refused(monkeypatch):
    """No more is read than a policy may have."""
    monkeypatch.setattr(policies, "FILE_BYTES_MAX", 10)
    with pytest.raises(typer.BadParameter, match="at most 10 bytes"):
        parse_policy("/dev/zero")


def test_flags_come_before_the_policy():
    """What the command line says of floor and acceptance replaces what the policy says, and must fit it."""
    adjusted = _adjusted(PRESETS["wwwserve"], 300_000, None)
    assert (adjusted.floor_ppm, adjusted.accept_ppm) == (300_000, 800_000)
    assert _adjusted(PRESETS["always"], None, 1) == Policy(floor_ppm=500_000, accept_ppm=1)
    with pytest.raises(typer.BadParameter):
        _adjusted(Policy(floor_ppm=0, cap_ppm=100_000), 200_000, None)
