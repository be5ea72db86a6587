"""The rooms: the import rules bite, and the rules that name single modules hold."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = {"domain", "crypto", "ledger", "market", "overlay", "dispatch"}
HOMES = {
    "sqlalchemy": {"adapters"},
    "alembic": {"adapters"},
    "iroh": {"adapters"},
    "httpx": {"adapters", "cli", "client"},
    "httpx2": {"client"},
    "openai": {"cli", "client"},
    "tokenizers": {"adapters"},
    "xllamacpp": {"adapters"},
    "gguf": {"adapters"},
    "nacl": {"crypto", "adapters"},
    "fastapi": {"gateway", "adapters"},  # the emulated engine is served over HTTP, as real ones are
    "starlette": {"gateway", "adapters"},
    "prometheus_client": {"gateway"},
    "aiohttp": {"adapters"},
    "networkx": {"overlay", "simulator"},
    "typer": {"cli"},
    "rich": {"cli"},
}
"""The rooms in which an outside library may be imported."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("wwwmarket", "contracts", include_external_packages=True, cache_dir=None)


def imported_by(graph: grimp.ImportGraph, package: str, prefix: str) -> set[str]:
    """What ``package`` and all in it import directly, as far as it starts with ``prefix``."""
    if package not in graph.modules:
        return set()
    importers = {package, *graph.find_descendants(package)}
    return {
        name
        for importer in importers
        for name in graph.find_modules_directly_imported_by(importer)
        if name.startswith(prefix)
    }


def test_the_gateway_speaks_to_the_node_through_its_service_only(graph):
    """No module of the gateway imports any other part of the node."""
    assert imported_by(graph, "wwwmarket.gateway", "wwwmarket.node") <= {"wwwmarket.node.service"}


def test_adapters_never_see_the_node_or_the_market(graph):
    """No adapter imports the node, the path of a request, the overlay, or the door."""
    for room in ("node", "market", "overlay", "gateway", "simulator"):
        assert imported_by(graph, "wwwmarket.adapters", f"wwwmarket.{room}") == set()


def test_contracts_see_the_words_only(graph):
    """A contract imports the domain, its own parts, and nothing else of ours."""
    assert {
        name for name in imported_by(graph, "contracts", "wwwmarket") if not name.startswith("wwwmarket.domain")
    } == set()


@pytest.mark.parametrize("library", HOMES)
def test_each_outside_library_has_its_home(graph, library):
    """Only the rooms named for a library import it, and bootstrap, which puts all together."""
    if library not in graph.modules:
        return
    rooms = {name.split(".")[1] for name in graph.find_modules_that_directly_import(library)}
    assert rooms <= HOMES[library] | {"bootstrap"}


def test_every_pure_room_is_guarded():
    """Each pure room that exists is named by the import rule for purity."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (guard,) = (contract for contract in contracts if contract["name"].startswith("Pure rooms"))
    there = {f"wwwmarket.{room}" for room in PURE if (ROOT / "wwwmarket" / room / "__init__.py").exists()}
    assert there | {"contracts"} == set(guard["source_modules"])


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path):
    """A copy of the source, to break."""
    for folder in ("wwwmarket", "contracts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("wwwmarket/utils.py", "", "Imports only go down"),
        ("wwwmarket/domain/stray.py", "import wwwmarket.crypto.signing", "Imports only go down"),
        ("wwwmarket/domain/stray.py", "import time", "Pure rooms"),
        ("wwwmarket/market/stray.py", "import random", "Pure rooms"),
        ("wwwmarket/market/stray.py", "import wwwmarket.market.auction", "Steps of a request's path"),
        ("wwwmarket/node/stray.py", "import contracts", "Only rules open the contracts"),
    ],
)
def test_a_broken_rule_breaks_the_build(tree, path, text, rule):
    """import-linter refuses a room that is not on the map, and each import that its rules forbid."""
    (tree / path).write_text(f'"""Stray."""\n{text}\n')
    done = lint(tree)
    broken = [line for line in done.stdout.splitlines() if line.startswith(rule) and line.rstrip().endswith("BROKEN")]
    assert done.returncode == 1, done.stdout
    assert broken or "utils" in done.stdout, done.stdout


def test_a_clock_in_a_pure_room_breaks_the_build(tmp_path):
    """The linter refuses the wall clock and chance outside of their homes, and lets them be at home."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = '"""Stray."""\n\nimport time\nfrom datetime import UTC, datetime\n\nNOW = (time.time(), datetime.now(UTC))\n'
    found = {}
    for room in ("node", "adapters"):
        path = tmp_path / "wwwmarket" / room / "stray.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        program = Path(sys.executable).with_name("ruff")
        found[room] = subprocess.run(
            [program, "check", "--no-cache", "--select", "TID251", path],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.count("TID251")
    assert found == {"node": 2, "adapters": 0}
