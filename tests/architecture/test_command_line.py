"""The frame of the command line: quick to start, exact in what it prints, honest in how it leaves."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket import __version__, cli
from wwwmarket.cli.amounts import credits_text, parse_credits
from wwwmarket.cli.output import emit, fail, printable
from wwwmarket.domain.errors import NotFound
from wwwmarket.domain.quantity import INTEGER_MAX, Slo

HEAVY = {"aiohttp", "fastapi", "sqlalchemy", "uvicorn", "iroh", "cryptography", "httpx", "networkx", "asyncio"}


def start(*arguments: str, **extra: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wwwmarket", *arguments], capture_output=True, text=True, check=False, **extra
    )


def refuse() -> None:
    raise NotFound("no such award")


def interrupt() -> None:
    raise KeyboardInterrupt


def leave(monkeypatch, function) -> int:
    """The exit code of the command line when its command is ``function``."""
    monkeypatch.setitem(cli.COMMANDS, function.__name__, cli.Command(f"{__name__}:{function.__name__}", ""))
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(**{function.__name__: function}))
    monkeypatch.setattr(sys, "argv", ["wwwmarket", function.__name__])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_help_imports_no_framework():
    """`--help` names every command, and imports nothing that only a command needs."""
    probe = (
        "import sys\nfrom wwwmarket.cli import main\nsys.argv = ['wwwmarket', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in cli.COMMANDS)
    assert HEAVY & set(done.stderr.split()) == set()


@pytest.mark.bench
def test_help_takes_a_blink():
    """`--help` takes less than 300 ms of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_ms = 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    print(f"wwwmarket --help: {spent_ms:.0f} ms of processor time")  # noqa: T201 - it is what a bench is for
    assert spent_ms < 300


def test_every_listed_command_exists():
    """No command is listed that cannot be loaded."""
    for command in cli.COMMANDS.values():
        assert cli.load(command.target) is not None


def test_the_version_is_on_stdout():
    """`--version` prints the version, and nothing else."""
    done = start("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wwwmarket {__version__}\n", "")


def test_an_unknown_command_is_the_callers_fault():
    """A command line that makes no sense leaves with 2, and says so on stderr alone."""
    done = start("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nonsense" in done.stderr


def test_a_refusal_is_one_line_on_stderr(monkeypatch, capsys):
    """A refusal leaves with 1 and its message, without a traceback."""
    assert leave(monkeypatch, refuse) == 1
    assert capsys.readouterr() == ("", "wwwmarket: no such award\n")


def test_an_interrupt_leaves_with_130(monkeypatch):
    """Control-C is 128 + SIGINT, as a shell expects."""
    assert leave(monkeypatch, interrupt) == 130


def test_a_reader_that_leaves_is_no_error():
    """When the reader of a pipe has gone, nothing is said about it."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "wwwmarket", "--version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_completion_knows_the_commands(tmp_path: Path):
    """The shell is offered each command's name."""
    environment = os.environ | {"_WWWMARKET_COMPLETE": "complete_bash", "COMP_WORDS": "wwwmarket ", "COMP_CWORD": "1"}
    assert set(cli.COMMANDS) <= set(start(env=environment, cwd=tmp_path).stdout.split())


@given(st.integers(min_value=0, max_value=INTEGER_MAX))
def test_an_amount_survives_being_written(micro):
    """Reading the credits that were written gives the same micro-credits."""
    assert parse_credits(credits_text(micro).replace(",", "")) == micro


@pytest.mark.parametrize(
    ("micro", "text"), [(0, "0.00"), (12, "0.000012"), (1_500_000, "1.50"), (-1, "-0.000001"), (10**12, "1,000,000.00")]
)
def test_credits_are_exact_decimals(micro, text):
    """Micro-credits are written as credits without rounding."""
    assert credits_text(micro) == text


@pytest.mark.parametrize(
    "text", ["", "-1", "1.", ".5", "1e3", "0.0000001", "nan", "1,000", "9999999999", "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_what_is_no_amount_is_refused(text):
    """Signs, exponents, fractions of a micro-credit and amounts beyond the largest are refused."""
    with pytest.raises(typer.BadParameter):
        parse_credits(text)


def test_json_is_the_value_itself(capsys):
    """With JSON the integers stand as they are."""
    emit([Slo(ttft_ms=1, tpot_ms=2)], json=True)
    assert json.loads(capsys.readouterr().out) == [{"ttft_ms": 1, "tpot_ms": 2}]


def test_a_record_shows_amounts_with_their_unit(capsys):
    """For people micro-credits are credits, durations have their unit, and late milliseconds are instants."""
    emit({"max_price_micro": 20_000, "slo": Slo(ttft_ms=1500, tpot_ms=2), "created_ms": 1_700_000_000_000}, json=False)
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    shown = {line[0].strip(): line[-1].strip() or " ".join(part.strip() for part in line[1:]).strip() for line in lines}
    assert shown["max price"] == "0.02 credits"
    assert "1,500 ms" in shown["slo ttft"]
    assert "2023-11-14 22:13:20.000Z" in shown["created"]


def test_several_records_are_a_table(capsys):
    """Rows share one heading, and the unit stands in it."""
    emit([{"name": "a", "balance_micro": 1}, {"name": "[red]b", "balance_micro": None}], json=False)
    shown = capsys.readouterr().out
    assert "balance (credits)" in shown
    assert "0.000001" in shown
    assert "[red]b" in shown


def test_nothing_to_show_is_a_message(capsys):
    """An empty list leaves stdout empty."""
    emit([], json=False)
    assert capsys.readouterr() == ("", "Nothing to show.\n")


def test_a_stranger_cannot_steer_the_terminal(capsys):
    """Control characters of others' texts are shown, not obeyed."""
    emit([{"name": "\x1b]0;owned\x07"}], json=False)
    with pytest.raises(SystemExit):
        fail("two\nlines \u202e")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert err == "wwwmarket: two\\nlines \\u202e\n"


@given(st.text())
def test_printable_text_stays_on_one_line(text):
    """Whatever a text holds, what is printed of it holds no control character."""
    assert printable(text).isprintable()
