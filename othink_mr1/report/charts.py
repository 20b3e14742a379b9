"""Training curves as inline SVG: they take the page's colours, in light, dark and print."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup, escape

from othink_mr1.evaluation.curves import Curves
from othink_mr1.evaluation.figures import CURVES, comparable
from othink_mr1.evaluation.tables import NAMES
from othink_mr1.names import METHODS

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 26


@dataclass(frozen=True)
class Panel:
    """One metric of all methods that logged it."""

    title: str
    svg: Markup
    methods: list[str]
    description: str


def panels(curves: Mapping[str, Curves], task: str) -> list[Panel]:
    """A panel for each metric that a model trained on `task` logged."""
    models = {method: curves[f"{method}-{task}"] for method in METHODS if f"{method}-{task}" in curves}
    found = []
    for name, title in CURVES.items():
        lines = {
            method: of_model[name]
            for method, of_model in models.items()
            if comparable(name, method) and name in of_model
        }
        if lines:
            found.append(Panel(title, _svg(title, lines), list(lines), _describe(title, lines)))
    return found


def _describe(title: str, lines: Mapping[str, tuple[list[int], list[float]]]) -> str:
    """The alternative text: where each line starts and ends."""
    told = [
        f"{NAMES[m]} from {values[0]:.3g} to {values[-1]:.3g} over {steps[-1]} steps"
        for m, (steps, values) in lines.items()
    ]
    return f"{title}: " + "; ".join(told)


def _svg(title: str, lines: Mapping[str, tuple[list[int], list[float]]]) -> Markup:
    every = [value for _, values in lines.values() for value in values]
    ticks = nice_ticks(min(every), max(every))
    low, high = min(ticks[0], min(every)), max(ticks[-1], max(every))
    last = max(steps[-1] for steps, _ in lines.values())

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in sorted({0, last // 2, last}):
        anchor = "end" if step == last else "middle"
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step}</text>')
    for method, (steps, values) in lines.items():
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, values, strict=True))
        parts.append(f'<polyline class="curve {method}" points="{path}"/>')
        parts.append(f'<circle class="end {method}" cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3"/>')
    label = escape(_describe(title, lines))
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def nice_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers that span low to high, at most `most` steps apart."""
    if high - low < 1e-12:
        return [low]
    raw = (high - low) / most
    scale = 10.0 ** floor(log10(raw))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * 0.999)
    first = floor(low / step + 1e-9)
    ticks: list[float] = []
    while (first + len(ticks)) * step < high + step * 0.999 and len(ticks) < 12:
        ticks.append(round((first + len(ticks)) * step, 12))
    return ticks
