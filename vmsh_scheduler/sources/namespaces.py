"""namespaces.yaml -> one Job per cadence: `<namespace>/<level>`, on the epoch grid, anchoring batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, assert_never

from vmsh_scheduler.domain.action import Command, ErrorRule
from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Overlap, Policy, Subject
from vmsh_scheduler.domain.retry import ErrorClass, PhiBackoff
from vmsh_scheduler.domain.trigger import SECOND, Interval, Millis, stable_phase
from vmsh_scheduler.sources import grammar
from vmsh_scheduler.sources.anchors_file import uninstalled
from vmsh_scheduler.sources.compiled import (
    ANCHORS,
    Compiled,
    Flaw,
    Place,
    Rail,
    Wanted,
    command,
    revision,
    text_of,
    with_python,
)
from vmsh_scheduler.sources.confirming import TWO_PHASED, confirming
from vmsh_scheduler.sources.documents import CadenceSpec, NamespacesFile, NamespaceSpec, RetrySpec

CHAINS = ("eip155", "btc")
"""Schemes whose runs cost money and time: longer timeout, an unknown run is held (decision 11)."""
SKIP_GRACE: Millis = 10 * SECOND
USUAL_LEVELS = ("fast", "strong", "cold")
_IN_REDIS = "the journal is in Redis here (`redis.url`): only that of a scheduler alone, on its disk, can be sealed"


class Cadence(NamedTuple):
    """One level of one namespace, with what its siblings and the settings add to it."""

    namespace: str
    level: str
    spec: CadenceSpec
    period: Millis
    subject: Subject
    argv: tuple[str, ...] = ()
    """Of the file or the settings; () = `rail` has it."""
    rail: Rail | None = None
    on_anchor: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.level}"

    @property
    def scheme(self) -> str:
        return self.spec.target.partition(":")[0]

    @property
    def is_built_in_chain(self) -> bool:
        return self.rail is not None and self.scheme in CHAINS


def judge(data: object) -> Iterator[Flaw]:
    """Every cross-field problem of the raw document; says nothing about what the models refuse anyway."""
    for name, namespace in _items(data, "namespaces"):
        place: Place = ("namespaces", name)
        yield from _refusal(grammar.namespace, name, place)
        if isinstance(namespace, Mapping) and isinstance(namespace.get("cadence"), Mapping):
            yield from _judge_levels(dict(_items(namespace, "cadence")), (*place, "cadence"))


def doubts(data: object) -> Iterator[Flaw]:
    """What is allowed but probably not meant."""
    names = {name for name, _ in _items(data, "namespaces")}
    for name, namespace in _items(data, "namespaces"):
        place: Place = ("namespaces", name)
        if name.endswith(":") and name.rstrip(":") in names:
            yield Flaw(place, "differs from another namespace only by its trailing colon", at_key=True)
        elif name.endswith(":"):
            kept = "ends in a colon, which is part of the name (`name::` in YAML is the key `name:`)"
            yield Flaw(place, kept, at_key=True)
        for level, _ in _items(namespace, "cadence"):
            meant = "" if level in USUAL_LEVELS else grammar.suggestion(level, USUAL_LEVELS)
            if meant:
                yield Flaw((*place, "cadence", level), f"is an unusual name for a level{meant}", at_key=True)


def compile_namespaces(file: NamespacesFile, wanted: Wanted, into: Compiled) -> None:
    """`file` has passed `judge`. Adds jobs, and a problem for each cadence without a command."""
    directory = str(wanted.root / "out" / "batches")
    for name, namespace in file.namespaces.items():
        if namespace.seal is not None and namespace.seal.journal and wanted.journal_path is None:
            into.problems.append(Flaw(("namespaces", name, "seal", "journal"), _IN_REDIS))
        periods, _ = grammar.periods({level: grammar.every(c.every) for level, c in namespace.cadence.items()})
        for level, spec in namespace.cadence.items():
            batches = Subject("batches", name, directory, target=spec.target, reanchor=spec.reanchor)
            cadence = Cadence(name, level, spec, periods[level], _sealed(batches, namespace, wanted))
            cadence = _equipped(cadence._replace(on_anchor=namespace.on_anchor or ()), wanted, into)
            if refusal := _refused(cadence, into):
                into.problems.append(Flaw(("namespaces", name, "cadence", level, "target"), refusal))
            else:
                into.jobs[cadence.id] = _job(cadence, wanted, into)
                _confirmed(cadence, wanted, into)


def _confirmed(cadence: Cadence, wanted: Wanted, into: Compiled) -> None:
    """Adds the job that looks after its anchors: one for all cadences of a target."""
    target, rail = cadence.spec.target, cadence.rail
    if rail is not None and cadence.scheme in TWO_PHASED:
        job = into.once(("confirming", target), lambda: confirming(target, rail, wanted))
        into.jobs[job.id] = job


def _equipped(cadence: Cadence, wanted: Wanted, into: Compiled) -> Cadence:
    """With what anchors it: its own command, the settings' one, or a verb of ours with an entry of anchors.yaml."""
    argv = cadence.spec.command or wanted.commands.get(cadence.scheme) or ()
    if argv or into.rails is None:
        return cadence._replace(argv=argv)
    return cadence._replace(rail=into.rails.rail(grammar.target(cadence.spec.target)))


def _refused(cadence: Cadence, into: Compiled) -> str:
    """Why it could not run; "" = it can."""
    if cadence.argv:
        return ""
    if cadence.rail is None:
        return _no_command(cadence.scheme)
    scheme = cadence.scheme
    line = into.once(("uninstalled", scheme), lambda: uninstalled(scheme))
    return f"anchoring to `{scheme}:` needs a package that is not installed: {line}" if line else ""


def _items(data: object, key: str) -> Iterator[tuple[str, object]]:
    """Items of the mapping under `key` whose keys are texts; nothing if there is no such mapping."""
    inner = data.get(key) if isinstance(data, Mapping) else None
    if isinstance(inner, Mapping):
        yield from ((name, value) for name, value in inner.items() if isinstance(name, str))


def _refusal(check: Callable[[object], object], name: str, place: Place) -> Iterator[Flaw]:
    try:
        check(name)
    except grammar.GrammarError as error:
        yield Flaw(place, str(error), at_key=True)


def _judge_levels(levels: Mapping[str, object], place: Place) -> Iterator[Flaw]:
    if "fast" not in levels:
        meant = [name for name in levels if grammar.suggestion(name, ["fast"])]
        hint = f" (did you mean it where it says {meant[0]}?)" if meant else ""
        yield Flaw(place, f"level `fast` is required{hint}", at_key=True)
    readable: dict[str, grammar.Every] = {}
    for name, spec in levels.items():
        yield from _refusal(grammar.level, name, (*place, name))
        period = _readable(spec)
        if period is not None:
            readable[name] = period
    periods, wrong = grammar.periods(readable, levels.keys())
    for name, message in wrong.items():
        yield Flaw((*place, name, "every"), message)
    for name, period_ms in periods.items():
        yield from _judge_splay(levels[name], period_ms, (*place, name, "splay"))


def _readable(spec: object) -> grammar.Every | None:
    try:
        return grammar.every(spec.get("every")) if isinstance(spec, Mapping) else None
    except grammar.GrammarError:
        return None


def _judge_splay(spec: object, period: Millis, place: Place) -> Iterator[Flaw]:
    try:
        splay = grammar.duration(spec.get("splay")) if isinstance(spec, Mapping) else 0
    except grammar.GrammarError:
        return
    if splay > period:
        yield Flaw(place, "must not be longer than the level's period")


def _no_command(scheme: str) -> str:
    return (
        f"no command anchors `{scheme}:` targets: set `command` in this cadence, "
        f"or `commands.{scheme}` in scheduler.yaml, or give the built-in one an entry under `{scheme}` in anchors.yaml"
    )


def _sealed(batches: Subject, namespace: NamespaceSpec, wanted: Wanted) -> Subject:
    seal = namespace.seal
    if seal is None:
        return batches
    if seal.journal:
        return replace(batches, kind="journal", base=str(wanted.journal_path))
    return replace(batches, kind="seal", files=seal.files or (), base=str(wanted.root / seal.base))


def _job(cadence: Cadence, wanted: Wanted, into: Compiled) -> Job:
    spec, scheme, identity = cadence.spec, cadence.scheme, cadence.id
    phase = stable_phase(identity, spec.splay or 0)
    trigger, when = into.part((cadence.period, phase), lambda: Interval(cadence.period, phase=phase))
    rules = spec.retry, spec.timeout, spec.misfire_grace, spec.overlap, spec.catch_up, spec.on_unknown, spec.crash_exact
    policy, how = into.part((scheme, cadence.period, rules), lambda: _policy(cadence, wanted))
    action = _action(cadence, wanted, into)
    return Job(
        id=identity,
        name=identity,
        # one account pays for all of a chain: its runs take turns, whoever's they are
        lane=spec.target if cadence.is_built_in_chain else f"{cadence.namespace} {spec.target}",
        trigger=trigger,
        action=action,
        policy=policy,
        revision=revision(when, text_of(action), how, text_of(cadence.subject)),
        subject=cadence.subject,
        labels={"namespace": cadence.namespace, "cadence": cadence.level, "target": spec.target},
        enabled=spec.enabled,
    )


def _action(cadence: Cadence, wanted: Wanted, into: Compiled) -> Command:
    spec, scheme = cadence.spec, cadence.scheme
    told = spec.confirmations, spec.policy_oid
    facts: dict[str, object] = {
        "namespace": cadence.namespace,
        "cadence": cadence.level,
        "target": spec.target,
        "confirmations": spec.confirmations,
        "policyOID": spec.policy_oid or "",
        "root": str(wanted.root),
    }
    if cadence.on_anchor:
        facts["on_anchor"] = with_python(cadence.on_anchor)
    argv, probe = cadence.argv, spec.probe or ()
    pass_env: tuple[str, ...] = ()
    if (rail := cadence.rail) is not None:
        argv, pass_env = (*ANCHORS, rail.verb), rail.variables
        facts |= rail.told
        probe = probe or ((*ANCHORS, "probe") if cadence.is_built_in_chain else ())
    return command(
        spec,
        argv,
        wanted,
        into,
        payload=facts,
        env=into.once(("env", scheme, told, *spec.env.items()), lambda: _environment(cadence, wanted)),
        # systemd may hand the ledger its signing key there
        pass_env=("CREDENTIALS_DIRECTORY",) if scheme == "local" else pass_env,
        rules=tuple(
            ErrorRule(ErrorClass(rule.error), exit_code=rule.exit, pattern=rule.stderr) for rule in spec.retry.rules
        ),
        probe=probe,
    )


def _environment(cadence: Cadence, wanted: Wanted) -> dict[str, str]:
    """VMSH_* known before a run (spec section 3), beside those that executors take from the labels; the keys' place
    goes only to our own ledger."""
    spec = cadence.spec
    env = {
        "VMSH_CONFIRMATIONS": "" if spec.confirmations is None else str(spec.confirmations),
        "VMSH_POLICY_OID": spec.policy_oid or "",
        "VMSH_ROOT": str(wanted.root),
    }
    return env | ({"VMSH_KEYS": str(wanted.keys_dir)} if cadence.scheme == "local" else {}) | spec.env


def _policy(cadence: Cadence, wanted: Wanted) -> Policy:
    spec, slow = cadence.spec, cadence.scheme in CHAINS
    hold = slow if spec.on_unknown is None else spec.on_unknown == "hold"
    return Policy(
        retry=_retry(spec.retry, wanted),
        timeout=spec.timeout or (300 if slow else 120) * SECOND,
        misfire_grace=spec.misfire_grace or _grace(CatchUp(spec.catch_up), cadence.period),
        overlap=Overlap(spec.overlap),
        catch_up=CatchUp(spec.catch_up),
        on_unknown=OnUnknown.HOLD if hold else OnUnknown.RETRY,
        crash_exact=spec.crash_exact,
    )


def _grace(catch_up: CatchUp, period: Millis) -> Millis:
    match catch_up:
        case CatchUp.ONCE:
            return period
        case CatchUp.ALL:
            return 10 * period
        case CatchUp.SKIP:
            return min(SKIP_GRACE, period)
        case _:
            assert_never(catch_up)


def _retry(spec: RetrySpec, wanted: Wanted) -> PhiBackoff:
    factors = spec.multipliers
    return PhiBackoff(
        base_s=float(wanted.base_backoff) if spec.base is None else spec.base / SECOND,
        cap=wanted.max_backoff if spec.max is None else spec.max,
        jitter=spec.jitter,
        multipliers={
            ErrorClass.NETWORK: factors.network,
            ErrorClass.AUTH: factors.auth,
            ErrorClass.VALIDATION: factors.validation,
            ErrorClass.UNKNOWN: factors.unknown,
        },
    )
