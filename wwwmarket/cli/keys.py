"""``wwwmarket keys``: make, show, back up and restore the keys that a node, a provider or a client signs with."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from wwwmarket.adapters.keystore import BackupForm, KeyStore, write_new
from wwwmarket.adapters.system import SystemEntropy
from wwwmarket.cli import own_keys
from wwwmarket.cli.output import emit, fail, say
from wwwmarket.crypto import keyfile
from wwwmarket.crypto.signing import SEED_BYTES, KeyPair
from wwwmarket.domain.errors import Malformed, Refusal, Unauthorised

PASSPHRASE_VARIABLE: Final = "WWWMARKET_PASSPHRASE"  # noqa: S105 - the name of the variable

_HELP: Final = f"""Make, show, back up and restore the keys that you sign with.

A key is the account: whoever has it owns what the account owns. 'rotate' puts another in its place; when it is lost,
only a backup helps, or the recovery key that 'account guard' named before.

It is kept in a file that only you can read, encrypted with a passphrase: {PASSPHRASE_VARIABLE}, or asked for.

\b
  wwwmarket keys create                    a key named "node"
  wwwmarket keys backup                    its 24 words: write them on paper
  wwwmarket keys restore < words.txt       the same key, on another machine
  wwwmarket keys show --json               its account, for a program
  wwwmarket keys rotate                    another key for the node's account
"""

_CREATE: Final = """Make a new key. A name that is taken is never overwritten.

\b
  wwwmarket keys create
  wwwmarket keys create --name team-a --dir /srv/market/keys
  wwwmarket keys create --no-passphrase    where the disk is the protection
"""

_SHOW: Final = """Show a key's account and file, and whether a backup was made.

\b
  wwwmarket keys show
  wwwmarket keys show --name team-a --json
"""

_BACKUP: Final = """Print the 24 words from which the key can be made again, or write an encrypted file.

Whoever reads the words has the key: no screenshots, no notes on a phone. Keys derived from this one come back with it.

\b
  wwwmarket keys backup                    then write the words on paper
  wwwmarket keys backup --out node.backup.pem
"""

_RESTORE: Final = """Make a key again from its 24 words on standard input, or from a file of words or of "backup --out".

\b
  wwwmarket keys restore                   then type the words
  wwwmarket keys restore node.backup.pem --name node
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command(help=own_keys.ROTATE)(own_keys.rotate)
app.command(help=own_keys.CONSENT)(own_keys.consent)

Name: TypeAlias = Annotated[str, typer.Option("--name", help="Which key: a-z, 0-9, _ and -.")]
Directory: TypeAlias = Annotated[
    Path | None, typer.Option("--dir", help="Where keys are kept; else your user data directory.")
]
NoPassphrase: TypeAlias = Annotated[
    bool, typer.Option("--no-passphrase", help="The key file is not encrypted: its disk is the protection.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]


@app.command(help=_CREATE)
def create(
    *, name: Name = "node", directory: Directory = None, no_passphrase: NoPassphrase = False, json: Json = False
) -> None:
    with _refusals_told():
        store = KeyStore(directory)
        store.path(name)
        passphrase = None if no_passphrase else _passphrase("New passphrase", twice=True)
        key = KeyPair(SystemEntropy().bytes(SEED_BYTES))
        store.create(name, key, passphrase)
        _show(store, name, key, json=json)


@app.command(help=_SHOW)
def show(
    *, name: Name = "node", directory: Directory = None, no_passphrase: NoPassphrase = False, json: Json = False
) -> None:
    with _refusals_told():
        store = KeyStore(directory)
        _show(store, name, _load(store, name, no_passphrase=no_passphrase), json=json)


@app.command(help=_BACKUP)
def backup(
    *,
    name: Name = "node",
    directory: Directory = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write an encrypted file here instead of the words.", dir_okay=False)
    ] = None,
    no_passphrase: NoPassphrase = False,
    json: Json = False,
) -> None:
    with _refusals_told():
        store = KeyStore(directory)
        key = _load(store, name, no_passphrase=no_passphrase)
        if out is None:
            words = keyfile.to_words(key)
            emit({"name": name, "account": key.account, "words": words.split()} if json else words, json)
            sys.stdout.flush()
            store.record_backup(name, key.account, "words")
            say("Write these words on paper, in this order. Whoever reads them has the key.")
        else:
            write_new(out, keyfile.encode(key, _passphrase("Passphrase of the backup", twice=True)))
            store.record_backup(name, key.account, "file")
            emit({"name": name, "account": key.account, "file": str(out)}, json)


@app.command(help=_RESTORE)
def restore(
    *,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Words, or a file of 'backup --out'.", exists=True, dir_okay=False),
    ] = None,
    name: Name = "node",
    directory: Directory = None,
    no_passphrase: NoPassphrase = False,
    json: Json = False,
) -> None:
    with _refusals_told():
        store = KeyStore(directory)
        store.path(name)
        key, form = _recover(_read(source))
        passphrase = None if no_passphrase else _passphrase("New passphrase", twice=True)
        store.create(name, key, passphrase)
        store.record_backup(name, key.account, form)
        _show(store, name, key, json=json)


@contextmanager
def _refusals_told() -> Iterator[None]:
    """A refusal, or what the disk answers, in one line on stderr; exit code 1."""
    try:
        yield
    except Refusal as refusal:
        fail(refusal.message)
    except OSError as error:
        fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))


def _show(store: KeyStore, name: str, key: KeyPair, *, json: bool) -> None:
    backed_up = store.has_backup(name, key.account)
    emit(
        {
            "name": name,
            "account": key.account,
            "file": str(store.path(name)),
            "encrypted": store.is_encrypted(name),
            "backup": backed_up,
        },
        json,
    )
    if not backed_up:
        say(f"No backup of this key exists, and a lost key is a lost account: wwwmarket keys backup --name {name}")


def _load(store: KeyStore, name: str, *, no_passphrase: bool) -> KeyPair:
    asks = store.is_encrypted(name) and not no_passphrase
    return store.load(name, _passphrase(f"Passphrase of {name}") if asks else None)


def _recover(text: bytes) -> tuple[KeyPair, BackupForm]:
    """The key in ``text``, and the form of backup that it is."""
    if b"-----BEGIN" in text:
        passphrase = _passphrase("Passphrase of the backup") if keyfile.is_encrypted(text) else None
        return keyfile.decode(text, passphrase), "file"
    try:
        return keyfile.from_words(text.decode()), "words"
    except UnicodeDecodeError:
        raise Malformed("neither words nor a key file") from None


def _read(source: Path | None) -> bytes:
    """A little more than a key can take, from the file, standard input, or the person at the terminal."""
    limit = keyfile.PEM_BYTES_MAX + 1
    if source is not None:
        with source.open("rb") as file:
            return file.read(limit)
    if sys.stdin.isatty():
        return str(typer.prompt("The 24 words", hide_input=True, err=True)).encode()
    return sys.stdin.buffer.read(limit)


def _passphrase(question: str, *, twice: bool = False) -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return os.fsencode(given)
    if not sys.stdin.isatty():
        raise Unauthorised(f"no passphrase: set {PASSPHRASE_VARIABLE}, or run at a terminal to be asked for it")
    return str(typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True)).encode()
