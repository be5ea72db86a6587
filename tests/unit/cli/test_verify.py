"""``wwwmarket verify``: a file and a policy in, what is proven out."""

import json
import sys

import pytest

from tests.unit.audit.logs import SIGNER
from tests.unit.market.test_light import BALANCE, COMMITTEE, ENTRY, LOG, TRANSFER
from tests.unit.rules.world import CLIENT
from wwwmarket import cli
from wwwmarket.ledger.policy import POLICY_BYTES_MAX, policy_text
from wwwmarket.ledger.proof_file import FILE_BYTES_MAX, encode_proof_file


@pytest.fixture
def verify(monkeypatch, capsys, tmp_path):
    """Runs the command over a file's bytes; gives its exit code, stdout and stderr."""

    def verify(file: bytes | None, *arguments: object, policy: bytes | None = None) -> tuple[int, str, str]:
        if file is not None:
            (tmp_path / "file").write_bytes(file)
        believed = policy_text(SIGNER.verifier, COMMITTEE).encode() if policy is None else policy
        (tmp_path / "policy").write_bytes(believed)
        chosen = ("verify", tmp_path / "file", "--policy", tmp_path / "policy", *arguments)
        monkeypatch.setattr(sys, "argv", ["wwwmarket", *map(str, chosen)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return verify


def test_people_read_what_is_proven(verify):
    """An entry with its author and what it says; a balance with its date; both with who cosigned."""
    code, out, err = verify(ENTRY)
    assert (code, err, out.splitlines()[-1]) == (0, "", "verify: proven")
    assert "10 micro-credits to" in out
    assert "mirror.example/2" in out
    code, out, _ = verify(BALANCE)
    assert (code, out.splitlines()[-1]) == (0, "verify: proven")
    assert "0.99999 credits" in out


def test_programs_read_the_same(verify):
    """With --json the value itself, also where nothing is proven."""
    code, out, _ = verify(BALANCE, "--json")
    done = json.loads(out)
    assert (code, done["verdict"], done["proven"]["balance"]["account"]) == (0, "proven", CLIENT.account)
    code, out, _ = verify(ENTRY.replace(b"index 1\n", b"index 0\n"), "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["proven"]) == (1, "not proven", None)


def test_a_balance_that_is_too_old_is_refused(verify):
    """A proof stays true of its own time; who needs a younger one says so."""
    code, out, _ = verify(BALANCE, "--max-age-s", 60)
    assert (code, out.splitlines()[-1].startswith("verify: too old: it is ")) == (1, True)
    assert verify(BALANCE, "--max-age-s", 10**12)[0] == 0
    assert verify(ENTRY, "--max-age-s", 0)[0] == 0


def test_the_operators_word_alone_is_called_so(verify):
    """Where the policy asks for no witness, it is said on stderr."""
    alone = f"log {SIGNER.verifier.text}\nquorum none\n".encode()
    code, _, err = verify(encode_proof_file(LOG.file(TRANSFER, cosigners=0)), policy=alone)
    assert (code, "word alone" in err) == (0, True)


def test_what_cannot_be_read_leaves_with_2(verify):
    """No file, a policy that is none, a policy without an end."""
    assert verify(None)[0] == 2
    assert verify(ENTRY, policy=b"quorum\n")[0] == 2
    assert verify(ENTRY, policy=b"#" * (POLICY_BYTES_MAX + 10))[0] == 2


def test_a_file_without_an_end_is_read_no_further_than_its_limit(verify):
    """More bytes than a proof may have prove nothing."""
    code, out, _ = verify(ENTRY + b"x" * FILE_BYTES_MAX)
    assert (code, "at most" in out) == (1, True)
