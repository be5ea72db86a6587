"""What the wheel holds."""

from zipfile import ZipFile

import pytest


@pytest.fixture(scope="module")
def names(wheel) -> list[str]:
    with ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_owns_one_top_level_name(names):
    """No contracts, migrations or tests land at the top of a stranger's site-packages."""
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"wwwmarket"}


def test_the_wheel_holds_the_contracts_and_the_migrations(names):
    """Both stand inside the package, under the names that the registry and the store look for."""
    for folder in ("wwwmarket/_contracts/", "wwwmarket/_migrations/"):
        assert any(name.startswith(folder) and name.endswith(".py") for name in names), folder


def test_the_wheel_is_typed_and_licensed(names):
    """The marker of PEP 561 and the licence are in it."""
    assert "wwwmarket/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_source_only(names):
    """Neither compiled files nor what a run leaves behind is shipped."""
    assert [name for name in names if name.endswith((".pyc", ".db", ".pem", ".log"))] == []
