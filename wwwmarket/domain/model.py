"""What is sold and what is asked for."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value

ModelName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")]
Label: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+ -]{0,63}\Z")]
Precision: TypeAlias = Literal["unknown", "fp32", "fp16", "bf16", "fp8", "int8", "fp4", "int4"]


class Model(Value):
    """A model as served: the same name at another revision or precision is another good."""

    name: ModelName
    revision: Label
    precision: Precision
    context_tokens: Tokens


class ModelRequirement(Value):
    """What a bid accepts. Empty ``precisions`` accepts any."""

    name: ModelName
    precisions: tuple[Precision, ...] = ()


class EngineFingerprint(Value):
    """Which engine answered: enough for an appraiser to run the same one."""

    engine: Label
    engine_version: Label
    model_revision: Label
    precision: Precision
    gpu_class: Label
