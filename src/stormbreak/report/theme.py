"""Colours and strokes. Colour is never the only difference: each line has its own dash and marker.

The hues are those of Okabe and Ito, safe for colour-blind readers, darker on white and lighter on black for a contrast
of at least 3. A page drawing uses placeholder colours, which become CSS variables: one drawing serves both themes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Colours = Callable[[str], str]  # maps a role, such as "ink", to "#rrggbb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """The colour of a role in both themes."""

    light: str
    dark: str


TONES: Mapping[str, Tone] = {
    "page": Tone(light="#ffffff", dark="#0f1419"),
    "card": Tone(light="#f5f7f9", dark="#182029"),
    "ink": Tone(light="#17202a", dark="#e8edf2"),
    "muted": Tone(light="#52606d", dark="#a5b1bd"),
    "rule": Tone(light="#d9dfe5", dark="#2e3945"),
    "trigger": Tone(light="#a84800", dark="#f08a4b"),
    "ideal": Tone(light="#7d8a97", dark="#77848f"),
    "line-1": Tone(light="#0072b2", dark="#5bb4ec"),
    "line-2": Tone(light="#c94f00", dark="#f5864a"),
    "line-3": Tone(light="#00805d", dark="#2fc79e"),
    "line-4": Tone(light="#ad4f88", dark="#e59cc8"),
    "line-5": Tone(light="#946500", dark="#efb13a"),
    "line-6": Tone(light="#17202a", dark="#e8edf2"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """The look of a line: `dash` in line widths, `outline` of the marker as an SVG path around (0, 0)."""

    role: str
    dash: tuple[float, ...]
    marker: str
    outline: str


STROKES: Sequence[Stroke] = (
    Stroke(role="line-1", dash=(), marker="o", outline="M3 0A3 3 0 1 1 -3 0A3 3 0 1 1 3 0Z"),
    Stroke(role="line-2", dash=(5.0, 2.0), marker="X", outline="M-3 -3L3 3M-3 3L3 -3"),
    Stroke(
        role="line-3", dash=(5.0, 1.6, 1.2, 1.6), marker="s", outline="M-2.6 -2.6H2.6V2.6H-2.6Z"
    ),
    Stroke(role="line-4", dash=(1.4, 1.6), marker="^", outline="M0 -3.2L3 2.4H-3Z"),
    Stroke(role="line-5", dash=(9.0, 2.5), marker="D", outline="M0 -3.4L3 0L0 3.4L-3 0Z"),
    Stroke(
        role="line-6", dash=(3.0, 1.4, 1.0, 1.4, 1.0, 1.4), marker="v", outline="M0 3.2L3 -2.4H-3Z"
    ),
)
"""Strokes in order of use; further lines are not drawn."""

_PLACEHOLDERS = {role: f"#0a0b{number:02x}" for number, role in enumerate(TONES, 1)}


def light(role: str) -> str:
    """Return the colour of a role in a picture."""
    return TONES[role].light


def placeholder(role: str) -> str:
    """Return the colour of a role in a drawing for `themed`."""
    return _PLACEHOLDERS[role]


def themed(style: str) -> str:
    """Replace the placeholder colours in a style with CSS variables."""
    for role, colour in _PLACEHOLDERS.items():
        style = style.replace(colour, f"var(--{role})")
    return style


def variables() -> tuple[str, str]:
    """Return the CSS variables of the light and the dark theme."""
    return (
        " ".join(f"--{role}: {tone.light};" for role, tone in TONES.items()),
        " ".join(f"--{role}: {tone.dark};" for role, tone in TONES.items()),
    )
