"""Tokenizers are read from files, and are the ones that were pinned."""

from hashlib import sha256

import pytest

from wwwmarket.adapters.tokenizer_files import open_tokenizers
from wwwmarket.domain.errors import Conflict, Malformed, NotFound

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def file(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "river": 1, "sea": 2}, unk_token="[UNK]"))  # noqa: S106 - no secret
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_a_file_counts_all_of_a_text(file):
    """Nothing is added, and nothing cut off, whatever the file says for models; a lone surrogate is only a character."""
    found = open_tokenizers([f"river/model={file}"])
    assert found["river/model"].count("river sea river sea") == 4
    assert found["river/model"].count("\ud800") == 1
    assert found["river/model"].count("") == 0
    assert found["river/model"].digest == sha256(file.read_bytes()).hexdigest()


def test_another_file_than_the_pinned_one_is_refused(file):
    """The digest decides, not the path."""
    digest = sha256(file.read_bytes()).hexdigest()
    assert open_tokenizers([f"m={file}@sha256:{digest}"])["m"].digest == digest
    file.write_text(file.read_text() + "\n")
    with pytest.raises(Conflict, match="not the tokenizer that was pinned"):
        open_tokenizers([f"m={file}@sha256:{digest}"])


def test_what_cannot_be_used_is_refused(file, tmp_path):
    """No such file, no tokenizer in it, no such form, two for one model: said at the start."""
    (tmp_path / "other.json").write_text("{}")
    for pin, refusal in (
        (f"m={tmp_path / 'none.json'}", NotFound),
        (f"m={tmp_path / 'other.json'}", Malformed),
        ("no pin", Malformed),
        (f"no name={file}", Malformed),
    ):
        with pytest.raises(refusal):
            open_tokenizers([pin])
    with pytest.raises(Conflict):
        open_tokenizers([f"m={file}", f"m={file}"])
