"""Options that several commands share, and the way every option is read from the environment too."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.domain.errors import Unauthorised

PORT: Final = 8080
PORT_MAX: Final = 65_535
GATEWAY: Final = f"http://127.0.0.1:{PORT}"

PASSPHRASE_VARIABLE: Final = "WWWMARKET_PASSPHRASE"  # noqa: S105 - the name of the variable
WHOLE_PPM: Final = 1_000_000

_SHARE: Final = re.compile(r"(?P<whole>[01])(?:\.(?P<part>[0-9]{1,6}))?", re.ASCII)


def option(flag: str, says: str, **more: Any) -> Any:
    """An option ``--some-name``, which ``WWWMARKET_SOME_NAME`` sets where the command line does not."""
    variable = "WWWMARKET_" + flag.removeprefix("--").upper().replace("-", "_")
    return typer.Option(flag, help=says, envvar=variable, **more)


Gateway: TypeAlias = Annotated[str, option("--gateway", "Address of a node's gateway.", metavar="URL")]
ApiKey: TypeAlias = Annotated[str, option("--api-key", "An API key of that gateway: sk-…", metavar="KEY")]
Json: TypeAlias = Annotated[bool, option("--json", "Print JSON on stdout, and nothing else there.")]
Data: TypeAlias = Annotated[
    Path | None, option("--data", "Where its key and database are; else your user data directory.", metavar="DIR")
]
ReadyFile: TypeAlias = Annotated[
    Path | None,
    option("--ready-file", "Write a JSON file here when it serves, and remove it at the end.", metavar="FILE"),
]
Bind: TypeAlias = Annotated[
    str, option("--bind", "UDP address for other nodes; port 0 keeps the one of last time.", metavar="HOST:PORT")
]
Advertise: TypeAlias = Annotated[
    list[str] | None,
    option("--advertise", "Where other nodes find it, if not at --bind. Again for each.", metavar="HOST:PORT"),
]
Relays: TypeAlias = Annotated[
    Literal["auto", "always", "never"],
    option("--relays", "Whether other nodes forward to it: where a router is in the way, always or never."),
]
IrohRelay: TypeAlias = Annotated[
    str | None,
    option("--iroh-relay", "An iroh relay server, to punch holes by; the same at both ends.", metavar="URL"),
]
Traces: TypeAlias = Annotated[
    bool,
    option("--traces", "Send spans of requests to the collector at OTEL_EXPORTER_OTLP_ENDPOINT (extra: otel)."),
]
Tokenizers: TypeAlias = Annotated[
    list[str] | None,
    option("--tokenizer", "Recount a model's answers by a tokenizer.json; several times.", metavar="MODEL=FILE"),
]
Host: TypeAlias = Annotated[str, option("--host", "Address that the gateway listens on.")]
Port: TypeAlias = Annotated[int, option("--port", "The gateway's TCP port; 0 takes a free one.", min=0, max=65_535)]
EndWithStdin: TypeAlias = Annotated[
    bool, option("--end-with-stdin", "Leave in order when standard input ends, as it does with the parent's end.")
]


def parse_ports(text: str) -> tuple[int, int]:
    """First and last of a range of ports, written ``4500-4531``. (A typer parser cannot give a pair.)

    Raises:
        typer.BadParameter: not a range of ports.
    """
    low, dash, high = text.partition("-")
    if not (dash and low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) <= PORT_MAX):
        raise typer.BadParameter(f"{text!r} is not a range of ports: write 4500-4531")
    return int(low), int(high)


def parse_share(text: str) -> int:
    """Parts per million from a decimal between 0 and 1, exactly: the ``parser`` of every share's option.

    Raises:
        typer.BadParameter: not such a decimal.
    """
    share = _SHARE.fullmatch(text)
    ppm = int(share["whole"]) * WHOLE_PPM + int((share["part"] or "").ljust(6, "0")) if share else WHOLE_PPM + 1
    if ppm > WHOLE_PPM:
        raise typer.BadParameter(f"{text!r} is not a share: write a decimal from 0 to 1, at most six digits long")
    return ppm


def passphrase_of(data: Path, name: str) -> bytes | None:
    """What opens the key ``name`` under ``data``: from the environment, or asked for where the key needs one.

    Raises:
        Unauthorised: it needs one, and there is nobody to ask.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return os.fsencode(given)
    keys = KeyStore(data / "keys")
    if not keys.path(name).exists() or not keys.is_encrypted(name):
        return None
    if not sys.stdin.isatty():
        raise Unauthorised(f"no passphrase: set {PASSPHRASE_VARIABLE}, or run at a terminal to be asked for it")
    return str(typer.prompt(f"Passphrase of {keys.path(name)}", hide_input=True, err=True)).encode()
