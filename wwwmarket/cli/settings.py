"""Options from a file: a table for each command, a line for each option. Flags come before the environment, the
environment before the file, and the file before defaults.

    [node.run]
    port = 8081
    bind = "0.0.0.0:4433"

    [provider.join]
    market = "http://10.0.0.5:8080"
    engine = ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from platformdirs import user_config_path

from wwwmarket.domain.errors import Malformed, NotFound

_BYTES_MAX: Final = 65_536


def default_file() -> Path:
    """Where settings are looked for when no file is named; there may be none."""
    return user_config_path("wwwmarket") / "config.toml"


def read_settings(named: Path | None) -> dict[str, Any]:
    """The settings as click's ``default_map``; of no file, none.

    Raises:
        NotFound: the named file is not there, or cannot be read.
        Malformed: not TOML, too long, or a value that no option can have.
    """
    path = named or default_file()
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        if named is None:
            return {}
        raise NotFound(f"there are no settings at {path}") from None
    except OSError as error:
        raise NotFound(f"the settings at {path} cannot be read: {error.strerror}") from None
    if len(data) > _BYTES_MAX:
        raise Malformed(f"the settings at {path} are over {_BYTES_MAX} bytes")
    try:
        return {name: _defaults(value, f"{path}: {name}") for name, value in tomllib.loads(data.decode()).items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"the settings at {path} are not TOML: {error}") from None


def check_settings(command: Any, settings: Mapping[str, Any], where: str) -> None:
    """That every setting is of a command or an option of ``command``, so that no misspelt one is passed over.

    Raises:
        Malformed: one is not; the message names those that are.
    """
    commands = getattr(command, "commands", None)
    known = set(commands) if commands is not None else {param.name for param in command.params}
    for name, value in settings.items():
        if name not in known or isinstance(value, Mapping) is (commands is None):
            choices = ", ".join(sorted(one.replace("_", "-") for one in known))
            raise Malformed(f"the settings name {where}.{name.replace('_', '-')}; {where} has: {choices}")
        if commands is not None:
            check_settings(commands[name], value, f"{where}.{name}")


def _defaults(value: object, where: str) -> object:
    """As a command line would have it: options are text, and some are given several times."""
    match value:
        case dict():
            return {name.replace("-", "_"): _defaults(inner, f"{where}.{name}") for name, inner in value.items()}
        case bool():
            return value
        case str() | int():
            return str(value)
        case list() if all(isinstance(one, str | int) for one in value):
            return [str(one) for one in value]
        case float():
            raise Malformed(f'{where}: write decimals as text, since they are read exactly: "{value}"')
        case _:
            raise Malformed(f"{where}: an option is text, a whole number, true or false, or a list of those")
