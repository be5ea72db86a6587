"""What a provider is known for: sums over the ledger's own entries that fade with the ledger's time."""

from wwwmarket.domain.quantity import Count, MicroCredits, PartsPerMillion
from wwwmarket.domain.shape import Value


class Standing(Value, omit_defaults=True):
    """Sums as of ``day`` (of the ledger's time, 86,400,000 ms each); amounts weigh work by its price.

    ``kept_micro`` came in time by its client's receipt, ``missed_micro`` did not; ``silent_micro`` was locked by awards
    that expired under a dispute. ``credited_micro`` is what this day has added to ``kept_micro``; ``penalised_micro``
    has been taken of bonds. ``served_milli``, ``failed_milli`` and ``contested_milli`` count awards in thousandths:
    settled, settled as failed, settled with counts that differ.
    """

    day: Count = 0
    kept_micro: MicroCredits = 0
    missed_micro: MicroCredits = 0
    silent_micro: MicroCredits = 0
    credited_micro: MicroCredits = 0
    penalised_micro: MicroCredits = 0
    served_milli: Count = 0
    failed_milli: Count = 0
    contested_milli: Count = 0


class Reputation(Value):
    """``score_ppm``: how much of its work comes in time, as far as is known. A newcomer has shown less than what the
    score begins with.
    """

    score_ppm: PartsPerMillion
    newcomer: bool
    standing: Standing
