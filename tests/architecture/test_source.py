"""What the text of the source must say, and must not."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPLAYED = ("contracts", "wwwmarket/domain", "wwwmarket/rules", "wwwmarket/ledger")
"""What two replicas must compute alike, to the last bit."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def floats_of(tree: ast.AST) -> list[int]:
    """The lines on which a float is written or named."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        or (isinstance(node, ast.Name) and node.id == "float")
    ]


def divisions_of(tree: ast.AST) -> list[int]:
    """The lines on which ``/`` or ``/=`` divides."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
    ]


@pytest.mark.parametrize("path", sources(*REPLAYED), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_replayed_holds_a_float(path):
    """No float is written or named in what replicas replay."""
    assert floats_of(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", sources("contracts", "wwwmarket/domain"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_contract_divides_into_a_float(path):
    """Contracts divide with // alone, for / makes a float of two integers."""
    assert divisions_of(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("text", ["x = 0.5", "def f(a: float): ...", "x = float(1)", "x = 1j"])
def test_a_float_is_found(text):
    """The look for floats finds each way to write one."""
    assert floats_of(ast.parse(text)) == [1]


@pytest.mark.parametrize("text", ["x = a / b", "x /= 2"])
def test_a_division_is_found(text):
    """The look for divisions finds each way to write one."""
    assert divisions_of(ast.parse(text)) == [1]


@pytest.mark.parametrize("path", sources("wwwmarket", "contracts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path):
    """Each module that holds anything opens with a docstring."""
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


def test_the_commands_of_the_readme_exist():
    """Every make target that the README names is in the Makefile."""
    named = set(re.findall(r"^\s*make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
