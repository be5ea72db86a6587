"""Measured constants of the step-time formula: GPUs x models at bf16 on one GPU.

Fitted to NVIDIA aiconfigurator's kernel tables for vLLM (Apache-2.0) and checked against 15 published inter-token
latencies: mean error 9 %, worst -24 %. A100-40G, RTX 6000 Ada, 4090 and 3090 are scaled from their relatives.
"""

from typing import Final, NamedTuple

from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value


class StepConstants(NamedTuple):
    """One row: what a step costs on one GPU, each with its unit."""

    weights_ms: float
    """Reading the weights once (w)."""
    blend: float
    """How sharply reading weights and computing tokens overlap (p, an exponent)."""
    compute_us_per_token: float
    head_ms: float
    attention_ms: float
    attention_ns_per_kv_token: float
    prefill_nms_per_token2: float
    """1e-9 ms per (prefill token x token of context)."""
    kv_tokens_max: int
    """Tokens of KV cache left beside bf16 weights on one GPU."""


class ModelShape(Value):
    """What memory and communication depend on."""

    layers: int
    kv_bytes_per_token: int
    """2 (key, value) x layers x KV heads x head dimension x 2 bytes."""
    weight_bytes: int
    """At bf16."""
    context_tokens: Tokens


MODEL_SHAPES: Final[dict[str, ModelShape]] = {
    "Qwen3-0.6B": ModelShape(layers=28, kv_bytes_per_token=114_688, weight_bytes=1_192_000_000, context_tokens=40_960),
    "Qwen3-4B": ModelShape(layers=36, kv_bytes_per_token=147_456, weight_bytes=8_045_000_000, context_tokens=40_960),
    "Qwen3-8B": ModelShape(layers=36, kv_bytes_per_token=147_456, weight_bytes=16_381_000_000, context_tokens=40_960),
    "Llama-3-8B": ModelShape(layers=32, kv_bytes_per_token=131_072, weight_bytes=16_061_000_000, context_tokens=8_192),
    "Qwen3-14B": ModelShape(layers=40, kv_bytes_per_token=163_840, weight_bytes=29_537_000_000, context_tokens=40_960),
    "Qwen3-32B": ModelShape(layers=64, kv_bytes_per_token=262_144, weight_bytes=65_524_000_000, context_tokens=40_960),
}

STEP_CONSTANTS: Final[dict[tuple[str, str], StepConstants]] = {
    ("H200-SXM", "Qwen3-0.6B"): StepConstants(1.07, 1.5, 1.6, 0.08, 0.35, 28.6, 486.0, 1_174_085),
    ("H200-SXM", "Qwen3-4B"): StepConstants(2.83, 1.9, 10.6, 0.19, 0.44, 37.7, 1087.0, 866_705),
    ("H200-SXM", "Qwen3-8B"): StepConstants(4.55, 2.1, 19.6, 0.31, 0.44, 37.7, 1087.0, 810_171),
    ("H200-SXM", "Llama-3-8B"): StepConstants(4.47, 2.2, 19.8, 0.26, 0.39, 33.5, 966.0, 913_891),
    ("H200-SXM", "Qwen3-14B"): StepConstants(8.1, 2.5, 36.9, 0.4, 0.49, 43.2, 1562.0, 648_863),
    ("H200-SXM", "Qwen3-32B"): StepConstants(18.54, 2.7, 86.6, 0.4, 0.78, 69.7, 4139.0, 268_259),
    ("H100-SXM", "Qwen3-0.6B"): StepConstants(1.06, 1.3, 1.7, 0.13, 0.32, 39.6, 494.0, 651_258),
    ("H100-SXM", "Qwen3-4B"): StepConstants(3.52, 1.7, 10.9, 0.26, 0.42, 51.9, 1082.0, 460_062),
    ("H100-SXM", "Qwen3-8B"): StepConstants(5.98, 2.2, 19.9, 0.51, 0.42, 51.9, 1082.0, 403_528),
    ("H100-SXM", "Llama-3-8B"): StepConstants(5.89, 2.2, 19.8, 0.43, 0.37, 46.1, 961.0, 456_417),
    ("H100-SXM", "Qwen3-14B"): StepConstants(10.69, 2.6, 37.6, 0.52, 0.46, 59.1, 1591.0, 282_884),
    ("H100-SXM", "Qwen3-32B"): StepConstants(24.53, 2.7, 88.3, 0.52, 0.74, 93.7, 3645.0, 39_522),
    ("A100-80G-SXM", "Qwen3-0.6B"): StepConstants(1.51, 1.3, 5.0, 0.22, 0.5, 75.9, 1630.0, 651_258),
    ("A100-80G-SXM", "Qwen3-4B"): StepConstants(6.15, 1.4, 30.4, 0.51, 0.64, 99.9, 3728.0, 460_062),
    ("A100-80G-SXM", "Qwen3-8B"): StepConstants(10.07, 1.5, 56.2, 0.78, 0.64, 99.9, 3728.0, 403_528),
    ("A100-80G-SXM", "Llama-3-8B"): StepConstants(10.0, 1.6, 56.0, 0.66, 0.57, 88.8, 3313.0, 456_417),
    ("A100-80G-SXM", "Qwen3-14B"): StepConstants(18.73, 1.6, 100.0, 1.05, 0.71, 115.7, 5006.0, 282_884),
    ("A100-80G-SXM", "Qwen3-32B"): StepConstants(42.99, 1.8, 230.9, 1.05, 1.14, 189.9, 12255.0, 39_522),
    ("A100-40G-SXM", "Qwen3-0.6B"): StepConstants(1.98, 1.3, 5.0, 0.29, 0.5, 99.6, 1630.0, 309_310),
    ("A100-40G-SXM", "Qwen3-4B"): StepConstants(8.07, 1.4, 30.4, 0.66, 0.64, 131.0, 3728.0, 194_102),
    ("A100-40G-SXM", "Qwen3-8B"): StepConstants(13.21, 1.5, 56.2, 1.02, 0.64, 131.0, 3728.0, 137_568),
    ("A100-40G-SXM", "Llama-3-8B"): StepConstants(13.12, 1.6, 56.0, 0.87, 0.57, 116.4, 3313.0, 157_212),
    ("A100-40G-SXM", "Qwen3-14B"): StepConstants(24.56, 1.6, 100.0, 1.38, 0.71, 151.7, 5006.0, 43_520),
    ("L40S", "Qwen3-0.6B"): StepConstants(1.28, 1.2, 5.6, 0.46, 0.26, 171.5, 1367.0, 352_376),
    ("L40S", "Qwen3-4B"): StepConstants(11.31, 1.9, 39.5, 1.21, 0.33, 221.4, 3270.0, 227_598),
    ("L40S", "Qwen3-8B"): StepConstants(22.06, 2.1, 68.3, 1.95, 0.33, 221.4, 3270.0, 171_064),
    ("L40S", "Llama-3-8B"): StepConstants(21.97, 2.1, 68.3, 1.64, 0.3, 196.8, 2906.0, 194_895),
    ("L40S", "Qwen3-14B"): StepConstants(40.27, 2.0, 126.0, 2.08, 0.39, 243.8, 4618.0, 73_666),
    ("RTX6000Ada", "Qwen3-0.6B"): StepConstants(1.15, 1.2, 5.6, 0.41, 0.26, 154.3, 1360.0, 378_216),
    ("RTX6000Ada", "Qwen3-4B"): StepConstants(10.18, 1.9, 39.3, 1.09, 0.33, 199.3, 3252.0, 247_696),
    ("RTX6000Ada", "Qwen3-8B"): StepConstants(19.85, 2.1, 68.0, 1.75, 0.33, 199.3, 3252.0, 191_162),
    ("RTX6000Ada", "Llama-3-8B"): StepConstants(19.77, 2.1, 67.9, 1.48, 0.3, 177.2, 2890.0, 217_505),
    ("RTX6000Ada", "Qwen3-14B"): StepConstants(36.25, 2.0, 125.3, 1.87, 0.39, 219.4, 4593.0, 91_754),
    ("RTX4090", "Qwen3-0.6B"): StepConstants(1.01, 1.2, 7.6, 0.36, 0.26, 135.2, 1851.0, 173_220),
    ("RTX4090", "Qwen3-4B"): StepConstants(8.92, 1.9, 53.5, 0.96, 0.33, 174.6, 4425.0, 88_254),
    ("RTX4090", "Qwen3-8B"): StepConstants(17.39, 2.1, 92.5, 1.53, 0.33, 174.6, 4425.0, 31_720),
    ("RTX4090", "Llama-3-8B"): StepConstants(17.32, 2.1, 92.4, 1.3, 0.3, 155.2, 3933.0, 38_133),
    ("RTX3090", "Qwen3-0.6B"): StepConstants(1.12, 1.2, 17.6, 0.4, 0.26, 150.4, 4271.0, 173_220),
    ("RTX3090", "Qwen3-4B"): StepConstants(9.92, 1.9, 123.5, 1.06, 0.33, 194.2, 10211.0, 88_254),
    ("RTX3090", "Qwen3-8B"): StepConstants(19.34, 2.1, 213.4, 1.71, 0.33, 194.2, 10211.0, 31_720),
    ("RTX3090", "Llama-3-8B"): StepConstants(19.27, 2.1, 213.3, 1.44, 0.3, 172.6, 9076.0, 38_133),
}
