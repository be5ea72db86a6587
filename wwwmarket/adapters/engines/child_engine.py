"""An engine whose server is this node's own child process."""

from typing import Self

from wwwmarket.adapters.engines.child import ChildServer
from wwwmarket.adapters.engines.engine_listing import EngineFacts
from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine


class ChildEngine(OpenAiEngine):
    """An ``OpenAiEngine`` that owns the server which it speaks to, and ends it when it is closed."""

    def __init__(self, child: ChildServer, facts: EngineFacts) -> None:
        super().__init__(f"http://127.0.0.1:{child.port}", facts=facts)
        self._child = child

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._child.pid

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await super().close()
        await self._child.close()
