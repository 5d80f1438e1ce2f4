"""What waking agents takes: one HTTP client, the market, the executor of callbacks. Loads no HTTP library itself."""

import asyncio
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vmsh_scheduler.executors.callback import CallbackExecutor
from vmsh_scheduler.market.snapshot import LARGEST_BODY, Market, MarketOptions
from vmsh_scheduler.net.calls import CallFailed
from vmsh_scheduler.observe.forge_metrics import ForgeMetrics
from vmsh_scheduler.ports import Clock

if TYPE_CHECKING:  # 400 ms of imports that a daemon without callbacks never needs
    from vmsh_scheduler.net.client import HttpClient

EXCERPT = 180


class Cycles:
    """`sections`: Settings.sections. One per process."""

    def __init__(self, sections: Mapping[str, Any], clock: Clock) -> None:
        self.instance: str = sections["api.instance"] or str(uuid4())
        self.metrics = ForgeMetrics()
        self._sections = sections
        self._opened = False
        options = MarketOptions(
            sections["market.ttl_ms"], sections["market.balance_ttl_ms"], sections["market.stale_if_error_ms"]
        )
        self.market = Market(self._fetch, clock.now, clock.elapsed, options, observe=self.metrics.fetched)
        self.executor = CallbackExecutor(
            lambda: self.client,
            self.market.snapshot,
            clock,
            self.instance,
            secret=sections["callbacks.secret"].encode(),
            timeout_ms=sections["callbacks.timeout_ms"],
            observe=self.metrics.called,
        )

    @cached_property
    def client(self) -> "HttpClient":
        """While the API listens on loopback only, so may callbacks (decision 30)."""
        from vmsh_scheduler.net.client import HttpClient
        from vmsh_scheduler.net.guard import AllowList

        self._opened = True
        allow = AllowList.parse(self._sections["callbacks.allow"])
        limit = self._sections["agents.concurrency"] + 16
        return HttpClient(allow=allow, loopback_ok=self.loopback_ok, limit=limit, limit_per_host=limit)

    @property
    def loopback_ok(self) -> bool:
        from vmsh_scheduler.api_settings import is_loopback

        return is_loopback(self._sections["api.host"])

    def url_problem(self, url: str) -> str:
        """Why a registration's URL would never be called."""
        from vmsh_scheduler.net.guard import url_problem

        return url_problem(url)

    async def close(self) -> None:
        await self.market.close()
        await self.executor.close()
        if self._opened:
            await self.client.close()
        await asyncio.sleep(0)

    async def _fetch(self, path: str) -> bytes:
        """One upstream request; errors read as the original's (forge-os section 11)."""
        timeout_s = self._sections["market.timeout_ms"] / 1000
        url = self._sections["market.base"].rstrip("/") + path
        try:
            reply = await self.client.get(url, {"Accept": "application/json"}, timeout_s=timeout_s, limit=LARGEST_BODY)
        except CallFailed as failed:
            text = "This operation was aborted" if failed.kind == "timeout" else "fetch failed"
            raise RuntimeError(text) from failed
        if not 200 <= reply.status < 300:
            raise RuntimeError(f"upstream_{reply.status}:{reply.head.decode('utf-8', 'replace')[:EXCERPT]}")
        return reply.head
