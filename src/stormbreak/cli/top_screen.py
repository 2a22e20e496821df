"""One frame of `stormbreak top`, as lines that fit the terminal.

The watched process is not trusted: all its text is escaped and never read as markup. Colour is never the only sign.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from rich.text import Text

from stormbreak.cost.formatting import dollars, short, span
from stormbreak.cost.money import USD
from stormbreak.escape import shown
from stormbreak.telemetry.state import (
    BatchSnapshot,
    CostSnapshot,
    Counts,
    Decision,
    State,
    TargetSnapshot,
)

WIDEST = 140
WIDE = 112  # columns from which the whole minute is drawn, one column per second
_ROOMY = 60  # columns below which details are left out
_RATE_OVER = 5  # seconds
_SHOWN_ONCE = 12  # decisions, if there is no height
_MIN_DECISIONS = 4
_CELL = 16  # columns of a count and its name
_CARD = 4  # lines of a target with details

_STYLES = {"open": "bold red", "isolated": "bold red", "half_open": "yellow", "closed": "green"}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of bars and curves, from the lowest to the highest."""

    levels: str = "▁▂▃▄▅▆▇█"
    none: str = "·"
    full: str = "█"
    free: str = "░"
    times: str = "\N{MULTIPLICATION SIGN}"


ASCII = Glyphs(levels=".:-=+*%#", none=" ", full="#", free=".", times="x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Draws states of the process at `where`; `silent`: seconds since its last answer, if it is late."""

    where: str
    width: int
    height: int | None = None  # None: no limit on lines
    glyphs: Glyphs = Glyphs()
    silent: float = 0.0
    live: bool = False

    def lines(self, state: State) -> list[Text]:
        head = [*self._head(state), Text()]
        foot = [Text(" q quits", style="dim")] if self.live else []
        room = None if self.height is None else self.height - len(head) - len(foot)
        targets = list(self._targets(state, room))
        left = _SHOWN_ONCE if room is None else room - len(targets) - 2
        decisions = list(self._decisions(state.decisions[: max(0, left)]))
        lines = [*head, *targets, *decisions]
        if self.height is not None:
            lines = lines[: self.height - len(foot)]
            lines += [Text()] * (self.height - len(foot) - len(lines))
        lines += foot
        for line in lines:
            line.no_wrap = True
            line.truncate(self._columns, overflow="ellipsis")
        return lines

    @property
    def _columns(self) -> int:
        return min(self.width, WIDEST)

    # ------------------------------------------------------------ head

    def _head(self, state: State) -> Iterator[Text]:
        name = Text.assemble((" stormbreak top", "bold"), f"  {self.where}")
        status = Text(f"process {state.pid}, watched for {span(state.watched)} ", style="dim")
        if self._columns < _ROOMY:
            status = Text()
        if self.silent:
            status = Text(f"no answer for {self.silent:.0f} s ", style="bold yellow")
        yield _apart(name, status, self._columns)
        if state.batch is not None:
            yield Text()
            yield from self._batch(state.batch)
        yield from _counts(state.counts, None if state.batch is None else state.batch.retries)
        if state.cost is not None:
            yield Text(" cost ", style="dim").append(_cost(state.cost), style="not dim")

    def _batch(self, batch: BatchSnapshot) -> Iterator[Text]:
        over = max(0, batch.done) + max(0, batch.failed)
        share = over / batch.total if batch.total > 0 else 1.0
        to_go = f"{span(batch.to_go)} to go" if batch.left and batch.to_go is not None else ""
        text = f" {int(100 * share):3} %  {short(over)} of {short(batch.total)}"
        text += f"  {batch.rate:,.1f} rows/s  {to_go}"
        line = Text(" rows ", style="dim").append_text(
            self._bar(share, 20 if self._columns < WIDE else 40)
        )
        yield line.append(text, style="not dim")
        figures = _figures({"done": batch.done, "failed": batch.failed, "left": batch.left})
        if batch.stopping:
            figures.append("   stopping: no new requests", style="yellow")
        yield figures
        if batch.slow:
            yield Text(" slow ", style="dim").append(shown(batch.slow, 160), style="not dim yellow")

    # ------------------------------------------------------------ targets

    def _targets(self, state: State, room: int | None) -> Iterator[Text]:
        targets = sorted(state.targets, key=_unhealthy_first)
        if not targets:
            yield Text(" no request sent yet", style="dim")
            yield Text()
            return
        free = None if room is None else max(1, room - _MIN_DECISIONS - 2)
        lines = sum(_CARD + 1 + bool(target.slow) for target in targets)
        if free is None or lines <= free:
            for target in sorted(targets, key=lambda each: each.target):
                yield from self._card(target)
                yield Text()
        else:
            yield from self._rows(targets, free)
            yield Text()
        if state.more_targets > 0:
            yield Text(
                f" and {state.more_targets:,} more, not reported by the process", style="dim"
            )

    def _card(self, target: TargetSnapshot) -> Iterator[Text]:
        yield _apart(
            Text(f" {shown(target.target, 120)}", style="bold"), _health(target), self._columns
        )
        limit = target.limit or 0
        share = target.in_flight / limit if limit > 0 else 0.0
        of = f" of {limit:,}" if limit > 0 else ""
        line = Text("   in flight ", style="dim").append_text(self._bar(share, 20))
        line.append(f" {target.in_flight:,}{of}", style="not dim")
        line.append("   queue ").append(f"{target.queued:,}", style="not dim")
        if target.budget is not None:
            line.append("   retry budget ").append(f"{target.budget:.1f}", style="not dim")
        yield line
        if target.slow:
            yield Text("   slow      ", style="dim").append(
                shown(target.slow, 120), style="not dim yellow"
            )
        top = max([*target.ok, *target.not_ok], default=0)
        yield self._curve("ok", target.ok, top, "green")
        bad = self._curve("not ok", target.not_ok, top, "red")
        verdicts = {name: count for name, count in target.verdicts.items() if name != "ok"}
        counts = ", ".join(f"{shown(name, 20)} {count:,}" for name, count in verdicts.items())
        yield bad.append(f"  {counts}", style="not dim")

    def _rows(self, targets: Sequence[TargetSnapshot], room: int) -> Iterator[Text]:
        """Write a line for each target, as long as there is room."""
        yield Text(" circuit    cooldown flight  queue   ok/s not ok  target", style="dim")
        first = targets if len(targets) < room else targets[: room - 2]
        for target in first:
            line = Text(" ").append_text(_circuit(target))
            line.pad_right(max(1, 12 - line.cell_len))
            cooldown = f"{target.cooldown:.1f} s" if target.cooldown > 0 else ""
            line.append(f"{cooldown:>8}", style="yellow")
            line.append(f"{short(target.in_flight):>7}{short(target.queued):>7}")
            line.append(f"{_rate(target.ok):>7.1f}{_rate(target.not_ok):>7.1f}  ")
            line.append(shown(target.target, 120), style="bold")
            yield (
                line.append(f"  {shown(target.slow, 120)}", style="yellow") if target.slow else line
            )
        more = len(targets) - len(first)
        if more:
            yield Text(f" and {more:,} more", style="dim")

    def _curve(self, name: str, counts: Sequence[int], top: int, style: str) -> Text:
        counts = counts[-60 if self._columns >= WIDE else -30 :]
        line = Text(f"   {name:<6} {_rate(counts):>6.1f}/s ", style="dim")
        for count in counts:
            line.append(self._level(count, top), style=f"not dim {style}" if count > 0 else "dim")
        return line

    def _level(self, count: int, top: int) -> str:
        levels = self.glyphs.levels
        if count <= 0 or top <= 0:
            return self.glyphs.none
        return levels[min(len(levels) - 1, count * len(levels) // (top + 1))]

    def _bar(self, share: float, width: int) -> Text:
        full = min(width, max(0, round(share * width)))
        if share > 0 and not full:
            full = 1
        bar = Text(self.glyphs.full * full, style="not dim cyan")
        return bar.append(self.glyphs.free * (width - full), style="dim")

    # ------------------------------------------------------------ decisions

    def _decisions(self, decisions: Sequence[Decision]) -> Iterator[Text]:
        if not decisions:
            return
        yield Text(" ago   decisions, equal ones counted", style="dim")
        for decision in decisions:
            times = f"{self.glyphs.times}{short(decision.times)}" if decision.times > 1 else ""
            line = Text(f" {_ago(decision.ago):>5} {times:<6} ", style="dim")
            yield line.append(shown(decision.text, 300), style="not dim")


def _counts(counts: Counts, batch_retries: int | None) -> Iterator[Text]:
    retries = counts.retries if batch_retries is None else batch_retries
    yield _figures(
        {
            "calls": counts.calls,
            "answered": counts.answered,
            "attempts": counts.attempts,
            "retries": retries,
            "refused": counts.retries_refused,
        }
    )
    yield _figures(
        {
            "rejected": counts.rejected,
            "hedges": counts.hedges,
            "fallbacks": counts.fallbacks,
            "openings": counts.circuits_opened,
            "cooldowns": counts.cooldowns,
        }
    )


def _cost(cost: CostSnapshot) -> str:
    """Write the bounds in dollars; nothing if they are unknown."""
    low, high = _shown(cost.min_usd), _shown(cost.max_usd)
    return dollars(low, high, unpriced=cost.unpriced, unbounded=cost.unbounded)


def _shown(usd: float) -> str:
    return USD.shown(Decimal(str(usd))) if abs(usd) < 1e12 else f"{usd:.3g}"


def _figures(named: dict[str, int]) -> Text:
    line = Text(style="dim")
    for name, count in named.items():
        cell = Text(f" {name} ").append(short(count), style="not dim")
        cell.pad_right(max(1, _CELL - cell.cell_len))
        line.append_text(cell)
    return line


def _circuit(target: TargetSnapshot) -> Text:
    circuit = target.circuit or "none"
    return Text(shown(circuit, 12).replace("_", "-"), style=_STYLES.get(circuit, "dim"))


def _health(target: TargetSnapshot) -> Text:
    """Write the number of processes that share a fleet's limits, the state of the circuit, and the cooldown."""
    text = Text(style="dim")
    if target.sharing:
        text.append(f"fleet of {short(target.members or 0)}  ")
    elif target.sharing is not None:
        text.append("fleet: the store does not answer  ", style="not dim yellow")
    if target.circuit is None:
        text.append("no circuit ")
    else:
        text.append_text(_circuit(target)).append(" ")
    if target.cooldown > 0:
        text.append(f"cooldown {target.cooldown:.1f} s ", style="yellow")
    return text


def _apart(left: Text, right: Text, width: int) -> Text:
    """Put one text at each end of a line; cut the left one if needed."""
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis")
    return left.append(" " * max(1, width - left.cell_len - right.cell_len)).append_text(right)


def _unhealthy_first(target: TargetSnapshot) -> tuple[bool, int, str]:
    healthy = target.circuit in (None, "closed") and target.cooldown <= 0
    return healthy, -sum(target.verdicts.values()), target.target


def _rate(counts: Sequence[int]) -> float:
    late = counts[-_RATE_OVER:]
    return sum(late) / len(late) if late else 0.0


def _ago(seconds: float) -> str:
    if seconds < 1:
        return "now"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
