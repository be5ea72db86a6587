"""Keys on a disk: never overwritten, never half written, never readable by others."""

import os
import stat
import threading

import pytest
from platformdirs import user_data_path

from wwwmarket.adapters.keystore import KeyStore, write_new
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, NotFound, TooLarge, Unauthorised

KEY = KeyPair(bytes(range(32)))
OTHER = KeyPair(bytes(32))
PASSPHRASE = b"correct horse"


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_comes_back_from_the_disk(store):
    """Another store over the same directory loads what was created."""
    path = store.create("node", KEY, PASSPHRASE)
    assert path == store.path("node")
    assert KeyStore(store.directory).load("node", PASSPHRASE).account == KEY.account
    assert store.is_encrypted("node")


def test_a_key_is_for_its_owner_alone(store):
    """The file is 0600 and the directory 0700, whatever the umask."""
    before = os.umask(0)
    try:
        path = store.create("node", KEY, None)
    finally:
        os.umask(before)
    assert (mode(path), mode(store.directory)) == (0o600, 0o700)
    assert not store.is_encrypted("node")


def test_a_key_is_never_overwritten(store):
    """A taken name is a conflict, and the key that was there stays; nothing else is left behind."""
    store.create("node", KEY, None)
    with pytest.raises(Conflict):
        store.create("node", OTHER, None)
    assert store.load("node", None).account == KEY.account
    assert [path.name for path in store.directory.iterdir()] == ["node.pem"]


def test_of_many_creators_one_wins(store):
    """Creation is atomic: of eight at once exactly one keeps its key, and it is whole."""
    won = []

    def create(number):
        try:
            store.create("node", KeyPair(bytes([number]) * 32), None)
        except Conflict:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.load("node", None).seed[0]] == won


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_read_is_refused_with_advice(store, loose):
    """A loose file may have been copied: its owner is told what to do."""
    store.create("node", KEY, None).chmod(loose)
    with pytest.raises(Forbidden, match="chmod 600"):
        store.load("node", None)


@pytest.mark.parametrize("loose", [0o770, 0o702, 0o777])
def test_a_directory_that_others_can_write_takes_no_key(store, loose):
    """Whoever can write to the directory can put another key in the place of this one."""
    store.directory.mkdir()
    store.directory.chmod(loose)
    with pytest.raises(Forbidden, match="chmod 700"):
        store.create("node", KEY, None)
    assert not list(store.directory.iterdir())


@pytest.mark.parametrize("name", ["", "../node", "a/b", ".hidden", "Node", "a.b", "a\n", "x" * 65, "nöde"])
def test_what_is_not_a_name_is_malformed(store, name):
    """A name never leads out of the directory."""
    for use in (
        lambda: store.create(name, KEY, None),
        lambda: store.load(name, None),
        lambda: store.has_backup(name, KEY.account),
    ):
        with pytest.raises(Malformed):
            use()


def test_a_key_that_is_not_there_is_not_found(store):
    """The message says how to make one."""
    with pytest.raises(NotFound, match="keys create"):
        store.load("node", None)


def test_a_wrong_passphrase_or_a_huge_file_is_refused(store):
    """The refusals of the key file's format come through."""
    path = store.create("node", KEY, PASSPHRASE)
    with pytest.raises(Unauthorised):
        store.load("node", b"another one")
    path.write_bytes(b"x" * 1_000_000)
    with pytest.raises(TooLarge):
        store.load("node", None)


def test_a_passphrase_out_of_bounds_leaves_nothing(store):
    """Refused before anything is made on the disk."""
    with pytest.raises(Malformed):
        store.create("node", KEY, b"short")
    assert not store.directory.exists()


def test_a_backup_counts_for_the_key_it_was_made_of(store):
    """Recorded per account, kept for its owner alone, and void when another key takes the name."""
    store.create("node", KEY, None)
    assert not store.has_backup("node", KEY.account)
    store.record_backup("node", KEY.account, "words")
    store.record_backup("node", KEY.account, "file")
    assert store.has_backup("node", KEY.account)
    assert not store.has_backup("node", OTHER.account)
    sidecar = store.directory / "node.backup.json"
    assert mode(sidecar) == 0o600
    sidecar.write_bytes(b"{}")
    assert not store.has_backup("node", KEY.account)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """Where the data cannot be written, no part of it stays."""
    with pytest.raises(TypeError):
        write_new(tmp_path / "file", "not bytes")
    assert not list(tmp_path.iterdir())


def test_the_default_directory_is_the_user_s_own():
    """Without a directory, keys go where the platform keeps a user's data; nothing is made before it is needed."""
    assert KeyStore().directory == user_data_path("wwwmarket") / "keys"
