"""The keys command as people and programs meet it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli.keys import PASSPHRASE_VARIABLE, app

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-c", "from wwwmarket.cli.keys import app; app()"]
PASSPHRASE = "correct horse"  # noqa: S105 - protects nothing


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Runs ``wwwmarket keys`` in its own directory, with a passphrase in the environment unless told otherwise."""

    def run(*arguments, stdin="", passphrase=PASSPHRASE):
        environment = {PASSPHRASE_VARIABLE: passphrase}
        return CliRunner().invoke(app, [*arguments, "--dir", str(tmp_path / "keys")], input=stdin, env=environment)

    return run


def words_of(result):
    return result.stdout.strip()


def test_create_then_show_tells_the_account(keys, tmp_path):
    """JSON only on stdout, the same both times; the warning that there is no backup goes to stderr."""
    created, shown = keys("create", "--json"), keys("show", "--json")
    assert (created.exit_code, shown.exit_code) == (0, 0)
    assert json.loads(created.stdout) == json.loads(shown.stdout)
    told = json.loads(created.stdout)
    assert told["account"] == KeyStore(tmp_path / "keys").load("node", PASSPHRASE.encode()).account
    assert (told["name"], told["encrypted"], told["backup"]) == ("node", True, False)
    for result in (created, shown):
        assert "keys backup --name node" in result.stderr


def test_a_backup_ends_the_warning_and_restores_the_key(keys):
    """The 24 words make the same account under another name, which needs no backup of its own."""
    account = json.loads(keys("create", "--json").stdout)["account"]
    backup = keys("backup")
    assert len(words_of(backup).split()) == 24
    assert "paper" in backup.stderr
    restored = keys("restore", "--name", "again", "--json", stdin=words_of(backup))
    assert json.loads(restored.stdout)["account"] == account
    for result in (restored, keys("show")):
        assert result.exit_code == 0
        assert "No backup" not in result.stderr


def test_a_backup_as_json_is_a_list_of_words(keys):
    """A program gets the words one by one."""
    keys("create")
    told = json.loads(keys("backup", "--json").stdout)
    assert len(told["words"]) == 24


def test_a_backup_file_is_encrypted_and_restores_the_key(keys, tmp_path):
    """``--out`` never writes a bare key, not even of a key that is kept bare, and never over a file."""
    account = json.loads(keys("create", "--no-passphrase", "--json").stdout)["account"]
    file = tmp_path / "backup.pem"
    assert json.loads(keys("backup", "--out", str(file), "--json").stdout) == {
        "name": "node",
        "account": account,
        "file": str(file),
    }
    assert b"ENCRYPTED" in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    restored = keys("restore", str(file), "--name", "again", "--no-passphrase", "--json")
    assert json.loads(restored.stdout) | {"name": "", "file": ""} == {
        "name": "",
        "account": account,
        "file": "",
        "encrypted": False,
        "backup": True,
    }
    assert keys("backup", "--out", str(file)).exit_code == 1


def test_a_file_of_words_restores_the_key(keys, tmp_path):
    """Words from a file are as good as words on stdin."""
    keys("create")
    (tmp_path / "words.txt").write_text(words_of(keys("backup")))
    assert keys("restore", str(tmp_path / "words.txt"), "--name", "again").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["create"], "", "never overwritten"),
        (["create", "--name", "../x"], "", "name"),
        (["show", "--name", "nobody"], "", "keys create"),
        (["show", "--no-passphrase"], "", "passphrase"),
        (["restore", "--name", "b"], "only three words", "these are 3"),
        (["restore", "--name", "b"], "zoo " * 24, "checksum"),
        (["restore", "--name", "b"], b"\xff\xfe", "neither words nor a key file"),
        (["restore", "--name", "b"], "-----BEGIN PRIVATE KEY-----", "PEM"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(keys, arguments, stdin, says):
    """Nothing on stdout, no traceback, one line that says what to do."""
    keys("create")
    result = keys(*arguments, "--json", stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_passphrase_is_refused_and_not_repeated(keys):
    """The passphrase never comes back in a message."""
    keys("create")
    wrong = "wrong horse"
    result = keys("show", passphrase=wrong)
    assert result.exit_code == 1
    assert "wrong passphrase" in result.stderr
    assert wrong not in result.output


def test_without_a_terminal_a_passphrase_must_be_in_the_environment(keys):
    """A script is told how to give one instead of hanging at a prompt."""
    result = keys("create", passphrase=None)
    assert result.exit_code == 1
    assert PASSPHRASE_VARIABLE in result.stderr


def test_what_the_disk_answers_is_told(keys, tmp_path):
    """A directory that is a file is one line, not a traceback."""
    (tmp_path / "keys").write_text("")
    result = keys("create")
    assert result.exit_code == 1
    assert str(tmp_path / "keys") in result.stderr


@pytest.mark.parametrize("arguments", [["create", "--nonsense"], ["nonsense"], ["restore", "/nowhere/at/all"]])
def test_a_command_line_that_makes_no_sense_is_exit_code_2(keys, arguments):
    """Usage is told apart from refusal."""
    assert keys(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["create", "show", "backup", "restore"])
def test_help_shows_an_example(command):
    """Every command can be learnt from its help."""
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"wwwmarket keys {command}" in result.stdout


def run(tmp_path, *arguments, **extra):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **extra}
    return [*PROGRAM, *arguments], {"env": environment, "cwd": tmp_path}


def test_the_program_itself_keeps_a_key_in_the_user_s_home(tmp_path):
    """One real process: JSON alone on stdout, and no colour where NO_COLOR asks for none, even on request."""
    command, where = run(
        tmp_path, "create", "--json", NO_COLOR="1", FORCE_COLOR="1", **{PASSPHRASE_VARIABLE: PASSPHRASE}
    )
    done = subprocess.run(command, **where, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    file = Path(json.loads(done.stdout)["file"])
    assert file.is_relative_to(tmp_path)
    assert file.is_file()
    assert "No backup" in done.stderr
    command, where = run(tmp_path, "show", NO_COLOR="1", FORCE_COLOR="1", **{PASSPHRASE_VARIABLE: PASSPHRASE})
    shown = subprocess.run(command, **where, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown.stdout + shown.stderr)


def test_at_a_terminal_the_passphrase_is_asked_for_twice_and_not_shown(tmp_path):
    """The questions go to stderr, so that stdout stays JSON; nothing typed is echoed."""
    master, terminal = pty.openpty()
    command, where = run(tmp_path, "create", "--json")
    pipes = {"stdin": terminal, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **where, **pipes, start_new_session=True) as process:
        asked = b""
        for questions in (1, 2):
            while asked.count(b": ") < questions:
                byte = process.stderr.read(1)
                assert byte, asked
                asked += byte
            os.write(master, PASSPHRASE.encode() + b"\n")
        stdout, stderr = process.communicate(timeout=30)
    os.close(master)
    os.close(terminal)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["encrypted"] is True
    assert PASSPHRASE.encode() not in stdout + asked + stderr
