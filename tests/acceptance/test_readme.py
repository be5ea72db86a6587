"""Every command of the README does what it says there."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
READY_WITHIN_S = 60
SERVERS = ("wwwmarket node run", "wwwmarket provider join")


def blocks(language):
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Reader:
    """Somebody who types what the README says, in a home of their own, on a port that is free."""

    def __init__(self, home):
        self.home, self.port, self.servers = home, free_port(), []
        self.key = self.award = None
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "WWWMARKET_GATEWAY": f"http://127.0.0.1:{self.port}",
        }

    def words(self, line):
        text = line.replace(":8080", f":{self.port}")
        text = text.replace("sk-...", self.key or "sk-...").replace("AWARD", self.award or "AWARD")
        return [sys.executable, "-m", *shlex.split(text)]

    def serve(self, line):
        """Start a command that stays, and wait until it says that it serves."""
        ready = self.home / f"ready-{len(self.servers)}.json"
        words = [*self.words(line), "--ready-file", str(ready)]
        if "node run" in line:
            words += ["--port", str(self.port)]
        with (self.home / f"{len(self.servers)}.log").open("wb") as log:
            server = subprocess.Popen(words, env=self.environment, cwd=self.home, stdout=log, stderr=log)
        self.servers.append(server)
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready.exists():
            assert server.poll() is None, (self.home / f"{len(self.servers) - 1}.log").read_text()
            assert time.monotonic() < deadline, f"not ready in time: {line}"
            time.sleep(0.05)

    def run(self, line):
        done = subprocess.run(
            self.words(line),
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        self.key = self.key or next(iter(re.findall(r"sk-[\w-]{20,}", done.stdout + done.stderr)), None)
        if "wwwmarket bid" in line:
            self.award = re.search(r"[0-9a-f]{64}", done.stderr)[0]
        return done.stdout

    def close(self):
        for server in reversed(self.servers):
            server.send_signal(signal.SIGINT)
            server.wait(40)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("reader"))
    try:
        yield reader
    finally:
        reader.close()


def test_the_readme_can_be_followed_line_by_line(reader):
    """Founding, selling, buying, explaining, the OpenAI client and the audit work in the order in which they stand."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("wwwmarket ")]
    assert len(lines) >= 8
    said = {}
    for line in lines:
        if line.startswith(SERVERS):
            reader.serve(line)
        else:
            said[line.split()[1]] = reader.run(line)
    assert "won" in said["explain"]
    assert said["audit"].rstrip().endswith("audit: pass")
    (script,) = blocks("python")
    script = script.replace(":8080", f":{reader.port}").replace("sk-...", reader.key)
    done = subprocess.run(
        [sys.executable, "-c", script], env=reader.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cost_micro" in done.stdout


def test_the_set_up_commands_are_those_of_the_makefile():
    """The two commands that a newcomer types are targets that exist."""
    makefile = (README.parent / "Makefile").read_text()
    made = [line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")]
    assert made == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in made)


def test_every_room_of_the_map_is_there():
    """Each path that the README's map names exists."""
    rows = re.findall(r"^\| (`[^|]+) \|", README.read_text(), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    root = README.parent
    missing = [path for path in paths if not (root / path).exists() and not (root / "wwwmarket" / path).exists()]
    assert missing == []
