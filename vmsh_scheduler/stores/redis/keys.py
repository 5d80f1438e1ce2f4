"""Every key this program has in Redis. The agents' part bears the names of forge-os section 10."""

import re
from dataclasses import dataclass

AGENTS = "agents"
"""The pool whose queue a reader of the original's keys finds where it expects it."""

_QUEUE = {"": "list", "_processing": "list", "_inflight": "zset", "_payloads": "hash", "_task_owners": "hash"}
_TYPES = {
    **dict.fromkeys(("agents", "states", "specs:agent", "journal_base", "journal_heads"), "hash"),
    **dict.fromkeys(("outcomes", "instances", "meta"), "hash"),
    **dict.fromkeys(("leader_lock", "leader_fence", "specs_version"), "string"),
    "agent_schedule": "zset",
    "journal_recent": "stream",
    "requests": "list",
    **{f"{queue}{part}": type for queue in ("cycle_queue", "command_queue") for part, type in _QUEUE.items()},
}
"""Of every name that stands for one key, as the server calls it."""
_FAMILY = re.compile(
    r"(?s:exec_agent_tasks:.*:.*|exec_lease:.+|lease:.*:.*|callback_dedupe:.+:(?:done|lease)|quota:.+:[0-9]+"
    r"|journal:(?:.*/.*)?|reply:[0-9a-f]{32})"
)
"""As narrow as what is filed there: agents are `<user>:<agent>`, jobs have a slash, the program's own notes no name."""


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """One pool's queue: list, list, zset, hash, hash."""

    ready: str
    processing: str
    inflight: str
    payloads: str
    task_owners: str


class Keys:
    """Full names under one prefix; on a Redis Cluster it carries a hash tag (`{vmsh}`), since scripts want one slot."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.agents = self.named("agents")
        self.agent_schedule = self.named("agent_schedule")
        self.leader_lock = self.named("leader_lock")
        self.leader_fence = self.named("leader_fence")
        self.states = self.named("states")
        self.specs_version = self.named("specs_version")
        self.journal_base = self.named("journal_base")
        self.journal_heads = self.named("journal_heads")
        self.journal_recent = self.named("journal_recent")
        self.outcomes = self.named("outcomes")
        self.instances = self.named("instances")
        self.meta = self.named("meta")
        self.requests = self.named("requests")
        self.wake = self.named("wake")

    def named(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    def types(self) -> dict[str, str]:
        """By full name, of every key that is not one of a family."""
        return {self.named(name): type for name, type in _TYPES.items()}

    def is_ours(self, key: str) -> bool:
        """By its name alone, which another deployment's key may have too if its prefix begins with this one."""
        name = key.removeprefix(self.named(""))
        return name != key and (name in _TYPES or _FAMILY.fullmatch(name) is not None)

    def queue(self, pool: str) -> QueueKeys:
        """Of the agents or of the commands; there are no more pools."""
        name = self.named("cycle_queue" if pool == AGENTS else "command_queue")
        return QueueKeys(name, f"{name}_processing", f"{name}_inflight", f"{name}_payloads", f"{name}_task_owners")

    def agent_tasks(self, agent: str) -> str:
        """Set of the agent's task ids."""
        return self.named(f"exec_agent_tasks:{agent}")

    def exec_lease(self, task: str) -> str:
        return self.named(f"exec_lease:{task}")

    def agent_lease(self, agent: str) -> str:
        """Held while a due cycle of the agent is under way."""
        return self.named(f"lease:{agent}")

    def dedupe_done(self, key: str) -> str:
        return self.named(f"callback_dedupe:{key}:done")

    def dedupe_lease(self, key: str) -> str:
        return self.named(f"callback_dedupe:{key}:lease")

    def quota(self, key: str, window: int) -> str:
        """`key` is `<sub>:<bucket>` (forge-os section 4)."""
        return self.named(f"quota:{key}:{window}")

    def specs(self, kind: str) -> str:
        return self.named(f"specs:{kind}")

    def journal(self, job: str) -> str:
        return self.named(f"journal:{job}")

    def reply(self, request: str) -> str:
        return self.named(f"reply:{request}")
