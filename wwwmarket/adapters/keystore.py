"""Keys on a disk: one PEM file a key (``crypto.keyfile``), and beside it whether a backup of that key was made.

A key file is written whole or not at all, never over another, and readable by its owner alone.
"""

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from platformdirs import user_data_path

from wwwmarket.crypto import canonical, keyfile
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, NotFound
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.shape import Value

BackupForm: TypeAlias = Literal["words", "file"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_OWNER_ONLY: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class _Backup(Value):
    """Names the account, so that a backup of one key never counts for another under the same name."""

    account: AccountId
    form: BackupForm


class KeyStore:
    """The keys in one directory: ``directory``, or the user's own data directory for wwwmarket."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory: Final = directory or user_data_path("wwwmarket") / "keys"

    def path(self, name: str) -> Path:
        """Where the key ``name`` is or would be. Raises Malformed for what is not a name."""
        if not _NAME.fullmatch(name):
            raise Malformed("a key's name is 1 to 64 of a-z 0-9 _ - and begins with a letter or digit", param="name")
        return self.directory / f"{name}.pem"

    def create(self, name: str, key: KeyPair, passphrase: bytes | None) -> Path:
        """Keep ``key`` as ``name``; ``passphrase`` as in ``keyfile.encode``.

        Raises:
            Conflict: the name is taken.
            Forbidden: others can write to the directory.
            Malformed: what is not a name, or a passphrase out of bounds.
        """
        path = self.path(name)
        pem = keyfile.encode(key, passphrase)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.stat().st_mode & _OTHERS_WRITE:
            raise Forbidden(f"others can write to {self.directory}: run chmod 700 on it, or choose another directory")
        write_new(path, pem)
        return path

    def load(self, name: str, passphrase: bytes | None) -> KeyPair:
        """The key ``name``.

        Raises:
            NotFound: there is none.
            Forbidden: others can read it.
            TooLarge, Unauthorised, Malformed: as ``keyfile.decode``.
        """
        return keyfile.decode(self._read(name), passphrase)

    def promote(self, name: str, to: str) -> None:
        """Keep the key ``name`` as ``to`` from now on, in the place of whatever was kept there, at once or not at all.

        Raises:
            NotFound: there is none.
        """
        try:
            self.path(name).replace(self.path(to))
        except FileNotFoundError:
            raise NotFound(f"there is no key {name} in {self.directory}") from None
        _sync_directory(self.directory)

    def is_encrypted(self, name: str) -> bool:
        """Whether ``load`` needs a passphrase. Raises NotFound and Forbidden as ``load``."""
        return keyfile.is_encrypted(self._read(name))

    def record_backup(self, name: str, account: AccountId, form: BackupForm) -> None:
        """Remember that ``account``, kept as ``name``, has a backup."""
        _replace(self._backup_path(name), canonical.encode(_Backup(account=account, form=form)))

    def has_backup(self, name: str, account: AccountId) -> bool:
        """Whether a backup of ``account``, kept as ``name``, was made."""
        return self.backup_of(name) == account

    def backup_of(self, name: str) -> AccountId | None:
        """Of which account, kept as ``name``, a backup was made. What cannot be read is no backup.

        Raises:
            Malformed: what is not a name.
        """
        path = self._backup_path(name)
        try:
            return canonical.decode(path.read_bytes(), _Backup).account
        except (FileNotFoundError, Malformed):
            return None

    def _backup_path(self, name: str) -> Path:
        return self.path(name).with_suffix(".backup.json")

    def _read(self, name: str) -> bytes:
        path = self.path(name)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & _OTHERS:
                    raise Forbidden(f"others can read the key file {path}: run chmod 600 on it")
                return file.read(keyfile.PEM_BYTES_MAX + 1)
        except FileNotFoundError:
            raise NotFound(f"there is no key {name} in {self.directory}: make one with 'keys create'") from None


def write_new(path: Path, data: bytes) -> None:
    """Write ``data`` to a file that must not exist, for its owner alone; after a crash it is whole or absent.

    Raises:
        Conflict: the file exists.
    """
    written = _write_beside(path, data)
    try:
        os.link(written, path)
    except FileExistsError:
        raise Conflict(f"{path} exists, and a key is never overwritten: choose another name or move it away") from None
    finally:
        written.unlink()
    _sync_directory(path.parent)


def _replace(path: Path, data: bytes) -> None:
    written = _write_beside(path, data)
    written.replace(path)
    _sync_directory(path.parent)


def _write_beside(path: Path, data: bytes) -> Path:
    """A synced file of ``data`` with a name of its own in the directory of ``path``."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    return beside


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
