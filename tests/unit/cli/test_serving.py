"""What serves begins anew where its log has gone to another operator, and ends with everything else."""

import pytest

from wwwmarket.cli import serving
from wwwmarket.cli.serving import anew_after_each_succession
from wwwmarket.domain.errors import Conflict, Refusal, Unavailable
from wwwmarket.node.sequencer import SUPERSEDED

GONE = Unavailable("the log has gone to another operator", retry_after_ms=1, reason=SUPERSEDED)
AWAY = Unavailable("nobody answers", retry_after_ms=1)
BROKEN = Conflict("another log")


async def begun_by(monkeypatch, *ends: Refusal | None) -> list[int]:
    """How often it had begun before, at each beginning; each ends as it is told."""
    monkeypatch.setattr(serving, "ANEW_AFTER_S", 0)
    left, begun = list(ends), []

    async def serve(before: int) -> None:
        begun.append(before)
        end = left.pop(0)
        if end is not None:
            raise end

    await anew_after_each_succession(serve)
    return begun


async def test_it_goes_on_over_each_succession_and_waits_for_the_new_operator(monkeypatch):
    """The next operator may not be there yet; in the end it leaves as it is told to."""
    assert await begun_by(monkeypatch, None) == [0]
    assert await begun_by(monkeypatch, GONE, AWAY, GONE, None) == [0, 1, 2, 3]


@pytest.mark.parametrize("ends", [[AWAY], [BROKEN], [GONE, BROKEN]])
async def test_what_is_no_succession_ends_it(monkeypatch, ends):
    """A market that does not answer at the start, and whatever else is wrong, is for people."""
    with pytest.raises(Refusal) as refusal:
        await begun_by(monkeypatch, *ends)
    assert refusal.value is ends[-1]
