"""Options from a file: after flags and the environment, before defaults, and never passed over in silence."""

import contextlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.cli import load
from wwwmarket.cli.settings import check_settings, default_file, read_settings
from wwwmarket.domain.errors import Malformed, NotFound

NODE = "wwwmarket.cli.node:app"


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


def asked(*arguments: str, **environment: str) -> str:
    """Which gateway a command without one tried to reach."""
    done = subprocess.run(
        [sys.executable, "-m", "wwwmarket", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr.split("http://127.0.0.1:")[1].split(":")[0]


def test_flags_come_before_the_environment_and_that_before_the_file(written):
    """Three ports at which nobody listens tell which setting was followed."""
    file = str(written('[account.show]\ngateway = "http://127.0.0.1:1"\n'))
    assert asked("--config", file, "account", "show") == "1"
    assert asked("account", "show", WWWMARKET_CONFIG=file) == "1"
    assert asked("account", "show", WWWMARKET_CONFIG=file, WWWMARKET_GATEWAY="http://127.0.0.1:2") == "2"
    flag = ("--gateway", "http://127.0.0.1:3")
    assert asked("account", "show", *flag, WWWMARKET_CONFIG=file, WWWMARKET_GATEWAY="http://127.0.0.1:2") == "3"


def test_the_user_s_own_file_is_read_where_none_is_named(tmp_path):
    """At platformdirs' place for configuration."""
    home = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    file = tmp_path / "wwwmarket" / default_file().name
    file.parent.mkdir()
    file.write_text('[account.show]\ngateway = "http://127.0.0.1:4"\n')
    assert asked("account", "show", **home) == "4"


def test_values_are_what_a_command_line_would_say(written):
    """Numbers and lists as text, switches as switches, dashes as in flags."""
    file = written('[node.run]\nport = 8081\nend-with-stdin = true\ncommittee = ["a.json", "b.json"]\n')
    assert read_settings(file) == {
        "node": {"run": {"port": "8081", "end_with_stdin": True, "committee": ["a.json", "b.json"]}}
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"runn": {}},
        {"run": {"prot": "1"}},
        {"run": "8080"},
        {"run": {"port": {"deeper": "1"}}},
        {"keys": {"create": {"nmae": "x"}}},
    ],
    ids=str,
)
def test_a_misspelt_setting_is_named_with_those_that_exist(settings):
    """It is refused, since what is passed over in silence is found too late."""
    with pytest.raises(Malformed, match="has: "):
        check_settings(load(NODE), settings, "node")
    check_settings(load(NODE), {"run": {"port": "1"}, "keys": {"create": {"name": "x"}}}, "node")


@pytest.mark.parametrize("text", ["[node", "[node.run]\nfee = 0.5\n", "[node.run]\nport = 2026-01-01\n", "x" * 70_000])
def test_what_is_no_settings_file_is_malformed(written, text):
    """Not TOML, a float where decimals are exact, a date, a file that is no settings at all."""
    with pytest.raises(Malformed):
        read_settings(written(text))


def test_a_named_file_must_be_there(tmp_path):
    """Only the default one may be missing."""
    with pytest.raises(NotFound):
        read_settings(tmp_path / "none.toml")


@given(noise=st.binary(max_size=200))
def test_noise_is_malformed_and_nothing_else(tmp_path_factory, noise):
    """Whatever bytes the file has, the answer is settings or a refusal."""
    path = tmp_path_factory.mktemp("settings") / "config.toml"
    path.write_bytes(noise)
    with contextlib.suppress(Malformed):
        assert isinstance(read_settings(path), dict)
