"""When a log changes hands: what the state, which has no tree, leaves to whoever has one."""

from collections.abc import Callable

from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.records import Body, Decree, Succession


def succession_in(body: Body) -> Succession | None:
    """The succession that a body decrees, if it does."""
    if isinstance(body, Decree) and isinstance(body.resolution.body, Succession):
        return body.resolution.body
    return None


def check_succession(body: Body, root: Callable[[], bytes]) -> None:
    """``root`` is that of the tree before the entry with this body.

    Raises:
        Conflict: it decrees a succession, which begins from another tree.
    """
    succession = succession_in(body)
    if succession is not None and succession.root != root().hex():
        raise Conflict("that succession begins from another tree", param="root", reason="other_tree")
