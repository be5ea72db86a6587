"""Stories of the market's machines: each line of a transcript is an event, each indented line an effect of it.

``WWWMARKET_REWRITE=1`` writes what happens now into the transcripts, for a person to read and compare.
"""

import os
from pathlib import Path

import pytest

from tests.transcripts.stages import STAGES

FOLDER = Path(__file__).parent
REWRITE = os.environ.get("WWWMARKET_REWRITE") == "1"


def play(text: str, machine: str) -> str:
    """The transcript with the effects that its events have."""
    stage = STAGES[machine]()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"  {effect}" for effect in stage.do(line.split())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.txt")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_story_goes_as_it_is_told(path):
    """The events of a transcript have the effects that are written below them, and no others."""
    told = path.read_text()
    happened = play(told, path.parent.name)
    if REWRITE:
        path.write_text(happened)
    assert happened == told
