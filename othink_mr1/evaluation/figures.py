"""The figures of the results as PNG files whose bytes hold no time or version."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.evaluation.curves import Curves
from othink_mr1.evaluation.tables import NAMES
from othink_mr1.names import METHODS, TASKS
from othink_mr1.stages import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blind-safe and apart in grey too; the report uses the same ones.
COLOURS = {"base": "#8a8f98", "sft": "#c2730a", "grpo": "#2f7fc1", "grpo_d": "#0d7a5f"}
CURVES = {
    "reward": "Reward",
    "rewards/accuracy_reward/mean": "Accuracy reward",
    "rewards/format_reward/mean": "Format reward",
    "eval_accuracy": "Validation accuracy",
    "kl": "KL to the base",
    "beta": "KL weight β",
    "loss": "SFT loss",
}


def comparable(metric: str, method: str) -> bool:
    """Whether the method's line belongs in the metric's panel: an RL loss says nothing beside a cross-entropy."""
    return metric != "loss" or method == "sft"


def save(figure: "Figure", path: Path) -> None:
    """Write a figure whole or not at all, without the metadata that would change its bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def accuracy_bars(rows: Sequence[Mapping[str, Any]], title: str, protocol: str = "strict") -> "Figure":
    """Accuracy by task and method with intervals; the paper's value as a diamond where there is one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    methods = ("base", *METHODS)
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        found = [
            r
            for task in TASKS
            for r in rows
            if (r["task"], r["method"], r["prompt_kind"]) == (task, method, "reasoning")
        ]
        heights = [100 * row[protocol]["accuracy"] for row in found]
        below = [h - 100 * row[protocol]["interval"][0] for h, row in zip(heights, found, strict=True)]
        above = [100 * row[protocol]["interval"][1] - h for h, row in zip(heights, found, strict=True)]
        places = [x + (i - (len(methods) - 1) / 2) * width for x in range(len(found))]
        axes.bar(places, heights, width * 0.92, color=COLOURS[method], label=NAMES[method])
        axes.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor="#222222", elinewidth=1, capsize=3)
        papers = [(x, row["paper"]) for x, row in zip(places, found, strict=True) if row["paper"] is not None]
        if papers:
            at, values = zip(*papers, strict=True)
            axes.scatter(
                at,
                values,
                marker="D",
                s=22,
                color="white",
                edgecolor="#222222",
                zorder=3,
                label="Paper" if i == 0 else None,
            )
    axes.set_xticks(range(len(TASKS)), [task.capitalize() for task in TASKS])
    axes.set_ylabel("Accuracy, %")
    axes.set_ylim(0, 100)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(methods) + 1, fontsize=9, loc="upper right")
    return figure


def training_curves(curves: Mapping[str, Curves], task: str) -> "Figure":
    """Reward, accuracy, KL, KL weight and loss of the methods trained on `task`, as far as they were logged."""
    from matplotlib.figure import Figure

    models = {method: curves[f"{method}-{task}"] for method in METHODS if f"{method}-{task}" in curves}
    names = [name for name in CURVES if any(name in found and comparable(name, m) for m, found in models.items())]
    figure = Figure(figsize=(7, 2.1 * max(1, (len(names) + 1) // 2)), layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot((len(names) + 1) // 2, 2, number)
        for method, found in models.items():
            if name in found and comparable(name, method):
                axes.plot(*found[name], color=COLOURS[method], label=NAMES[method], linewidth=1.4)
        axes.set_title(CURVES[name], loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    return figure
