"""How long one step of a continuous-batching engine takes on a given GPU with a given model.

    t = o0 + o1 B + (w^p + (c T)^p)^(1/p) + h + a0 + k K + q S      [ms]

B sequences in the step; T tokens computed in it (one per decoding sequence, plus the prefill chunks); K the sum of the
context lengths of the decoding sequences; S the sum over prefill chunks of n (context before + n / 2).
The constants stand in ``calibration``; where there is no row, ``prediction`` learns a model of the same form.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from wwwmarket.dispatch.calibration import MODEL_SHAPES, STEP_CONSTANTS
from wwwmarket.domain.errors import NotFound, TooLarge
from wwwmarket.domain.model import Precision
from wwwmarket.domain.shape import Value

STEP_MS: Final = 0.6
"""o0: scheduler and launch."""
SEQUENCE_MS: Final = 0.02
"""o1: sampling and bookkeeping of one sequence."""
FRONT_END_MS: Final = 10.0
"""HTTP, tokenizing, and the way to the scheduler: 5 to 15 ms."""
ALL_REDUCE_MS: Final = 0.015
"""One all-reduce between GPUs; two per layer."""

WEIGHT_SCALE: Final[dict[Precision, float]] = {
    "unknown": 1.0,
    "fp32": 2.0,
    "fp16": 1.0,
    "bf16": 1.0,
    "fp8": 0.5,
    "int8": 0.5,
    "fp4": 0.3,
    "int4": 0.3,
}
"""Weight bytes relative to bf16; 4-bit formats carry their scales."""


class EngineLimits(Value):
    """What an engine carries at once. Prompts are computed ``batch_tokens_max`` tokens a step (decodes included)."""

    kv_tokens_max: int
    sequences_max: int = 256
    batch_tokens_max: int = 2048


class PrefillChunk(NamedTuple):
    """``tokens`` of a prompt computed in one step, after ``context_before`` tokens computed in earlier ones."""

    tokens: int
    context_before: int


class StepTimeModel(Value):
    """The formula's constants for one engine. Milliseconds, per unit as named."""

    step_ms_fixed: float
    sequence_ms: float
    weights_ms: float
    blend: float
    token_ms: float
    kv_token_ms: float
    prefill_ms_per_token2: float
    front_end_ms: float

    def step_ms(
        self, decoding_sequences: int, decoding_context_tokens: int, prefill: Sequence[PrefillChunk] = ()
    ) -> float:
        """Duration of one step in milliseconds.

        ``decoding_context_tokens`` is the sum of the context lengths of the decoding sequences.
        """
        chunk_tokens = sum(chunk.tokens for chunk in prefill)
        tokens = decoding_sequences + chunk_tokens
        squares = sum(chunk.tokens * (chunk.context_before + chunk.tokens / 2) for chunk in prefill)
        compute: float = (self.weights_ms**self.blend + (self.token_ms * tokens) ** self.blend) ** (1 / self.blend)
        return (
            self.step_ms_fixed
            + self.sequence_ms * (decoding_sequences + len(prefill))
            + compute
            + self.kv_token_ms * decoding_context_tokens
            + self.prefill_ms_per_token2 * squares
        )

    def scaled(self, factor: float) -> "StepTimeModel":
        """An engine so many times slower."""
        return StepTimeModel(
            step_ms_fixed=self.step_ms_fixed * factor,
            sequence_ms=self.sequence_ms * factor,
            weights_ms=self.weights_ms * factor,
            blend=self.blend,
            token_ms=self.token_ms * factor,
            kv_token_ms=self.kv_token_ms * factor,
            prefill_ms_per_token2=self.prefill_ms_per_token2 * factor,
            front_end_ms=self.front_end_ms * factor,
        )

    def decode_ms(self, steps: int, sequences: int, context_tokens: int) -> float:
        """Duration of ``steps`` decode steps in a row, whose contexts grow by one token each step."""
        grown = sequences * (steps - 1) / 2
        return steps * (self.step_ms(sequences, context_tokens) + self.kv_token_ms * grown)


def step_time_model(gpu: str, model: str, *, precision: Precision = "bf16", tensor_parallel: int = 1) -> StepTimeModel:
    """The model of a GPU and a model of the table.

    Raises:
        NotFound: there is no such row.
    """
    assert tensor_parallel >= 1, "at least one GPU"
    row = STEP_CONSTANTS.get((gpu, model))
    if row is None:
        known = ", ".join(f"{g} {m}" for g, m in STEP_CONSTANTS)
        raise NotFound(f"no step-time constants for {model} on {gpu}; there are: {known}")
    scale = WEIGHT_SCALE[precision]
    reduce_ms = 2 * MODEL_SHAPES[model].layers * ALL_REDUCE_MS if tensor_parallel > 1 else 0.0
    return StepTimeModel(
        step_ms_fixed=STEP_MS + row.head_ms * scale + row.attention_ms + reduce_ms,
        sequence_ms=SEQUENCE_MS,
        weights_ms=row.weights_ms * scale / tensor_parallel,
        blend=row.blend,
        token_ms=row.compute_us_per_token / 1e3 / tensor_parallel,
        kv_token_ms=row.attention_ns_per_kv_token / 1e6 / tensor_parallel,
        prefill_ms_per_token2=row.prefill_nms_per_token2 / 1e9,
        front_end_ms=FRONT_END_MS,
    )


def limits_for(
    gpu: str, model: str, *, precision: Precision = "bf16", tensor_parallel: int = 1, sequences_max: int = 256
) -> EngineLimits:
    """What fits: KV capacity grows by the memory of further GPUs, and by what lighter weights leave free.

    Raises:
        NotFound: there is no such row.
        TooLarge: the weights leave no memory for a KV cache.
    """
    row, shape = STEP_CONSTANTS.get((gpu, model)), MODEL_SHAPES.get(model)
    if row is None or shape is None:
        raise NotFound(f"no step-time constants for {model} on {gpu}")
    memory = row.kv_tokens_max * shape.kv_bytes_per_token + shape.weight_bytes
    weights = round(shape.weight_bytes * WEIGHT_SCALE[precision])
    kv_tokens_max = (memory * tensor_parallel - weights) // shape.kv_bytes_per_token
    if kv_tokens_max < 1:
        raise TooLarge(f"{model} at {precision} does not fit on {tensor_parallel} x {gpu}")
    return EngineLimits(kv_tokens_max=kv_tokens_max, sequences_max=sequences_max)
