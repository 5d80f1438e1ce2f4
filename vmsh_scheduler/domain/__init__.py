"""Pure data and rules: no I/O, no clock, no asyncio. Every instant is UTC epoch milliseconds (docs/adr/0001)."""
