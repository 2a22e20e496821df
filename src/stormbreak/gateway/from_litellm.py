"""Convert the settings of LiteLLM's proxy to a settings file of this gateway. Pure; the environment is an argument.

Each setting that is read is taken out of its section, and the settings left at the end are listed: nothing is dropped
silently. Keys of providers are never written to the file or repeated in messages.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from math import isfinite
from typing import Any, NamedTuple, TypeAlias, TypeVar

from stormbreak.errors import ConfigurationError
from stormbreak.gateway.keys import digest_of, new_key
from stormbreak.gateway.litellm_models import Address, address_of, variable_in
from stormbreak.hidden_keys import quote_model, quoted

Table: TypeAlias = dict[str, Any]
T = TypeVar("T")

MASTER = "master"  # the name of the client key
OUTPUT_LIMIT = 4096  # tokens, for requests without a limit under a budget
WEAK = 20  # characters up to which a key can be guessed from its digest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_CALENDAR = {"1h": "hour", "1d": "day", "1mo": "month"}
_DURATION = re.compile(r"([0-9]{1,9})(s|mo|m|h|d|w)")
_BARE = re.compile(r"[^\w-]+", re.ASCII)

HINTS: Mapping[str, str] = {
    "allowed_fails": "a circuit breaker decides ([breaker])",
    "allowed_fails_policy": "a circuit breaker decides ([breaker])",
    "cooldown_time": "a circuit breaker decides ([breaker]); Retry-After is respected",
    "disable_cooldowns": 'breaker = "none" and cooldown = false switch them off',
    "retry_policy": "verdicts decide what is retried (docs/verdicts.md)",
    "retry_after": "[retry.backoff] has the delays",
    "redis_host": "set [fleet] url to share limits between processes",
    "redis_port": "set [fleet] url to share limits between processes",
    "redis_url": "set [fleet] url to share limits between processes",
    "redis_password": "set the variable STORMBREAK_FLEET_PASSWORD",
    "database_url": "there is no database; copy virtual keys by hand (docs/from/litellm-proxy.md)",
    "store_model_in_db": "there is no database: models are in the file",
    "alerting": "deploy/prometheus has alert rules",
    "callbacks": "see /metrics and the log",
    "success_callback": "see /metrics and the log",
    "failure_callback": "see /metrics and the log",
    "cache": 'a cache answers only when no target does ([[fallback]] kind = "cache")',
    "cache_params": 'a cache answers only when no target does ([[fallback]] kind = "cache")',
    "drop_params": "requests go to the provider unchanged",
    "temperature": "clients set it in their requests",
    "max_tokens": "clients set it in their requests",
    "organization": "use a key of that organization",
    "api_version": "Azure's v1 API has no version",
    "stream_timeout": "patience and idle_timeout bound streams",
    "input_cost_per_token": 'put it in a price file, and name that: prices = ["FILE"]',
    "output_cost_per_token": 'put it in a price file, and name that: prices = ["FILE"]',
    "num_workers": "start it with --workers N",
    "model_info": "it describes a model and is not needed",
    "pass_through_endpoints": "only the endpoints of docs/gateway-api.md are served",
    "guardrails": "put them in front of the gateway",
    "environment_variables": "set them in the environment of the gateway",
}  # fmt: skip
"""What to do instead, by the name of a setting."""


class Converted(NamedTuple):
    """A settings file as a table, and notes for the user. `key` is a new client key, if none could be copied."""

    table: Table
    notes: list[str]
    key: str | None


@dataclass(slots=True, eq=False)
class _Deployment:
    """An entry of the model list that could be converted, with its name among the targets."""

    address: Address
    weight: float
    order: int
    policy: Table
    name: str = ""

    @property
    def table(self) -> Table:
        return self.address.values | ({"policy": self.policy} if self.policy else {})

    @property
    def place(self) -> Table:
        return {name: it for name, it in self.address.values.items() if name != "allow_http"}


class _Section:
    """A table of the YAML. Known settings are taken out; the rest is listed at the end."""

    def __init__(self, path: str, table: object) -> None:
        if table is None:
            table = {}
        if not isinstance(table, dict):
            raise ConfigurationError(f"{path} must be a table, got {type(table).__name__}")
        self.path = path
        self._left = {str(name): value for name, value in table.items() if value is not None}

    def has(self, name: str) -> bool:
        return name in self._left

    def variables(self) -> dict[str, str]:
        """Return the variables that this section sets; the user has to set them too."""
        given = self._left.get("environment_variables")
        found = given.items() if isinstance(given, dict) else ()
        return {name: value for name, value in found if isinstance(value, str)}

    def names(self) -> list[str]:
        return [*self._left]

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def number(self, name: str) -> float | None:
        """Take out a positive number, also as a string."""
        given = self.take(name)
        if given is None:
            return None
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = 0.0
        if isinstance(given, bool) or not (value > 0 and isfinite(value)):
            raise ConfigurationError(
                f"{self.path}.{name} must be a positive number, got {quoted(str(given))}"
            )
        return int(value) if value == int(value) else value

    def count(self, *names: str) -> int | None:
        """Take out a whole number, 0 or more: the first of `names`."""
        given = [(name, value) for name in names if (value := self.take(name)) is not None]
        if not given:
            return None
        name, value = given[0]
        if not (isinstance(value, int | str) and re.fullmatch(r"[0-9]{1,6}", str(value))):
            path = f"{self.path}.{name}"
            raise ConfigurationError(f"{path} must be a whole number, got {quoted(str(value))}")
        return int(value)

    def items(self, name: str) -> list[Any]:
        given = self.take(name, [])
        if not isinstance(given, list):
            raise ConfigurationError(
                f"{self.path}.{name} must be a list, got {type(given).__name__}"
            )
        return given

    def rest(self) -> Iterator[str]:
        """List the settings that were not taken, only by name: values may hold secrets."""
        for name in self._left:
            hint = HINTS.get(name)
            path = f"{self.path}.{name}" if self.path else name
            yield f"{quote_model(path)[1:-1]} is not carried over" + (f": {hint}" if hint else "")


_KINDS: Mapping[str, list[str]] = {
    "fallbacks": [],
    "context_window_fallbacks": ["too_long"],
    "content_policy_fallbacks": ["filtered"],
}
"""Kinds of fallbacks, and the verdicts of the rule; empty: the default ones."""

_ORDERS: Mapping[str, str] = {"simple-shuffle": "weighted", "least-busy": "least_loaded"}


class _Conversion:
    """One conversion. It collects the settings, names the targets, then writes the tables."""

    def __init__(self, document: object, environ: Mapping[str, str]) -> None:
        whole = _Section("", document)
        self._environ = {**environ, **whole.variables()}
        self._models = whole.items("model_list")
        self._router, self._litellm, self._general = (
            _Section(name, whole.take(name))
            for name in ("router_settings", "litellm_settings", "general_settings")
        )
        self._credentials = {
            each.get("credential_name"): each.get("credential_values") or {}
            for each in whole.items("credential_list")
            if isinstance(each, dict)
        }
        self._whole = whole
        self._groups: dict[str, list[_Deployment]] = {}
        self._names: dict[str, str] = {}  # the target or pool of a group
        self._notes: list[str] = []
        self._variables: dict[str, str] = {}  # by literal keys
        self._fallbacks = {kind: self._fallbacks_of(kind) for kind in _KINDS}

    def run(self) -> Converted:
        for place, entry in enumerate(self._models):
            self._add_model(_Section(f"model_list[{place}]", entry))
        if not self._groups:
            why = "".join(f": {note}" for note in self._notes[:1])
            raise ConfigurationError(f"no model of model_list can be converted{why}")
        for kind, rules in self._fallbacks.items():
            lost = (group for group in rules if group not in self._groups)
            self._notes += (
                f"{kind} of {quote_model(group)}: it is not converted" for group in lost
            )
        self._name_targets()
        table, order = self._policy(), self._order()
        pools: Table = {}
        for group, members in self._groups.items():
            self._add_pool(group, members, order, pools)
        members = [each for group in self._groups.values() for each in group]
        table["targets"] = {each.name: each.table for each in members}
        table |= {"pools": pools} if pools else {}
        models = {group: self._names[group] for group in self._groups} | self._aliases()
        table["gateway"] = {"ledger": "spent.db", "models": models}
        key, table["keys"] = self._key()
        for section in (self._router, self._litellm, self._general, self._whole):
            self._notes += section.rest()
        return Converted(table, self._notes, key)

    # ------------------------------------------------------------ models

    def _add_model(self, entry: _Section) -> None:
        group, given = str(entry.take("model_name", "")), entry.take("litellm_params")
        if not group or not isinstance(given, dict):
            raise ConfigurationError(f"{entry.path} must have a model_name and litellm_params")
        credential = self._credentials.get(given.get("litellm_credential_name"))
        if credential is not None:
            given = {**credential, **given}
            del given["litellm_credential_name"]
        params = _Section(f"{entry.path}.litellm_params", given)
        address = address_of(params.path, group, params.take, self._environ, self._variable_for)
        if isinstance(address, str):
            self._notes.append(address)
            return
        policy: Table = {}
        limits = {name: value for name in ("rpm", "tpm") if (value := params.number(name))}
        if limits:
            policy["rate_limit"] = limits
        if at_once := params.number("max_parallel_requests"):
            policy["limit"] = _fixed(at_once)
        if timeout := params.number("timeout"):
            policy["attempt_timeout"] = timeout
        policy |= _retry(params.count("num_retries", "max_retries"))
        weight = params.number("weight") or limits.get("rpm") or limits.get("tpm") or 1
        order = params.count("order") or 0
        self._groups.setdefault(group, []).append(_Deployment(address, weight, order, policy))
        self._notes += (*address.notes, *params.rest(), *entry.rest())

    def _variable_for(self, group: str, key: str) -> str:
        """Return the variable for a literal key: one for each key, even if it is used in several places."""
        base = re.sub(r"\W", "_", f"{group}_API_KEY".upper(), flags=re.ASCII)
        base = f"MODEL_{base}" if base[0].isdigit() else base
        if key not in self._variables:
            self._variables[key] = _fresh(base, {*self._variables.values()}, "_")
        return self._variables[key]

    def _name_targets(self) -> None:
        taken: set[str] = set()
        for group, members in self._groups.items():
            base = _BARE.sub("-", group.replace("*", "any")).strip("-")[:30] or "model"
            name = self._names[group] = _fresh(base, taken)
            is_pool = len(members) > 1 or self._fallbacks["fallbacks"].get(group)
            for place, each in enumerate(members, 1):
                each.name = _fresh(f"{name}-{place}", taken) if is_pool else name

    def _add_pool(self, group: str, members: list[_Deployment], order: str, pools: Table) -> None:
        """Make the pool of a group, if it needs one, and the rules of its targets."""
        others = self._members_of(group, "fallbacks")
        ordered = sorted(members, key=lambda each: each.order)
        by_order = any(each.order for each in members)
        if len(members) == 1 or (others and by_order):
            ordered, others, by_order = [*ordered, *others], [], True
        if len(ordered) > 1 or self._fallbacks["fallbacks"].get(group):
            weighted = order == "weighted" and not by_order
            targets: list[Any] = [
                {"target": each.name, "weight": each.weight} if weighted else each.name
                for each in dict.fromkeys(ordered)
            ]
            pools[self._names[group]] = {
                "targets": targets,
                "order": "in_order" if by_order else order,
            }
        for kind, verdicts in _KINDS.items():
            places = others
            if verdicts:
                places = self._members_of(group, kind)
            if places:
                rule: Table = {"kind": "targets", "targets": [each.place for each in places]}
                for each in members:
                    rules = each.policy.setdefault("fallback", [])
                    rules.append(rule | ({"on": verdicts} if verdicts else {}))

    def _members_of(self, group: str, kind: str) -> list[_Deployment]:
        found: list[_Deployment] = []
        for name in self._fallbacks[kind].get(group, []):
            found += self._groups.get(name, [])
            if name not in self._groups:
                self._notes.append(
                    f"{kind} of {quote_model(group)}: {quote_model(name)} is not converted"
                )
        return found

    def _fallbacks_of(self, kind: str) -> dict[str, list[str]]:
        section = self._router if self._router.has(kind) else self._litellm
        found: dict[str, list[str]] = {}
        for rule in section.items(kind):
            for group, names in rule.items() if isinstance(rule, dict) else ():
                found[str(group)] = [str(name) for name in names if isinstance(name, str)]
                if len(found[str(group)]) < len(names):
                    path = f"{section.path}.{kind}"
                    self._notes.append(f"{path}: a fallback with parameters is not carried over")
        if kind == "fallbacks":
            section = self._router if self._router.has("default_fallbacks") else self._litellm
            default = [str(name) for name in section.items("default_fallbacks")]
            groups = [
                str(each.get("model_name")) for each in self._models if isinstance(each, dict)
            ]
            for group in groups if default else ():
                found.setdefault(group, [name for name in default if name != group])
        return {group: names for group, names in found.items() if names}

    def _aliases(self) -> dict[str, str]:
        aliases = {}
        given = _Section(
            "router_settings.model_group_alias", self._router.take("model_group_alias")
        )
        for alias in given.names():
            value = given.take(alias)
            group = value.get("model") if isinstance(value, dict) else value
            if group in self._names:
                aliases[alias] = self._names[group]
            else:
                self._notes.append(
                    f"{given.path}: {quote_model(alias)} does not lead to a converted model"
                )
        return aliases

    # ------------------------------------------------------------ settings

    def _policy(self) -> Table:
        """Return the policy of all targets. Settings of the router win over those of the library."""
        both = (self._router, self._litellm)
        policy: Table = {}
        if deadline := _first(each.number("timeout") for each in both):
            policy["deadline"] = deadline
        if timeout := _first(each.number("request_timeout") for each in both):
            policy["attempt_timeout"] = timeout
        policy |= _retry(_first(each.count("num_retries") for each in both))
        at_once = _first(
            (
                self._general.number("max_parallel_requests"),
                self._router.number("default_max_parallel_requests"),
            )
        )
        if at_once:
            policy["limit"] = _fixed(at_once)
        if budget := self._litellm.number("max_budget"):
            period = self._litellm.take("budget_duration")
            policy["spend"] = {
                "max_usd": budget,
                "period": "none" if period is None else _period(str(period)),
                "max_output_tokens": OUTPUT_LIMIT,
            }
            self._notes.append(
                f"[spend]: requests without an output limit get {OUTPUT_LIMIT} tokens, so that"
                " the budget is never exceeded"
            )
        return policy

    def _order(self) -> str:
        strategy = str(self._router.take("routing_strategy", "simple-shuffle"))
        if strategy not in _ORDERS:
            self._notes.append(
                f"router_settings.routing_strategy {quote_model(strategy)} becomes least_loaded: the target with the fewest"
                " calls in flight and in its queue"
            )
        return _ORDERS.get(strategy, "least_loaded")

    def _key(self) -> tuple[str | None, Table]:
        given = self._general.take("master_key")
        variable = variable_in(given)
        if variable is not None:
            given = self._environ.get(variable)
        if given:
            if len(str(given)) < WEAK:
                self._notes.append(
                    "general_settings.master_key is short and can be guessed: replace it by `stormbreak gateway key new`"
                )
            self._notes.append(
                f"general_settings.master_key is now the client key [keys.{MASTER}], which may use all models, and administers nothing"
            )
            return None, {MASTER: {"sha256": digest_of(str(given).encode())}}
        if variable is not None:
            self._notes.append(
                f"general_settings.master_key: the variable {variable} is not set here, so there is a new client key"
            )
        key = new_key()
        return key, {MASTER: {"sha256": digest_of(key.encode())}}


def convert(document: object, environ: Mapping[str, str]) -> Converted:
    """Convert a document of LiteLLM's proxy: its parsed YAML.

    Raises ConfigurationError if a value is wrong or no model can be converted.
    """
    return _Conversion(document, environ).run()


def _fresh(name: str, taken: set[str], joint: str = "-") -> str:
    """Return a free name, and mark it as taken."""
    numbered = (f"{name}{joint}{number}" for number in count(2))
    fresh = next(each for each in chain((name,), numbered) if each not in taken)
    taken.add(fresh)
    return fresh


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in [*values] if value is not None), None)


def _retry(retries: int | None) -> Table:
    return {} if retries is None else {"retry": {"max_attempts": retries + 1}}


def _fixed(at_once: float) -> Table:
    return {"kind": "fixed", "max_in_flight": int(at_once)}


def _period(duration: str) -> int | str:
    if duration in _CALENDAR:
        return _CALENDAR[duration]
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise ConfigurationError(
            f"litellm_settings.budget_duration must be such as 30d or 12h, got {quoted(duration)}"
        )
    return int(found[1]) * _UNITS[found[2]]
