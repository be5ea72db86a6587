"""A small language model made on the spot: a GGUF file of half a megabyte whose text is readable sentences.

It is a bigram grammar written into the weights of a Llama: the embedding of a token names its word class in one
hidden dimension, and the output matrix turns each class into the logits of what may follow it. The two layers carry
small random weights, so that what is said depends on the prompt and on the seed. The length of a reply follows from
the probability of the end after a full stop.
"""

from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

HIDDEN: Final = 64
LAYERS: Final = 2
HEADS: Final = 2
FEED_FORWARD: Final = 64
CONTEXT_TOKENS_MAX: Final = 8192
END_LOGIT: Final = 0.8
"""Of the end against one opener of a sentence: about one sentence in five is the last."""
ALLOWED_LOGIT: Final = 6.0
FORBIDDEN_LOGIT: Final = -8.0
VARIETY: Final = 0.35
"""Scale of the context's influence on which word of a class comes next."""

END: Final = "<|end|>"
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message.role if message.role in ['system', 'user', 'assistant'] else 'tool' }}|>"
    "{{ message.content }}" + END + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "first": ("The", "Every", "One", "This", "Each", "Our"),
    "opener": (" The", " Every", " One", " This", " Each", " Our", " That", " Another"),
    "manner": (" quiet", " honest", " patient", " careful", " distant", " cheerful", " stubborn"),
    "subject": (" engine", " reader", " keeper", " river", " gardener", " market", " sailor", " teacher", " neighbour"),
    "verb": (
        *(" finds", " keeps", " opens", " follows", " carries", " answers", " settles", " measures", " remembers"),
        *(" offers", " meets", " crosses"),
    ),
    "determiner": (" the", " every", " one", " this", " each", " our", " that", " another"),
    "adjective": (" fair", " open", " small", " bright", " steady", " early", " clear", " narrow", " forgotten"),
    "object": (
        *(" price", " answer", " ledger", " garden", " signal", " question", " morning", " letter", " harbour"),
        *(" promise", " window", " lantern", " bridge"),
    ),
    "preposition": (" near", " with", " before", " after", " under", " beyond", " for"),
    "stop": (".",),
}
FOLLOWS: Final[dict[str, tuple[str, ...]]] = {
    "start": ("first",),
    "other": ("determiner",),
    "first": ("manner", "subject"),
    "opener": ("manner", "subject"),
    "manner": ("subject",),
    "subject": ("verb",),
    "verb": ("determiner",),
    "determiner": ("adjective", "object"),
    "adjective": ("object",),
    "object": ("preposition", "stop", "stop"),
    "preposition": ("determiner",),
    "stop": ("opener", "end"),
}
CLASSES: Final = tuple(FOLLOWS)

Matrix = NDArray[np.float32]


class _Vocabulary:
    """Byte-level BPE: 256 bytes, the words with the chains of merges that build them, and the control tokens."""

    def __init__(self) -> None:
        byte_names = _byte_names()
        self.tokens: list[str] = list(byte_names.values())
        self.classes: list[str] = ["other"] * len(self.tokens)
        self.merges: list[str] = []
        known = set(self.tokens)
        for word_class, words in WORDS.items():
            for word in words:
                self._add_word([byte_names[b] for b in word.encode()], word_class, known)
        self.controls = [END, *ROLES]
        self.tokens += self.controls
        self.classes += ["end", *("start" for _ in ROLES)]
        self.end_id = self.tokens.index(END)

    def _add_word(self, parts: list[str], word_class: str, known: set[str]) -> None:
        whole = parts[0]
        for part in parts[1:]:
            merge, whole = f"{whole} {part}", whole + part
            if whole not in known:
                known.add(whole)
                self.tokens.append(whole)
                self.classes.append("other")
                self.merges.append(merge)
        self.classes[self.tokens.index(whole)] = word_class

    def types(self) -> list[gguf.TokenType]:
        control = set(self.controls)
        return [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in self.tokens]


def _byte_names() -> dict[int, str]:
    """Printable stand-ins for the 256 bytes, as GPT-2's tokenizer writes them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def _bigram_logits(vocabulary: _Vocabulary) -> Matrix:
    """Logits of every token after each class: shape (tokens, classes)."""
    logits = np.full((len(vocabulary.tokens), len(CLASSES)), FORBIDDEN_LOGIT, dtype=np.float32)
    token_classes = np.array(vocabulary.classes)
    for column, followers in enumerate(FOLLOWS.values()):
        for follower in set(followers):
            members = token_classes == follower
            # a class is as likely as it is often named, however many words it has
            share = followers.count(follower) / len(followers)
            logits[members, column] = ALLOWED_LOGIT + np.log(share / members.sum())
    logits[vocabulary.end_id, CLASSES.index("stop")] = ALLOWED_LOGIT - np.log(2 * len(WORDS["opener"])) + END_LOGIT
    return logits


def _tensors(vocabulary: _Vocabulary, seed: int) -> dict[str, Matrix]:
    chance = np.random.default_rng(seed)

    def noise(rows: int, columns: int, scale: float) -> Matrix:
        return (chance.standard_normal((rows, columns)) * scale).astype(np.float32)

    count, first_free = len(vocabulary.tokens), len(CLASSES)
    embedding = noise(count, HIDDEN, 0.1)
    embedding[:, :first_free] = 0.0
    for token, word_class in enumerate(vocabulary.classes):
        if word_class in CLASSES:
            embedding[token, CLASSES.index(word_class)] = 4.0
    output = noise(count, HIDDEN, VARIETY)
    # after the last norm the class's dimension holds about the square root of HIDDEN
    output[:, :first_free] = _bigram_logits(vocabulary) / np.sqrt(HIDDEN)
    tensors = {"token_embd.weight": embedding, "output_norm.weight": np.ones(HIDDEN, np.float32)}
    tensors["output.weight"] = output
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        into_hidden = {"attn_output": noise(HIDDEN, HIDDEN, 0.02), "ffn_down": noise(HIDDEN, FEED_FORWARD, 0.02)}
        for matrix in into_hidden.values():
            matrix[:first_free] = 0.0  # layers must not blur the word class
        tensors |= {f"{name}{key}.weight": matrix for key, matrix in into_hidden.items()}
        tensors |= {f"{name}{key}.weight": noise(HIDDEN, HIDDEN, 0.1) for key in ("attn_q", "attn_k", "attn_v")}
        tensors |= {f"{name}{key}.weight": noise(FEED_FORWARD, HIDDEN, 0.1) for key in ("ffn_gate", "ffn_up")}
        tensors |= {f"{name}{key}.weight": np.ones(HIDDEN, np.float32) for key in ("attn_norm", "ffn_norm")}
    return tensors


def make_model(path: Path, *, seed: int = 0, name: str = "wwwmarket-tiny") -> None:
    """Write the model to ``path``: the same seed gives the same bytes. Takes tens of milliseconds."""
    vocabulary = _Vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(CONTEXT_TOKENS_MAX)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types())
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.end_id)
    writer.add_eos_token_id(vocabulary.end_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for tensor_name, tensor in _tensors(vocabulary, seed).items():
        writer.add_tensor(tensor_name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
