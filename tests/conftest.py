"""What every test may ask for, and what no test may leave behind."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

settings.register_profile("local", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if IN_CI else "local")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of another project's tools where they are missing; in CI nothing may be missing."""
    for marker in item.iter_markers("foreign"):
        missing = [
            tool
            for tool in marker.args
            if not (shutil.which(tool) or (Path(tool).is_absolute() and Path(tool).exists()))
        ]
        if missing and IN_CI:
            pytest.fail(f"missing in CI: {', '.join(missing)}", pytrace=False)
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: `make foreign-tools` installs it where apt is at hand")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """At the end no thread and no child process of a test is alive."""
    threads = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=0 if thread.daemon else 5)
    stray = [thread.name for thread in set(threading.enumerate()) - threads if not thread.daemon]
    assert not stray, f"threads left running: {stray}"
    children = [command for command in _children() if "multiprocessing" not in command]
    assert not children, f"processes left running: {children}"


@pytest.fixture(scope="session")
def go_verify(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Builds the foreign verifier of logs once; gives what runs it over a folder of an exported log."""
    program = tmp_path_factory.mktemp("go") / "verify"
    source = ROOT / "tests" / "foreign" / "go" / "verify.go"
    offline = {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOFLAGS": "",
        "GOCACHE": str(program.parent / "cache"),
    }
    built = subprocess.run(
        ["go", "build", "-o", program, source], env=os.environ | offline, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return lambda folder: subprocess.run([program, folder], capture_output=True, text=True, check=False, timeout=60)


def _children() -> list[str]:
    """The command lines of this process's children (Linux; elsewhere none are seen)."""
    found = []
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in listing.read_text().split():
            command = Path("/proc", child, "cmdline")
            if command.exists():
                found.append(
                    command.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or f"zombie {child}"
                )
    return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``wwwmarket`` program of a stranger: the wheel with its engines, in a fresh environment far from the checkout."""
    venv = tmp_path_factory.mktemp("stranger") / "venv"
    elsewhere = venv.parent
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, cwd=elsewhere)
    subprocess.run(
        [venv / "bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[engines]"],
        check=True,
        cwd=elsewhere,
    )
    return venv / "bin/wwwmarket"
