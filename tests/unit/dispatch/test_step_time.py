"""The formula against the published columns of its table."""

import pytest

from wwwmarket.dispatch.calibration import MODEL_SHAPES, STEP_CONSTANTS
from wwwmarket.dispatch.step_time import PrefillChunk, limits_for, step_time_model
from wwwmarket.domain.errors import NotFound, TooLarge

# GPU, model, inter-token latency alone, the same at 32 sequences of 1,024 tokens, TTFT of 1,024 tokens alone; in ms
COLUMNS = [
    ("H200-SXM", "Qwen3-0.6B", 2.1, 3.7, 3),
    ("H200-SXM", "Qwen3-4B", 4.1, 5.9, 13),
    ("H200-SXM", "Qwen3-8B", 5.9, 7.8, 22),
    ("H200-SXM", "Llama-3-8B", 5.8, 7.5, 22),
    ("H200-SXM", "Qwen3-14B", 9.6, 11.6, 40),
    ("H200-SXM", "Qwen3-32B", 20.4, 23.2, 93),
    ("H100-SXM", "Qwen3-0.6B", 2.2, 4.0, 4),
    ("H100-SXM", "Qwen3-4B", 4.8, 7.1, 14),
    ("H100-SXM", "Qwen3-8B", 7.6, 9.8, 23),
    ("H100-SXM", "Llama-3-8B", 7.3, 9.4, 23),
    ("H100-SXM", "Qwen3-14B", 12.3, 14.8, 41),
    ("H100-SXM", "Qwen3-32B", 26.5, 30.1, 95),
    ("A100-80G-SXM", "Qwen3-0.6B", 2.9, 6.0, 8),
    ("A100-80G-SXM", "Qwen3-4B", 8.0, 12.1, 37),
    ("A100-80G-SXM", "Qwen3-8B", 12.2, 16.4, 64),
    ("A100-80G-SXM", "Llama-3-8B", 11.9, 15.7, 63),
    ("A100-80G-SXM", "Qwen3-14B", 21.2, 26.2, 112),
    ("A100-80G-SXM", "Qwen3-32B", 45.9, 53.6, 252),
    ("A100-40G-SXM", "Qwen3-0.6B", 3.4, 7.3, 9),
    ("A100-40G-SXM", "Qwen3-4B", 10.1, 15.1, 39),
    ("A100-40G-SXM", "Qwen3-8B", 15.6, 20.7, 66),
    ("A100-40G-SXM", "Llama-3-8B", 15.2, 19.9, 65),
    ("A100-40G-SXM", "Qwen3-14B", 27.3, 33.4, 115),
    ("L40S", "Qwen3-0.6B", 2.7, 8.8, 9),
    ("L40S", "Qwen3-4B", 13.6, 21.3, 46),
    ("L40S", "Qwen3-8B", 25.1, 32.8, 78),
    ("L40S", "Llama-3-8B", 24.6, 31.5, 77),
    ("L40S", "Qwen3-14B", 43.5, 52.0, 140),
    ("RTX6000Ada", "Qwen3-0.6B", 2.5, 8.1, 8),
    ("RTX6000Ada", "Qwen3-4B", 12.3, 19.3, 45),
    ("RTX6000Ada", "Qwen3-8B", 22.7, 29.7, 76),
    ("RTX6000Ada", "Llama-3-8B", 22.3, 28.5, 76),
    ("RTX6000Ada", "Qwen3-14B", 39.2, 47.0, 138),
    ("RTX4090", "Qwen3-0.6B", 2.3, 7.3, 11),
    ("RTX4090", "Qwen3-4B", 10.9, 17.2, 60),
    ("RTX4090", "Qwen3-8B", 20.0, 26.3, 101),
    ("RTX4090", "Llama-3-8B", 19.6, 25.3, 100),
    ("RTX3090", "Qwen3-0.6B", 2.5, 8.2, 22),
    ("RTX3090", "Qwen3-4B", 12.0, 19.6, 134),
    ("RTX3090", "Qwen3-8B", 22.1, 29.9, 227),
    ("RTX3090", "Llama-3-8B", 21.7, 28.7, 226),
]
ROUNDING_MS = 0.06


@pytest.mark.parametrize(("gpu", "model", "alone_ms", "crowded_ms", "ttft_ms"), COLUMNS)
def test_the_formula_gives_the_published_columns(gpu, model, alone_ms, crowded_ms, ttft_ms):
    """Inter-token latency within 3 % and rounding, time to first token within 3 % and rounding to whole ms."""
    steps = step_time_model(gpu, model)
    assert steps.step_ms(1, 512) == pytest.approx(alone_ms, rel=0.03, abs=ROUNDING_MS)
    assert steps.step_ms(32, 32 * 1024) == pytest.approx(crowded_ms, rel=0.03, abs=ROUNDING_MS)
    assert steps.step_ms(0, 0, [PrefillChunk(1024, 0)]) == pytest.approx(ttft_ms, rel=0.03, abs=0.6)


def test_joined_decode_steps_take_as_long_as_single_ones():
    """The closed form for a run of decode steps is the sum over its steps."""
    steps = step_time_model("H100-SXM", "Qwen3-8B")
    single = sum(steps.step_ms(7, 5000 + 7 * i) for i in range(90))
    assert steps.decode_ms(90, 7, 5000) == pytest.approx(single)


def test_lighter_weights_and_more_gpus_are_faster_and_hold_more():
    """FP8 halves the reading of weights; two GPUs halve weights, compute and KV reading, and cost all-reduces."""
    whole = step_time_model("H100-SXM", "Qwen3-32B")
    fp8 = step_time_model("H100-SXM", "Qwen3-32B", precision="fp8")
    pair = step_time_model("H100-SXM", "Qwen3-32B", tensor_parallel=2)
    assert fp8.weights_ms == whole.weights_ms / 2
    assert fp8.step_ms(1, 1) < whole.step_ms(1, 1)
    assert pair.weights_ms == whole.weights_ms / 2
    assert pair.step_ms_fixed == pytest.approx(whole.step_ms_fixed + 2 * 64 * 0.015)
    alone = limits_for("H100-SXM", "Qwen3-32B").kv_tokens_max
    assert alone == 39_522
    assert limits_for("H100-SXM", "Qwen3-32B", precision="fp8").kv_tokens_max > 4 * alone
    assert limits_for("H100-SXM", "Qwen3-32B", tensor_parallel=2).kv_tokens_max > 8 * alone


def test_memory_agrees_between_models_of_one_gpu():
    """KV capacity and weights together fill the same memory for every model of a GPU, so the model shapes are right."""
    memory = {}
    for (gpu, model), row in STEP_CONSTANTS.items():
        shape = MODEL_SHAPES[model]
        memory.setdefault(gpu, []).append(row.kv_tokens_max * shape.kv_bytes_per_token + shape.weight_bytes)
    for sizes in memory.values():
        assert max(sizes) == pytest.approx(min(sizes), rel=0.001)


def test_what_is_not_in_the_table_is_not_found():
    """No row, no guess."""
    with pytest.raises(NotFound):
        step_time_model("H100-SXM", "Qwen3-1000B")
    with pytest.raises(NotFound):
        limits_for("Abacus", "Qwen3-8B")


def test_weights_that_leave_no_room_do_not_fit():
    """Full precision weights of a large model leave no memory on a small GPU."""
    with pytest.raises(TooLarge):
        limits_for("L40S", "Qwen3-14B", precision="fp32")
