"""What `make sensitivity` varies: every constant and parameter of the default policy, and every mechanism.

Constants and parameters are found, not listed: a new one takes part by itself. Each is halved and doubled; a share
above a half has its distance to 1 doubled and halved instead, and a factor between 1 and 2 its excess over 1.
A mechanism is taken out by an ablation with a name. Whatever an ablation patches must exist: setting a name that is
gone fails.
"""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from math import inf, isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import stormbreak.core
from stormbreak.core import (
    admission,
    automatic_limit,
    cooldown,
    diagnosis,
    latency_baseline,
    send_rate,
)
from stormbreak.core.automatic_limit import LimitFloor
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.failure_evidence import FailureRun
from stormbreak.core.late_answers import LateAnswers
from stormbreak.core.policy import Policy
from stormbreak.core.random_refusals import RandomRefusals
from stormbreak.core.retry_budget import Budget
from stormbreak.errors import ConfigurationError

LEFT_OUT = {
    "attempt.FIRST_OUTPUT_GRACE": "of the clocks of event loops, which virtual time does not have",
    "cooldown.SPREAD": "the default of `policy.retry.retry_after_jitter`",
    "hedge.ENOUGH": "of hedges, which are off",
    "hedge.KEPT": "of hedges, which are off",
    "queue_order.CLEANUP_SIZE": "of bookkeeping: when loads of before are cleared away",
    "queue_order.ROUNDING": "of floating point",
    "call_state.MAX_EVENTS": "of what a call can tell afterwards",
    "trip.SHOWN_SECONDS": "of what a breaker shows",
    "window.LONG_AGO": "no quantity",
}
UNUSED = {
    "checks": "of what a policy may be",
    "circuit_snapshot": "of state that is handed over",
    "engine": "of more targets than these storms have",
    "explain": "of what a call can tell afterwards",
    "fallback": "of several targets",
    "fallback_policy": "of several targets",
    "fleet_lease": "of fleets",
    "row_schedule": "of batches",
    "shadow": "of a second policy",
    "spend_policy": "of money",
    "stalls": "of the clocks of event loops",
    "straggler": "of batches",
    "tenant": "of tenants",
}
"""Modules that take no part in a random storm."""
SCENARIOS_OWN = {
    "deadline",
    "patience",
    "attempt_timeout",
    "idle_timeout",
    "stall_timeout",
    "process_share",
    "spend",
    "cache.max_age",
    "cache.max_bytes",
}
"""Parameters that the load of a scenario replaces, or that have no place in a simulation."""


class Patch(NamedTuple):
    """`owner.name` becomes `value`."""

    owner: Any
    name: str
    value: Any


class Variant(NamedTuple):
    """The engine with one thing changed."""

    name: str
    change: str  # as it is shown: the value before and after
    patches: tuple[Patch, ...] = ()
    edit: Callable[[Policy], Policy] = lambda policy: policy


UNCHANGED = Variant("as it is", "")


@contextmanager
def applied(variant: Variant) -> Iterator[None]:
    """Patch, and take it back.

    Raises:
        AttributeError: what is to be patched is not there any more.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in variant.patches]
    try:
        for owner, name, value in variant.patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def every() -> list[Variant]:
    """All variants: ablations, parameters, constants."""
    return [*ABLATIONS, *parameters(Policy()), *constants()]


def varied(value: float) -> tuple[float, float]:
    """Less and more of `value`."""
    if isinstance(value, int):
        return max(1, value // 2), 2 * value
    if 0.5 < value < 1:
        return max(0.1, 1 - 2 * (1 - value)), 1 - (1 - value) / 2
    if 1 < value < 2:
        return 1 + (value - 1) / 2, 1 + 2 * (value - 1)
    return value / 2, 2 * value


# ---------------------------------------------------------------- constants of modules


def constants() -> Iterator[Variant]:
    """Each constant of the core, less and more, also in the modules that import it."""
    imported = imports()
    for module, name in found():
        short = f"{module.__name__.rpartition('.')[2]}.{name}"
        value = getattr(module, name)
        if short in LEFT_OUT or short.partition(".")[0] in UNUSED or not _is_quantity(value):
            continue
        whole = value if isinstance(value, tuple) else (value,)
        for which in (0, 1):
            new = tuple(varied(part)[which] for part in whole)
            changed = new if isinstance(value, tuple) else new[0]
            if changed != value:
                holders = [(module, name), *imported.get((module.__name__, name), ())]
                patches = tuple(Patch(owner, held, changed) for owner, held in holders)
                yield Variant(short, _shown(value, changed), patches)


def found() -> Iterator[tuple[ModuleType, str]]:
    """Every module of the core with each name in capitals that it assigns."""
    for path in _modules():
        module = import_module(f"stormbreak.core.{path.stem}")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    names = target.elts if isinstance(target, ast.Tuple) else [target]
                    for name in names:
                        if isinstance(name, ast.Name) and name.id.isupper():
                            yield module, name.id


def imports() -> dict[tuple[str, str], list[tuple[ModuleType, str]]]:
    """By module and name, what modules of the core import from another, and under which name."""
    holders: dict[tuple[str, str], list[tuple[ModuleType, str]]] = {}
    for path in _modules():
        module = import_module(f"stormbreak.core.{path.stem}")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    held = module, alias.asname or alias.name
                    holders.setdefault((node.module, alias.name), []).append(held)
    return holders


def _modules() -> list[Path]:
    return sorted(Path(stormbreak.core.__path__[0]).glob("[a-z]*.py"))


def _is_quantity(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_quantity(part) for part in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


# ---------------------------------------------------------------- parameters of a policy


def parameters(policy: Policy) -> Iterator[Variant]:
    """Each number of `policy`, less and more, where the policy allows it."""
    for path, value in _numbers(policy):
        if path in SCENARIOS_OWN:
            continue
        for new in varied(value):
            edit = _setting(path, new)
            if new != value and _is_possible(edit, policy):
                yield Variant(f"policy.{path}", _shown(value, new), edit=edit)


def _is_possible(edit: Callable[[Policy], Policy], policy: Policy) -> bool:
    try:
        edit(policy)
    except ConfigurationError:
        return False
    return True


def _numbers(part: Any, above: str = "") -> Iterator[tuple[str, float]]:
    for field in fields(part):
        value, path = getattr(part, field.name), above + field.name
        if is_dataclass(value):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, int | float) and type(value) in (int, float):
            yield path, value


def _setting(path: str, value: Any) -> Callable[[Policy], Policy]:
    def edit(policy: Policy) -> Policy:
        changed: Policy = _with(policy, path.split("."), value)
        return changed

    return edit


def _with(part: Any, path: list[str], value: Any) -> Any:
    name, *below = path
    changed = {name: _with(getattr(part, name), below, value) if below else value}
    if name == "probes":
        changed["max_concurrent_probes"] = value  # as many as before: all
    return replace(part, **changed)


def _shown(before: object, after: object) -> str:
    return f"{_short(before)} -> {_short(after)}"


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- mechanisms


def _without(name: str, *patches: tuple[Any, str, Any]) -> Variant:
    return Variant(name, "ablation", tuple(Patch(*patch) for patch in patches))


def _under(name: str, **changed: Any) -> Variant:
    return Variant(name, "ablation", edit=lambda policy: replace(policy, **changed))


def _constantly(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


_NEVER = 1_000_000_000
_LIMIT = automatic_limit.AutomaticLimiter
_DIAGNOSIS = diagnosis.Diagnosis

ABLATIONS = (
    _under("no limit", limit=FixedLimit(max_in_flight=_NEVER)),
    _under("a fixed limit of 256", limit=FixedLimit()),
    _without(
        "a limit that is always on",
        (_LIMIT, "binds", _constantly(True)),
        (_LIMIT, "_limit", lambda self, _now, _evidence_at, floor_: max(self._control, floor_)),
    ),
    _without("no evidence from lateness", (diagnosis, "TOP_TOTAL", _NEVER), (diagnosis, "TOP_FIRST", _NEVER)),
    _without("no target is ever dead", (FailureRun, "is_unexplained", _constantly(False))),
    _without("the target is never well", (_DIAGNOSIS, "is_healthy", _constantly(False))),
    _without("the target is always well", (_DIAGNOSIS, "is_healthy", _constantly(True))),
    _without("overtaken attempts do not count", (_DIAGNOSIS, "is_overtaken", _constantly(False))),
    _without("no evidence from the queue", (_LIMIT, "_is_queue_evidence", _constantly(False))),
    _without("429s that pile up are no evidence for the limit", (_LIMIT, "_is_too_much", _constantly(False))),
    _without("a slower target stays late", (LateAnswers, "is_slower", _constantly(False))),
    _without("no limit floor", (LimitFloor, "floor", _constantly(0.0))),
    _without("no hold: the limit grows at once", (automatic_limit, "HOLD", 0.0)),
    _without("no fade: the limit is gone after its hold", (automatic_limit, "FADE", 0.0)),
    _without(
        "a limit that never fades",
        (automatic_limit, "FADE", _NEVER),
        (automatic_limit, "DOUBLING", _NEVER),
    ),
    _without("blocks under congestion count as usual", (latency_baseline, "CLEAR", -inf)),
    _under("no learned rate, hence no trial of bad luck", adaptive_rate=False),
    _without("no trial of bad luck", (RandomRefusals, "suppose", _constantly(False))),
    _without("bad luck explains everything", (RandomRefusals, "explains", _constantly(True))),
    _without("the first 429s teach a rate at once", (send_rate, "BUSY", 0.0)),
    _under("no cooldown", cooldown=False),
    _without("a cooldown is never lifted", (cooldown.Cooldown, "lift", _constantly(None))),
    _without("no pace after a pause", (cooldown.Pace, "start", _constantly(None))),
    _without("no newest first", (admission.TargetQueue, "_choose_order", _constantly(None))),
    _without("no shedding on arrival", (admission.TargetQueue, "_time_until_turn", _constantly(0.0))),
    _without("no shedding at the turn", (admission, "SERVICE_MARGIN", -inf)),
    _under("no breaker", breaker=None),
    _under("no budget", retry_budget=None),
    _without("no free retries", (Budget, "is_free", _constantly(False))),
    Variant("no free retries with little traffic", "ablation", edit=_setting("retry_budget.low_traffic_retries", 0)),
    Variant("no retries", "ablation", edit=_setting("retry.max_attempts", 1)),
    Variant("no backoff jitter", "ablation", edit=_setting("retry.backoff", Backoff(kind="exponential"))),
    Variant("no spread of named times", "ablation", edit=_setting("retry.retry_after_jitter", 0.0)),
)  # fmt: skip
