"""``wwwmarket mirror``: replay, store and cosign a market's ledger, and sign its committee's decrees."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import typer

from wwwmarket.cli.options import EndWithStdin, Json, ReadyFile, option, passphrase_of
from wwwmarket.cli.output import emit, say
from wwwmarket.cli.serving import Interrupts, run_until_told, write_whole
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.records import Certified, Resolution, Succession

PORT: Final = 8090

_HELP: Final = """Run a mirror: it replays a market's ledger, stores it, and then cosigns it.

A checkpoint that 2f + 1 of a committee's 3f + 1 mirrors have cosigned is final: not even the node that orders the
ledger can change it any more. Four mirrors carry one that lies or is gone.

\b
  wwwmarket mirror init --data m1 --url http://127.0.0.1:8091 > m1.json     once for each mirror
  wwwmarket node run --committee m1.json --committee m2.json …              found the market
  wwwmarket mirror run --data m1 --log http://127.0.0.1:8080 --listen 127.0.0.1:8091
"""

_RUN: Final = """Follow a ledger, verify and replay all of it, store it, cosign it, and serve it, until Ctrl-C.

The log's key is believed at the first start and pinned (--vkey FILE's text pins it at once). Evidence of the log's
faults is kept in DIR/evidence.

\b
  wwwmarket mirror run --data m1 --log http://127.0.0.1:8080 --listen 127.0.0.1:8091
  wwwmarket audit http://127.0.0.1:8091              what a mirror serves is a log like the original
"""

_SIGN: Final = """Sign a proposed decree with this mirror's account key; prints the proposal with its signature.

Read it first: "ledger propose" writes it, you answer for it. Signatures are joined by "ledger decree". A succession is
an oath: stop the mirror before you sign it; it is signed only over what this mirror cosigned last, and only once.

\b
  wwwmarket mirror sign election.json --data m1 > election.m1.json
  wwwmarket ledger decree election.m1.json election.m2.json election.m3.json
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

MirrorData: TypeAlias = Annotated[
    Path | None, option("--data", "Where its key and its copy are; else your user data directory.", metavar="DIR")
]
MirrorName: TypeAlias = Annotated[
    str | None, option("--name", "Its name on every cosignature, best a domain and a path.", metavar="NAME")
]
MirrorStore: TypeAlias = Annotated[
    str | None, option("--store", "Its database: sqlite:/// or postgresql+psycopg://.", metavar="URL")
]


@app.command()
def init(
    *,
    url: Annotated[str, option("--url", "Where the market's node reaches it.", metavar="URL")],
    name: MirrorName = None,
    data: MirrorData = None,
) -> None:
    """Make a mirror's key, and print what a committee has to know of it, as JSON.

    \b
      wwwmarket mirror init --data m1 --name mirror.example.org/m1 --url https://mirror.example.org > m1.json
    """  # noqa: D301 - \b keeps the examples' lines
    from wwwmarket.bootstrap_mirror import MIRROR_KEY, make_member

    where = _data(data)
    where.mkdir(parents=True, exist_ok=True)
    member = make_member(where, name, url, passphrase_of(where, MIRROR_KEY))
    emit(msgspec.to_builtins(member), True)
    say(f"A lost key is a lost seat: wwwmarket keys backup --name {MIRROR_KEY} --dir {(where / 'keys').absolute()}")


@app.command(help=_RUN)
def run(  # noqa: PLR0913 - each is a choice about the mirror
    *,
    log: Annotated[str, option("--log", "Address of the market's node; several with commas.", metavar="URL")],
    data: MirrorData = None,
    listen: Annotated[
        str, option("--listen", "Where it takes checkpoints; port 0 takes a free one.", metavar="HOST:PORT")
    ] = f"127.0.0.1:{PORT}",
    store: MirrorStore = None,
    vkey: Annotated[str | None, option("--vkey", "The log's verifier key, to believe nobody.", metavar="KEY")] = None,
    name: MirrorName = None,
    url: Annotated[str | None, option("--url", "Where others reach it, if not where it listens.")] = None,
    ready_file: ReadyFile = None,
    end_with_stdin: EndWithStdin = False,
    json: Json = False,
) -> None:
    from wwwmarket.bootstrap_mirror import MIRROR_KEY, MirrorSettings

    where = _data(data).absolute()
    where.mkdir(parents=True, exist_ok=True)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise Malformed(f"{listen!r} is no HOST:PORT, such as 127.0.0.1:{PORT}")
    settings = MirrorSettings(
        data=where,
        log=log,
        store=store,
        vkey=vkey,
        host=host.strip("[]"),
        port=int(port),
        name=name,
        url=url,
        passphrase=passphrase_of(where, MIRROR_KEY),
    )
    run_until_told(_serve(settings, ready_file, stdin=end_with_stdin, json=json))


@app.command(help=_SIGN)
def sign(
    proposal: Annotated[Path, typer.Argument(metavar="FILE", help="A proposal of 'ledger propose'.", exists=True)],
    *,
    data: MirrorData = None,
    store: MirrorStore = None,
) -> None:
    from wwwmarket.bootstrap_mirror import MIRROR_KEY, mirror_key, swear
    from wwwmarket.cli.decrees import read_resolution
    from wwwmarket.crypto.signing import certify

    where = _data(data)
    key = mirror_key(where, passphrase_of(where, MIRROR_KEY))
    resolution: Resolution = read_resolution(proposal)
    if isinstance(resolution, Succession):
        sworn = asyncio.run(swear(where, passphrase_of(where, MIRROR_KEY), resolution, store))
        emit(msgspec.to_builtins(sworn), True)
        return
    emit(msgspec.to_builtins(Certified(body=resolution, signatures=(certify(key, resolution),))), True)


def _data(data: Path | None) -> Path:
    from wwwmarket.bootstrap import default_data

    return data or default_data("mirror")


async def _serve(settings: Any, ready_file: Path | None, *, stdin: bool, json: bool) -> None:
    from wwwmarket.bootstrap_mirror import open_mirror

    with Interrupts(stdin=stdin) as interrupts:
        async with open_mirror(settings) as running:
            fields = {
                "mirror": running.door,
                "name": running.member.name,
                "cosigned": running.mirroring.mirror.cosigned_size,
                "data": str(settings.data),
            }
            emit(fields, json)
            sys.stdout.flush()
            say(f"Mirroring {running.mirroring.mirror.log.name} at {running.door}: Ctrl-C to leave.")
            if ready_file is not None:
                write_whole(ready_file, msgspec.json.encode({**fields, "pid": os.getpid()}))
            try:
                await interrupts.wait(_failure(running.working))
            finally:
                if ready_file is not None:
                    await asyncio.to_thread(ready_file.unlink, missing_ok=True)


async def _failure(working: "asyncio.Task[None]") -> None:
    """Returns only by raising: what keeps the mirror from writing."""
    try:
        await asyncio.shield(working)
    except ExceptionGroup as broken:
        raise Conflict(
            f"the mirror stopped, and has signed nothing that it did not store: {broken.exceptions[0]}"
        ) from None
