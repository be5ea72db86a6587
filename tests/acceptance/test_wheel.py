"""A stranger's install: what the wheel alone can do, in an empty folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wwwmarket import __version__


def run(program: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WWWMARKET", "XDG"))
    }
    return subprocess.run(
        [program, *arguments],
        cwd=home,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_strangers_install_says_its_version(installed_wheel, tmp_path):
    """The installed program runs without the checkout, and is this version."""
    done = run(installed_wheel, "--version", home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wwwmarket {__version__}\n", "")


def test_every_command_of_a_strangers_install_can_be_read(installed_wheel, tmp_path):
    """Each command's help shows, so nothing that it imports is missing from the wheel."""
    from wwwmarket.cli import COMMANDS

    for command in COMMANDS:
        done = run(installed_wheel, command, "--help", home=tmp_path)
        assert done.returncode == 0, done.stderr


def test_an_install_owns_no_top_level_name_but_its_own(installed_wheel, tmp_path):
    """Beside the package and its metadata, the wheel leaves nothing in site-packages."""
    python = installed_wheel.with_name("python")
    probe = "import importlib.util as u; print([n for n in ('contracts', 'migrations', 'tests', 'loadtests') if u.find_spec(n)])"
    assert run(python, "-I", "-c", probe, home=tmp_path).stdout == "[]\n"


def test_a_stranger_can_make_a_key(installed_wheel, tmp_path):
    """A key is made where it was asked for, and shown by its account."""
    made = run(installed_wheel, "keys", "create", "--dir", "mine", "--no-passphrase", "--json", home=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)
    assert any((tmp_path / "mine").iterdir())


@pytest.mark.slow
def test_the_installed_wheel_passes_the_acceptance_tests(installed_wheel, tmp_path):
    """The demo and every test of a running market hold for a stranger's install, in an empty folder."""
    python = installed_wheel.with_name("python")
    tests = [Path(__file__).with_name(name) for name in ("test_demo.py", "test_market.py")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            Path(__file__).parents[2],
            *tests,
        ],
        cwd=tmp_path,
        env=os.environ | {"WWWMARKET_PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:]


def test_the_installed_wheel_runs_the_demo(installed_wheel, tmp_path):
    """Contracts, migrations and the engine travel with the wheel: the demo needs nothing else."""
    done = run(installed_wheel, "demo", "--providers", "2", "--requests", "2", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "audit: pass"
