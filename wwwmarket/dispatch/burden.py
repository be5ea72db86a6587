"""What one more request takes from those that an engine has in hand: the time that each of them loses, at what its own
client says a second is worth.

A sequence in a batch makes every step of the others longer, and its prompt is read between their tokens. Whoever looks
at the newcomer's own finish alone fills the engine that is fastest for the next one, and slows all who are there. What
leaves this module is integer micro-credits, rounded down.
"""

from typing import Final

from wwwmarket.dispatch.prediction import Load
from wwwmarket.dispatch.step_time import EngineLimits, PrefillChunk, StepTimeModel
from wwwmarket.domain.quantity import MicroCredits, Tokens

_MILLIS_PER_SECOND: Final = 1_000


def burden(
    model: StepTimeModel, limits: EngineLimits, load: Load, *, input_tokens: Tokens, output_tokens: Tokens
) -> MicroCredits:
    """Micro-credits lost by the known work that runs, if the request runs beside it.

    Nothing is lost by work that waits before it, and what comes later is asked for later.
    """
    running = [work for work in load.work if work.context_tokens > 0]
    others = max(0, load.running - len(running))
    valued = [work for work in running if work.time_value_micro_per_s]
    if not valued:
        return 0
    with_it = min(len(running) + others + 1, limits.sequences_max)
    context = sum(work.context_tokens for work in running) * (len(running) + others) // len(running)
    without_ms = model.step_ms(with_it - 1, context)
    longer_ms = model.step_ms(with_it, context + input_tokens + output_tokens // 2) - without_ms
    reading_ms = model.step_ms(with_it - 1, context, [PrefillChunk(input_tokens, 0)]) - without_ms
    lost = sum(
        work.time_value_micro_per_s * (reading_ms + longer_ms * min(work.output_tokens_left, output_tokens))
        for work in valued
    )
    return int(lost / _MILLIS_PER_SECOND)
