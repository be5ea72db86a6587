"""The page of limits says what the code does, and leaves none of the doors' limits out."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from wwwmarket.adapters.transport import TransportLimits
from wwwmarket.config import MirrorConfig
from wwwmarket.gateway.config import GatewayConfig

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROWS = re.findall(r"^\| [^|]+ \| ([0-9][0-9,.]*) \| `([\w.]+)` \|$", PAGE, re.MULTILINE)


def chosen(path: str) -> float:
    """A constant of a module, a field of a value there, or the default of a field of a class there."""
    names = path.split(".")
    depth = next(place for place, name in enumerate(names) if name != name.lower())
    found = importlib.import_module(".".join(["wwwmarket", *names[:depth]]))
    for name in names[depth:]:
        found = getattr(found() if isinstance(found, type) else found, name)
    return found


@pytest.mark.parametrize(("limit", "path"), ROWS, ids=[path for _, path in ROWS])
def test_the_page_says_what_is_chosen(limit: str, path: str) -> None:
    """Change a limit, and the page with it."""
    assert f"{chosen(path):,}" == limit


@pytest.mark.parametrize("kind", [GatewayConfig, MirrorConfig, TransportLimits])
def test_no_limit_of_a_door_is_left_out(kind: type) -> None:
    """Each of its fields has a row: write one in docs/limits.md for a new field."""
    fields = (
        {each.name for each in dataclasses.fields(kind)}
        if dataclasses.is_dataclass(kind)
        else set(kind.__struct_fields__)
    )
    told = {path.rpartition(".")[2] for _, path in ROWS if path.split(".")[-2] == kind.__name__}
    assert told == fields


def test_every_row_of_the_page_is_checked() -> None:
    """A row of another form would say what it likes."""
    assert PAGE.count("\n| ") - PAGE.count("\n| what |") == len(ROWS)
