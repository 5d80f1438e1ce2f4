"""Reading for who only looks: a key of somebody else's under a name of ours is a finding, and does not end the look."""

from collections.abc import Iterator, Mapping

from vmsh_scheduler.stores.redis.connect import SyncClient
from vmsh_scheduler.stores.redis.keys import Keys

PART = 500


class Look:
    """`foreign`: by key what holds another type than ours; read here it is empty. Raises what the client does."""

    def __init__(self, client: SyncClient, keys: Keys) -> None:
        self._client = client
        self.foreign = dict(_foreign(client, keys))

    def text(self, key: str) -> str | None:
        return None if key in self.foreign else _text(self._client.get(key))

    def field(self, key: str, name: str) -> str | None:
        return None if key in self.foreign else _text(self._client.hget(key, name))

    def fields(self, key: str) -> Iterator[tuple[str, str]]:
        """Of a hash, in parts."""
        if key not in self.foreign:
            for name, text in self._client.hscan_iter(key, count=PART):
                yield str(name), str(text)

    def whole(self, key: str) -> Mapping[str, str]:
        found = {} if key in self.foreign else self._client.hgetall(key)
        return {str(name): str(text) for name, text in found.items()}

    def size(self, key: str) -> int:
        """Of a hash."""
        return 0 if key in self.foreign else int(self._client.hlen(key))

    def length(self, key: str) -> int:
        """Of a list."""
        return 0 if key in self.foreign else int(self._client.llen(key))

    def ttl(self, key: str) -> int:
        return int(self._client.pttl(key))


def _foreign(client: SyncClient, keys: Keys) -> Iterator[tuple[str, str]]:
    for key, ours in keys.types().items():
        found = str(client.type(key))
        if found not in ("none", ours):
            yield key, f"holds a {found}, not a {ours} of ours"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
