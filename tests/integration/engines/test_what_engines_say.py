"""What is read of engines that describe themselves, each in its own way, and what is sent to them."""

import msgspec
import pytest

from wwwmarket.adapters.engines.engine_listing import (
    EngineFacts,
    Listing,
    Props,
    ServerInfo,
    Told,
    Version,
    describe,
    precision_in,
)
from wwwmarket.adapters.engines.engine_metrics import read_kv_tokens, read_slots, read_state
from wwwmarket.adapters.engines.openai_request import prepare, prompt_of
from wwwmarket.domain.errors import Unavailable
from wwwmarket.ports.engine import EngineState

CHAT = "/v1/chat/completions"


def listing(**fields) -> Listing:
    return msgspec.convert({"data": [{"id": "m", "max_model_len": 4096} | fields]}, Listing)


def sample(name, value, **labels) -> bytes:
    inside = ",".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{inside}}} {value}\n".encode()


@pytest.mark.parametrize("kv", ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"])
def test_vllms_metrics_are_read_under_both_names(kv):
    """The KV cache's gauge was renamed once; ranks add up."""
    text = b"".join(sample("vllm:num_requests_running", n, engine=n) for n in (1, 2))
    text += sample("vllm:num_requests_waiting", 3) + sample(kv, 0.25)
    assert read_state(text) == EngineState(running=3, waiting=3, kv_usage_ppm=250_000)


def test_sglangs_metrics_are_read():
    """Its gauges, with the labels that they carry."""
    text = sample("sglang:num_running_reqs", 4.0, model_name="m") + sample("sglang:num_queue_reqs", 1.0)
    assert read_state(text + sample("sglang:token_usage", 0.5)) == EngineState(
        running=4, waiting=1, kv_usage_ppm=500_000
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (sample("vllm:cache_config_info", 1.0, block_size=16, num_gpu_blocks=100), 1_600),
        (sample("vllm:cache_config_info", 1.0, kv_cache_size_tokens=5_000, block_size=16, num_gpu_blocks=100), 5_000),
        (sample("vllm:cache_config_info", 1.0, block_size=16, num_gpu_blocks=10) * 2, 320),
        (sample("vllm:cache_config_info", 1.0, block_size="None", num_gpu_blocks=10), None),
        (sample("vllm:cache_config_info", 1.0, kv_cache_size_tokens=10**11), None),
        (b"", None),
    ],
)
def test_the_size_of_the_kv_cache_is_read_where_it_is_told(text, tokens):
    """In tokens, or in blocks; what makes no sense is not told."""
    assert read_kv_tokens(text) == tokens


def test_slots_stand_in_for_metrics():
    """Busy slots run; what this provider has in flight beyond them waits."""
    text = b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]'
    assert read_slots(text, in_flight=0) == EngineState(running=1, waiting=0)
    assert read_slots(text, in_flight=3) == EngineState(running=1, waiting=2)


@pytest.mark.parametrize("text", [b"", b"{}", b'[{"id":0}]', b'[{"is_processing":1}]', b"\xff"])
def test_slots_that_make_no_sense_are_unknown(text):
    """Nothing is known, which is not idleness."""
    with pytest.raises(Unavailable):
        read_slots(text, in_flight=0)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("Qwen/Qwen3-8B-FP8", "fp8"),
        ("Qwen/Qwen3-8B-AWQ", "int4"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "fp4"),
        ("/models/qwen3-8b-Q4_K_M.gguf", "int4"),
        ("/models/qwen3-8b-q8_0.gguf", "int8"),
        ("m-w8a8", "int8"),
        ("bfloat16", "bf16"),
        ("torch.float16", "fp16"),
        ("model-F32.gguf", "fp32"),
        ("Qwen/Qwen3-8B", "unknown"),
        ("afp8x", "unknown"),
    ],
)
def test_precision_is_read_from_names(name, precision):
    """Where a name says it, whole words only; where it does not, it is unknown and not guessed."""
    assert precision_in(name) == precision


def test_quantization_says_more_than_the_data_type():
    """SGLang tells both, and computes in one what it stores in the other."""
    told = Told(
        listing=listing(owned_by="sglang"),
        server=ServerInfo(
            version="0.5", dtype="bfloat16", quantization="fp8", max_running_requests=32, max_total_num_tokens=90_000
        ),
    )
    description = describe(told, EngineFacts(), blind=False)
    assert (description.engine, description.version) == ("sglang", "0.5")
    assert (description.sequences_max, description.kv_tokens_max) == (32, 90_000)
    assert description.models[0].precision == "fp8"


def test_the_operators_word_on_precision_comes_first():
    """What the operator states overrides what a name suggests."""
    told = Told(listing=listing(owned_by="vllm", root="org/m-FP8"), version=Version(version="0.32.0"))
    assert describe(told, EngineFacts(), blind=False).models[0].precision == "fp8"
    assert describe(told, EngineFacts(precision="bf16"), blind=False).models[0].precision == "bf16"


def test_llamacpp_tells_its_slots_and_its_file():
    """Slots are sequences, the file's name is its precision."""
    props = Props(build_info="b1", model_path="/m/tiny-Q8_0.gguf", total_slots=4)
    told = Told(listing=listing(owned_by="llamacpp"), props=props)
    description = describe(told, EngineFacts(), blind=False)
    assert (description.engine, description.sequences_max) == ("llama.cpp", 4)
    assert description.models[0].precision == "int8"


@pytest.mark.parametrize(("ours", "sent"), [(None, None), (5, 5)])
def test_nobody_jumps_the_queue_of_an_engine_with_priorities(ours, sent):
    """The client's own priority never reaches the engine; the operator's does."""
    request = b'{"model":"m","messages":[],"priority":-1000}'
    body = msgspec.json.decode(prepare(CHAT, request, output_tokens_max=9, priority=ours).body)
    assert body.get("priority") == sent


def test_embeddings_are_sent_as_they_came():
    """No bound, no usage option: the engine gets the client's fields and nothing else."""
    request = b'{"model":"m","input":["a","b"],"dimensions":8}'
    prepared = prepare("/v1/embeddings", request, output_tokens_max=0)
    assert (prepared.body, prepared.model, prepared.stream) == (request, "m", False)


def test_a_prompt_is_found_wherever_it_stands():
    """For choosing an engine; what is no request has none."""
    assert prompt_of(b'{"model":"m","prompt":"abc"}') == ("m", b'"abc"')
    assert prompt_of(b'{"model":"m","messages":[1]}') == ("m", b"[1]")
    assert prompt_of(b'{"model":7,"input":"a"}') == ("", b'"a"')
    assert prompt_of(b"[") == ("", b"")
