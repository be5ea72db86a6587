"""``wwwmarket explain``: an auction in words."""

from types import SimpleNamespace

from wwwmarket.cli.explain import row, why

WINNER, RIVAL, SILENT = "a" * 64, "b" * 64, "c" * 64


def ask(provider, verdict, score, reason="because"):
    return SimpleNamespace(provider=provider, verdict=verdict, score=score, reason=reason, ask=None, cost_micro=None)


def award(winner, *asks):
    return SimpleNamespace(asks=asks, award=SimpleNamespace(winner=SimpleNamespace(signer=winner)))


def test_the_winner_is_told_against_its_rival():
    """Two scores say by how much it won, and of how many."""
    told = award(WINNER, ask(WINNER, "won", 1_200), ask(RIVAL, "runner_up", 1_500), ask(SILENT, "silent", None))
    assert why(told) == "score 1,200 against 1,500 of the runner-up, 3 asked"


def test_a_winner_without_rival_is_told_as_such():
    """Nobody else was eligible."""
    assert why(award(WINNER, ask(WINNER, "won", 1), ask(SILENT, "silent", None))) == "the only eligible ask of 2"


def test_a_failover_is_told():
    """An award to another than the best says that the best could not."""
    told = award(RIVAL, ask(WINNER, "won", 1), ask(RIVAL, "runner_up", 2))
    assert why(told) == "the next-best ask, after 1 that could not start"


def test_a_provider_without_an_ask_still_has_its_row():
    """Silence has a verdict and a reason, and no numbers."""
    shown = row(ask(SILENT, "silent", None, "no answer within 150 ms"))
    assert (shown["verdict"], shown["reason"], shown["score"], shown["predicted_ttft_ms"]) == (
        "silent",
        "no answer within 150 ms",
        None,
        None,
    )
