"""The simulator's parts: its loop, network, engines, lengths, workloads and scenarios."""

from random import Random

import pytest

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.domain.errors import Malformed, NotFound
from wwwmarket.simulator.engines import EngineTwin
from wwwmarket.simulator.events import EventLoop
from wwwmarket.simulator.fleet import NodeSpec, idle_ms
from wwwmarket.simulator.network import Network
from wwwmarket.simulator.scenario import build, changed, load_scenario, shipped
from wwwmarket.simulator.workload import Piece, piecewise_poisson, read_trace, repeated

SPEC = NodeSpec(gpu="L40S", model="Qwen3-8B", slots=4)


def run(loop):
    while loop.step():
        pass


def test_ties_go_in_the_order_of_scheduling():
    """What is due at the same moment happens in the order in which it was scheduled, the past at once."""
    loop, seen = EventLoop(), []
    loop.at(5, seen.append, "a")
    loop.at(5, seen.append, "b")
    loop.at(3, loop.at, 1, seen.append, "c")
    run(loop)
    assert (seen, loop.now_us) == (["c", "a", "b"], 5)


def test_a_stream_keeps_its_order():
    """Reliable messages between two nodes arrive in the order of their sending, lost or not."""
    loop, seen = EventLoop(), []
    network = Network(loop, [0, 4], Random(1), loss=0.3)
    for i in range(50):
        network.send(0, 1, seen.append, i, reliable=True)
    run(loop)
    assert seen == list(range(50))


def test_loss_partitions_and_departures_take_messages():
    """An unreliable message may be lost; nothing crosses a cut, and streams go on after it; nothing reaches the gone."""
    loop, seen = EventLoop(), []
    network = Network(loop, [0, 4], Random(1), loss=0.5)
    for i in range(100):
        network.send(0, 1, seen.append, i)
    run(loop)
    assert 30 < len(seen) < 70
    network.divide({1: 1})
    network.send(0, 1, seen.append, "parted")
    network.send(0, 1, seen.append, "late", reliable=True)
    run(loop)
    assert "late" not in seen
    network.divide({})
    run(loop)
    assert seen[-1] == "late"
    network.down.add(1)
    network.send(0, 1, seen.append, "gone", reliable=True)
    run(loop)
    assert not {"parted", "gone"} & set(map(str, seen))


def test_an_engine_twin_takes_as_long_as_the_engine():
    """On simulated time a batch ends when the engine, stepped one by one, ends: the first comer's step has begun when
    the others come.
    """
    loop, ends = EventLoop(), {}
    twin = EngineTwin(loop, SPEC.step_time(), SPEC.limits())
    engine, others = BatchingEngine(SPEC.step_time(), SPEC.limits()), []
    engine.admit(Sequence(key=0, input_tokens=500, output_tokens=40))
    for key, (tokens, output) in enumerate([(500, 40), (2_049, 3), (30, 200), (700, 1), (900, 60)]):
        twin.submit(tokens, output, lambda: None, lambda key=key: ends.__setitem__(key, loop.now_us))
        if key > 0:
            others.append(Sequence(key=key, input_tokens=tokens, output_tokens=output))
    run(loop)
    now, expected = engine.next_step(SPEC.step_time().front_end_ms).ended_ms, {}
    for sequence in others:
        engine.admit(sequence)
    while (outcome := engine.next_step(now)) is not None:
        now = outcome.ended_ms
        expected |= dict.fromkeys(outcome.finished, now)
    assert set(ends) == set(expected)
    assert all(abs(ends[key] / 1_000 - expected[key]) < 0.01 for key in ends)


def test_late_arrivals_join_at_the_end_of_a_step():
    """Whoever comes while others decode starts with the next step, and nobody's work is lost."""
    loop, ends, firsts = EventLoop(), [], []
    twin = EngineTwin(loop, SPEC.step_time(), SPEC.limits())
    for i in range(20):
        loop.at(
            i * 137_000, twin.submit, 100 + i, 50, lambda: firsts.append(loop.now_us), lambda: ends.append(loop.now_us)
        )
    run(loop)
    assert len(ends) == len(firsts) == 20
    assert twin.in_flight == 0
    alone_ms = idle_ms(SPEC.step_time(), SPEC.limits(), 100, 50)[1]
    assert ends[0] / 1_000 < 1.5 * alone_ms


def test_a_prompt_of_one_token_more_than_a_chunk_has_a_first_token():
    """The last single token of a prompt, beside somebody who decodes, ends in a first token that is told at once."""
    loop, firsts = EventLoop(), []
    twin = EngineTwin(loop, SPEC.step_time(), SPEC.limits())
    twin.submit(10, 400, lambda: None, lambda: None)
    loop.at(300_000, twin.submit, 2 * 2_047 + 1, 300, lambda: firsts.append(loop.now_us), lambda: None)
    run(loop)
    assert firsts[0] < 1_500_000


def test_what_is_aborted_or_crashed_is_never_told():
    """An aborted sequence frees its place, a crash frees all, and neither calls back."""
    loop, ends = EventLoop(), []
    twin = EngineTwin(loop, SPEC.step_time(), SPEC.limits())
    key = twin.submit(100, 500, lambda: None, lambda: ends.append("aborted"))
    twin.submit(100, 50, lambda: None, lambda: ends.append("kept"))
    loop.at(200_000, twin.abort, key)
    run(loop)
    assert ends == ["kept"]
    twin.submit(100, 50, lambda: None, lambda: ends.append("crashed"))
    loop.after(200_000, twin.crash)
    run(loop)
    assert (ends, twin.in_flight) == (["kept"], 0)


def test_a_snapshot_counts_tokens_as_they_come():
    """What an owner sees of its sequences moves on between events."""
    loop, seen = EventLoop(), []
    twin = EngineTwin(loop, SPEC.step_time(), SPEC.limits())
    twin.submit(100, 100, lambda: None, lambda: None)
    for at_us in (5_000, 500_000, 1_000_000):
        loop.at(at_us, lambda: seen.append(twin.snapshot()[0]))
    run(loop)
    assert [one.produced + one.output_left for one in seen] == [100, 100, 100]
    assert seen[0].produced == 0 < seen[1].produced < seen[2].produced


def test_rates_are_piecewise():
    """Arrivals come at the stated rates, and none after the end."""
    pieces = [Piece(from_s=0, per_s=1.0), Piece(from_s=500, per_s=0.1)]
    moments = piecewise_poisson(pieces, 1_000, Random(1))
    early = sum(moment < 500 for moment in moments)
    assert 430 < early < 570
    assert 20 < len(moments) - early < 80
    assert max(moments) < 1_000


def test_both_forms_of_traces_are_read(tmp_path):
    """Azure's CSV and Mooncake's JSON lines give seconds from the first request, in order."""
    azure, mooncake = tmp_path / "a.csv", tmp_path / "m.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04.5319600,3180,8\n2023-11-16 18:17:03.5319600,48,10\n"
    )
    mooncake.write_text('{"timestamp": 2000, "input_length": 5, "output_length": 6, "hash_ids": []}\n' * 2)
    first, second = read_trace(azure)
    assert (first.at_s, first.input_tokens, second.output_tokens) == (0.0, 48, 8)
    assert second.at_s == pytest.approx(1.0)
    assert [row.at_s for row in repeated(read_trace(mooncake), 5)] == [0.0] * 5


@pytest.mark.parametrize("text", ["", "TIMESTAMP,a,b\n", "TIMESTAMP,a,b\nnever,1,2\n", '{"timestamp": 1}\n', "{no\n"])
def test_what_is_no_trace_is_refused(tmp_path, text):
    """Neither form, or no rows, is refused with the file's name."""
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(Malformed, match="t "):
        read_trace(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_builds(name):
    """Each scenario that is shipped has nodes, requests, and the same of them for the same seed."""
    scenario = load_scenario(name)
    one, other = build(scenario, 3), build(scenario, 3)
    assert one == other
    assert one.requests
    assert all(a.at_us <= b.at_us for a, b in zip(one.requests, one.requests[1:], strict=False))
    assert build(scenario, 4).requests != one.requests


def test_a_scenario_that_makes_no_sense_is_refused(tmp_path):
    """Unknown names, unknown fields, bad values and contradictions are refused."""
    with pytest.raises(NotFound):
        load_scenario("nowhere")
    for text in ("name = 1", 'name = "a"\nsays = "b"\nnodes = 0', 'name = "a"\nsays = "b"\nodd = 1', "= "):
        path = tmp_path / "s.toml"
        path.write_text(text)
        with pytest.raises(Malformed):
            load_scenario(str(path))
    with pytest.raises(Malformed):
        changed(load_scenario("setting-1"), nodes=5, load=None, requests=None)
