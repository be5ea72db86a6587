"""Which engines there are, what they serve, and how much work they can do."""

from random import Random
from typing import Final, NamedTuple

from wwwmarket.dispatch.step_time import EngineLimits, PrefillChunk, StepTimeModel, limits_for, step_time_model
from wwwmarket.domain.model import Precision
from wwwmarket.domain.shape import Value
from wwwmarket.simulator.network import REGIONS

GOOD: Final = "chat"
"""What is sold where every node serves the same good, whatever its model."""

MIXED_GPUS: Final[dict[str, tuple[str, ...]]] = {
    "Qwen3-4B": ("H100-SXM", "A100-80G-SXM", "L40S", "RTX6000Ada", "RTX4090", "RTX3090"),
    "Llama-3-8B": ("H200-SXM", "H100-SXM", "A100-80G-SXM", "L40S", "RTX6000Ada", "RTX4090"),
    "Qwen3-14B": ("H200-SXM", "H100-SXM", "A100-80G-SXM", "L40S", "RTX6000Ada"),
}
"""Models and the GPUs on which people serve them."""


class NodeSpec(Value):
    """One node: an engine of ``gpu`` and ``model``, sold as ``serves``. ``slots`` sequences run at once.

    ``slowdown`` is what its software makes of the table's step times; ``price`` is a share of the usual list price.
    """

    gpu: str
    model: str
    serves: str = GOOD
    region: int = 0
    precision: Precision = "bf16"
    tensor_parallel: int = 1
    slots: int = 256
    slowdown: float = 1.0
    price: float = 1.0

    def step_time(self) -> StepTimeModel:
        known = step_time_model(self.gpu, self.model, precision=self.precision, tensor_parallel=self.tensor_parallel)
        return known.scaled(self.slowdown)

    def limits(self) -> EngineLimits:
        return limits_for(
            self.gpu,
            self.model,
            precision=self.precision,
            tensor_parallel=self.tensor_parallel,
            sequences_max=self.slots,
        )


class Mix(NamedTuple):
    """A workload's mean request."""

    input_tokens: float
    output_tokens: float


def mixed(count: int, slots: int, seed: int) -> tuple[NodeSpec, ...]:
    """``count`` nodes: models in equal shares, GPUs and regions by chance."""
    chance = Random(f"{seed}/fleet")
    models = sorted(MIXED_GPUS)
    return tuple(
        NodeSpec(
            gpu=chance.choice(MIXED_GPUS[model]),
            model=model,
            serves=model,
            region=chance.randrange(len(REGIONS)),
            slots=slots,
        )
        for model in (models[i % len(models)] if count >= 2 * len(models) else models[1] for i in range(count))
    )


def requests_per_s(spec: NodeSpec, mix: Mix) -> float:
    """An engine's capacity: requests of ``mix`` per second with every slot (or the KV cache) full, all the time."""
    model, limits = spec.step_time(), spec.limits()
    context = mix.input_tokens + mix.output_tokens / 2
    batch = max(1, min(limits.sequences_max, int(limits.kv_tokens_max / (mix.input_tokens + mix.output_tokens))))
    token_ms = model.step_ms(batch, int(batch * context)) / batch
    alone_ms = model.step_ms(0, 0, [PrefillChunk(max(1, round(mix.input_tokens)), 0)])
    weights_ms = model.step_ms(0, 0, [PrefillChunk(1, 0)])
    return 1_000 / (max(0.0, alone_ms - weights_ms) + mix.output_tokens * token_ms)


def idle_ms(model: StepTimeModel, limits: EngineLimits, input_tokens: int, output_tokens: int) -> tuple[float, float]:
    """TTFT and finish in ms of a request alone on an engine, front end included."""
    now_ms, done = model.front_end_ms, 0
    while done < input_tokens:
        chunk = min(limits.batch_tokens_max, input_tokens - done)
        now_ms += model.step_ms(0, 0, [PrefillChunk(chunk, done)])
        done += chunk
    rest = model.decode_ms(output_tokens - 1, 1, input_tokens + 1) if output_tokens > 1 else 0.0
    return now_ms, now_ms + rest
