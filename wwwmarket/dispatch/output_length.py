"""How long an answer will be, learnt for each client and model from what was counted at settlement.

Lengths are taken as log-normal: what one client asks of one model clusters around a size, with a tail. Each client's
habit is drawn towards its model's until it has a history of its own, and the model's towards the share of the maximum
that answers typically use. What leaves this module is integer tokens, rounded up, never above the maximum.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from math import ceil, exp, log, sqrt
from statistics import NormalDist
from typing import Final, Generic, TypeVar

from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value

SHARE_TYPICAL: Final = 0.41
"""Of the maximum, at the median of what is unknown: comes to half of it in the mean."""
SPREAD_PRIOR: Final = 1.0
"""In log space: one in three answers of an unknown habit is longer or shorter than typical by more than a factor e."""
PRIOR_ANSWERS: Final = 1.0
"""How many answers of a model the typical share weighs as much as: the maximum says little."""
MODEL_ANSWERS: Final = 4.0
"""How many of a client's answers its model's habit weighs as much as."""
MEMORY_ANSWERS: Final = 64.0
"""All answers count alike up to so many; then the oldest fade, so that a habit that changes is learnt anew."""
CLIP_SPREADS: Final = 3.0
"""One answer further out than this counts as this far: no single one moves an estimate without bound."""
SPREAD_CLIP_MIN: Final = 0.5
"""Below this nothing is clipped tighter: a very regular client may still change its habit."""
HIGH: Final = 0.9
"""The quantile that is told as the high one."""
CLIENTS_MAX: Final = 8_192
MODELS_MAX: Final = 512
"""Habits that are remembered; those used longest ago are forgotten first."""

_NORMAL: Final = NormalDist()
_HIGH_SPREADS: Final = _NORMAL.inv_cdf(HIGH)


class OutputLength(Value):
    """Output tokens of a request to come: the mean, and what it stays below in 9 of 10 cases."""

    expected: Tokens
    high: Tokens


class Belief(Value):
    """A normal distribution over the logarithm of a length, and over its own mean.

    ``answers`` is how many answers the mean rests on; ``variance`` is of single answers around it.
    """

    mean: float
    variance: float
    answers: float

    @property
    def spread(self) -> float:
        """Of the next answer: the uncertainty of the mean comes on top."""
        return sqrt(self.variance * (1.0 + 1.0 / self.answers))


class Habit(Value):
    """What was seen under one key: a fading mean, and the fading sum of squares around it."""

    answers: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def seen(self, length: float) -> "Habit":
        """Welford's update, with the past faded to at most ``MEMORY_ANSWERS``."""
        kept = min(self.answers, MEMORY_ANSWERS - 1.0)
        fading = kept / self.answers if self.answers else 0.0
        answers, off = kept + 1.0, length - self.mean
        mean = self.mean + off / answers
        return Habit(answers=answers, mean=mean, squares=self.squares * fading + off * (length - mean))

    def joined(self, prior: Belief, weight: float) -> Belief:
        """The prior, taken as ``weight`` answers, after what was seen (the normal-inverse-gamma posterior).

        Where the two disagree, the variance grows by their distance: a surprise is uncertainty, too.
        """
        answers = weight + self.answers
        off = self.mean - prior.mean
        between = weight * self.answers / answers * off * off
        return Belief(
            mean=prior.mean + self.answers / answers * off,
            variance=(weight * prior.variance + self.squares + between) / answers,
            answers=answers,
        )


class Memory(Value):
    """One habit as it is now, for whoever keeps it: of a client with a model, or of the model itself (``client`` None).

    ``habit`` None: it is forgotten.
    """

    client: AccountId | None
    model: ModelName
    habit: Habit | None


K = TypeVar("K", bound=Hashable)

_NOTHING_SEEN: Final = Habit()


class _Habits(Generic[K]):
    """At most ``limit`` of them, the least recently used forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._habits: OrderedDict[K, Habit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._habits)

    def of(self, key: K) -> Habit:
        habit = self._habits.get(key)
        if habit is None:
            return _NOTHING_SEEN
        self._habits.move_to_end(key)
        return habit

    def put(self, key: K, habit: Habit) -> K | None:
        """What is forgotten for it, if anything is."""
        self._habits[key] = habit
        self._habits.move_to_end(key)
        return self._habits.popitem(last=False)[0] if len(self._habits) > self._limit else None


class OutputLengths:
    """Predicts lengths, and learns from those that were counted."""

    def __init__(self, *, clients_max: int = CLIENTS_MAX, models_max: int = MODELS_MAX) -> None:
        self._clients: _Habits[tuple[AccountId, ModelName]] = _Habits(clients_max)
        self._models: _Habits[ModelName] = _Habits(models_max)

    def __len__(self) -> int:
        """How many habits are remembered."""
        return len(self._clients) + len(self._models)

    def expected(self, client: AccountId, model: ModelName, max_output_tokens: Tokens) -> OutputLength:
        """What an answer of at most ``max_output_tokens`` will come to."""
        if max_output_tokens == 0:
            return OutputLength(expected=0, high=0)
        _, belief = self._beliefs(client, model, max_output_tokens)
        high = exp(min(log(max_output_tokens), belief.mean + _HIGH_SPREADS * belief.spread))
        return OutputLength(
            expected=_whole(_mean_up_to(belief, max_output_tokens), max_output_tokens),
            high=_whole(high, max_output_tokens),
        )

    def observe(
        self, client: AccountId, model: ModelName, output_tokens: Tokens, *, max_output_tokens: Tokens
    ) -> tuple[Memory, ...]:
        """Learn from an answer that ran to its end; returns what is remembered otherwise than before.

        One that was cut off at its maximum says only "at least so long": it never lowers an estimate.
        """
        if output_tokens == 0 or max_output_tokens == 0:
            return ()
        of_model, of_client = self._beliefs(client, model, max_output_tokens)
        cut_off = output_tokens >= max_output_tokens
        seen = self._models.of(model).seen(_counted(output_tokens, of_model, cut_off=cut_off))
        again = self._clients.of((client, model)).seen(_counted(output_tokens, of_client, cut_off=cut_off))
        memories = (Memory(client=None, model=model, habit=seen), Memory(client=client, model=model, habit=again))
        return (*memories, *self.remember(memories))

    def remember(self, memories: Iterable[Memory]) -> tuple[Memory, ...]:
        """Take up habits, those used longest ago first; returns which are forgotten for them."""
        forgotten: list[Memory] = []
        for memory in memories:
            if memory.habit is None:
                continue
            if memory.client is None:
                model = self._models.put(memory.model, memory.habit)
                if model is not None:
                    forgotten.append(Memory(client=None, model=model, habit=None))
                continue
            pair = self._clients.put((memory.client, memory.model), memory.habit)
            if pair is not None:
                forgotten.append(Memory(client=pair[0], model=pair[1], habit=None))
        return tuple(forgotten)

    def _beliefs(self, client: AccountId, model: ModelName, max_output_tokens: Tokens) -> tuple[Belief, Belief]:
        """Of the model, and of the client with it."""
        prior = Belief(
            mean=log(max_output_tokens * SHARE_TYPICAL), variance=SPREAD_PRIOR * SPREAD_PRIOR, answers=PRIOR_ANSWERS
        )
        of_model = self._models.of(model).joined(prior, PRIOR_ANSWERS)
        return of_model, self._clients.of((client, model)).joined(of_model, MODEL_ANSWERS)


def _counted(output_tokens: Tokens, belief: Belief, *, cut_off: bool) -> float:
    length = max(log(output_tokens), belief.mean) if cut_off else log(output_tokens)
    reach = CLIP_SPREADS * max(belief.spread, SPREAD_CLIP_MIN)
    return min(max(length, belief.mean - reach), belief.mean + reach)


def _mean_up_to(belief: Belief, bound: int) -> float:
    """Mean of a log-normal length that is cut off at ``bound``."""
    spread = max(belief.spread, 1e-9)
    place = (log(bound) - belief.mean) / spread
    below = exp(belief.mean + spread * spread / 2.0 + log(max(_NORMAL.cdf(place - spread), 1e-300)))
    return below + bound * (1.0 - _NORMAL.cdf(place))


def _whole(tokens: float, bound: Tokens) -> Tokens:
    """Rounded up, but for what is only the noise of floats."""
    return max(1, min(bound, ceil(tokens - 1e-6)))
