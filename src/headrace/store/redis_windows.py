"""The windows of the library `limits`, over a store's own connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge

if TYPE_CHECKING:
    from limits.typing import AsyncRedisClient

    from headrace.store.redis_connections import Client


class Windows(RedisStorage):
    """Keeps windows below `prefix`, and asks through `client` alone."""

    def __init__(self, prefix: str, client: Client) -> None:
        self._client = cast("AsyncRedisClient", client)
        super().__init__("redis://", implementation="redispy", key_prefix=prefix)

    def configure_bridge(self) -> None:
        """Give the library this client in place of one of its own."""
        assert isinstance(self.bridge, RedispyBridge)
        self.bridge.storage = self._client
        self.bridge.connection_getter = lambda readonly: self._client
