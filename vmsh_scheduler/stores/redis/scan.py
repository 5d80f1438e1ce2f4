"""Whole hashes in parts, so that no answer takes longer than a command may."""

from vmsh_scheduler.stores.redis.connect import Client, guarded

PART = 500


async def read_hash(client: Client, key: str) -> dict[str, str]:
    """What stands in it from beginning to end is there; what changes meanwhile may be. Raises StoreDown."""
    found: dict[str, str] = {}
    cursor = 0
    while True:
        cursor, part = await guarded(client.hscan(key, cursor, count=PART))
        found.update(part)  # type: ignore[arg-type]  # decoded, which the library's types do not know
        if not cursor:
            return found
