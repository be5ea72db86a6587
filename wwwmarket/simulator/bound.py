"""A clairvoyant bound: no dispatch rule whatever can serve more requests in time than this many.

Derivation. Let a request have n input tokens and m output tokens, and let it be served in time by engine e.

1. *Alone.* Its finish is no earlier than on e idle and next door: every step that computes one of its tokens lasts at
   least as long as if it were alone in it, for the step time grows with everything in the step; a prompt needs at least
   ceil(n / chunk) such steps before the first token, an answer m - 1 after it. So a request whose deadline no live
   engine of its model could meet idle is missed by every rule.

2. *Together.* A step of e with B sequences, T tokens and context K lasts at least
   ``f + o B + (1 - s) w + s c T + k K`` for every share s in [0, 1], since (w^p + (cT)^p)^(1/p) >= max(w, cT)
   for p >= 1.
   Split each step over its sequences: B <= slots, so each has at least (f + (1 - s) w) / slots + o of it, and its own
   part of the other terms. Summed over the request's steps (m - 1 decode steps and one or more of its prompt; context
   at least n in each decode step) the engine gives it at least the time
   ``W = m ((f + (1 - s) w) / slots + o) + s c (n + m - 1) + k (m - 1) n``.
   The steps of an engine do not overlap: requests that arrive at or after a and are served by b at the latest have
   sum(W) <= b - a on e. W is linear in the features (m, n + m - 1, (m - 1) n) with coefficients of e; with the
   coefficientwise minima over the model's fleet for reference, W_ref <= r W where r = max over features of (reference
   coefficient / own coefficient) <= 1, so that e does at most r (b - a) of work in the reference's units.

3. *Count.* So of the requests whose arrival and deadline lie within [a, b], no more can be served in time than the
   number of the smallest W_ref whose sum is at most (b - a) sum(r). For disjoint windows these limits hold side by
   side, requests in no window count as served, and the least over several partitions (and several s) is taken.

Coefficients are those of the engines' true step times. Preemption, failed probes and the network only take more.
"""

from collections.abc import Sequence
from typing import Final

from wwwmarket.simulator.fleet import NodeSpec, idle_ms
from wwwmarket.simulator.workload import Request

SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
PARTITIONS: Final = (1, 2, 4, 8, 16)


def bound(
    requests: Sequence[Request], nodes: Sequence[NodeSpec], deadlines_us: Sequence[int] | None = None
) -> set[int]:
    """Numbers of requests of which at most so many, in any rule, meet their deadlines: the set's size is the bound."""
    due = [request.deadline_us for request in requests] if deadlines_us is None else deadlines_us
    served: set[int] = set()
    for model in sorted({request.model for request in requests}):
        engines = list(dict.fromkeys(node for node in nodes if node.serves == model))
        counts = [sum(1 for node in nodes if node == engine) for engine in engines]
        feasible = [
            (request, deadline_us)
            for request, deadline_us in zip(requests, due, strict=True)
            if request.model == model and _is_feasible(request, deadline_us, engines)
        ]
        options = [_limited(feasible, engines, counts, share, parts) for share in SHARES for parts in PARTITIONS]
        served |= min(options, key=len, default=set())
    return served


def _is_feasible(request: Request, deadline_us: int, engines: Sequence[NodeSpec]) -> bool:
    have_us = deadline_us - request.at_us
    return any(
        idle_ms(engine.step_time(), engine.limits(), max(2, request.input_tokens), request.output_tokens)[1] * 1_000
        <= have_us
        for engine in engines
    )


def _coefficients(engine: NodeSpec, share: float) -> tuple[float, float, float]:
    """Milliseconds per output token, per token computed, and per decode step and token of prompt."""
    model, slots = engine.step_time(), engine.limits().sequences_max
    steps = (model.step_ms_fixed + (1 - share) * model.weights_ms) / slots + model.sequence_ms
    return steps, share * model.token_ms, model.kv_token_ms


def _work_ms(request: Request, coefficients: tuple[float, float, float]) -> float:
    tokens, prompt = request.output_tokens, max(2, request.input_tokens)
    per_step, per_token, per_context = coefficients
    return tokens * per_step + (prompt + tokens - 1) * per_token + (tokens - 1) * prompt * per_context


def _limited(
    feasible: Sequence[tuple[Request, int]],
    engines: Sequence[NodeSpec],
    counts: Sequence[int],
    share: float,
    parts: int,
) -> set[int]:
    if not feasible:
        return set()
    own = [_coefficients(engine, share) for engine in engines]
    least = (min(c[0] for c in own), min(c[1] for c in own), min(c[2] for c in own))
    speeds = [max((low / c for low, c in zip(least, cs, strict=True) if c > 0), default=1.0) for cs in own]
    speed = sum(count * each for count, each in zip(counts, speeds, strict=True))
    begin = min(request.at_us for request, _ in feasible)
    width_us = (max(deadline_us for _, deadline_us in feasible) - begin) / parts
    windows: dict[int, list[tuple[float, int]]] = {}
    served: set[int] = set()
    for request, deadline_us in feasible:
        window = int((request.at_us - begin) / width_us) if width_us else 0
        if deadline_us <= begin + (window + 1) * width_us:
            windows.setdefault(window, []).append((_work_ms(request, least), request.number))
        else:
            served.add(request.number)
    for inside in windows.values():
        room_ms = width_us / 1_000 * speed
        for work_ms, number in sorted(inside):
            room_ms -= work_ms
            if room_ms < 0:
                break
            served.add(number)
    return served
