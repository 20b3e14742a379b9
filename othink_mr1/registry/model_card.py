"""What a person should know of a registered model before using it, as Markdown."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from othink_mr1.models.adapter import Adapter

_METHODS = {
    "sft": "supervised fine-tuning",
    "grpo": "GRPO with a constant KL weight",
    "grpo_d": "GRPO-D, GRPO whose KL weight changes during training",
}
# The settings that say most about a run; all of them are in its MLflow run.
_SETTINGS = (
    "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "num_generations", "temperature",
    "kl_schedule", "beta_min", "beta_max", "max_completion_length", "target",
)  # fmt: skip


def model_card(
    task: str,
    method: str,
    metrics: Mapping[str, Any],
    base_metrics: Mapping[str, Any],
    params: Mapping[str, Any],
    provenance: Mapping[str, Any],
    tags: Mapping[str, str],
    adapter: Adapter | None = None,
    origin: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The card of the model that `method` trained on `task`.

    Args:
        metrics: its evaluation/<model>/metrics.json.
        base_metrics: the same of the base model.
        params: the resolved parameters.
        provenance: data/<task>/provenance.json, empty where there is none.
        tags: of the version: commit and DVC's digests.
        adapter: where LoRA trained it.
        origin: name and revision of the base on the hub, where it came from there.
    """
    base = params.get("base", {})
    lora = " Only a LoRA adapter was trained." if adapter else ""
    parts = [
        f"# {method} on {task}",
        f"Trained with {_METHODS[method]} on {task} questions about pictures. Base: {_base(base, origin)}.{lora}",
        "## Results",
        _results(task, metrics, base_metrics),
        "## Training",
        _settings(params.get("train", {}).get(method, {}).get(task, {}), adapter),
        "## Data",
        _data(task, params, provenance),
        "## Intended use",
        f"Research on {task} questions of the kind in its test set: one picture, one question; thinking and answer.",
        "## Limits",
        _limits(task, metrics, base),
        "## Where it comes from",
        "\n".join(f"- {key}: `{value}`" for key, value in tags.items() if value),
    ]
    return "\n\n".join(parts) + "\n"


def _results(task: str, metrics: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    lines = ["| test set | n | accuracy (95% interval) | base | format |", "|---|---|---|---|---|"]
    for name, of_task in metrics.get("tasks", {}).items():
        kind = "same task" if name == task else "cross task"
        other = base.get("tasks", {}).get(name)
        lines.append(
            f"| {name} ({kind}) | {of_task['n']} | {_accuracy(of_task)} | {_accuracy(other) if other else '-'} "
            f"| {100 * of_task.get('format_accuracy', 0):.0f}% |"
        )
    return "\n".join(lines) + "\n\nGreedy answers to R1-V's test prompts, read by the strict protocol."


def _accuracy(of_task: Mapping[str, Any]) -> str:
    strict = of_task["strict"]
    low, high = strict["ci95"]
    return f"{100 * strict['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def _base(base: Mapping[str, Any], origin: Mapping[str, str]) -> str:
    name, revision = base.get("name") or origin.get("name"), origin.get("revision") or base.get("revision")
    if name:
        return f"{name} at revision {revision or 'not recorded'}"
    if base.get("sha256"):
        return f"a model folder with the sha256 {base['sha256']}"
    return "a tiny model made for the demo"


def _settings(settings: Mapping[str, Any], adapter: Adapter | None) -> str:
    lines = [f"- {key}: {settings[key]}" for key in _SETTINGS if settings.get(key) is not None]
    if adapter is not None:
        vision = "adapted as well" if adapter.vision else "frozen"
        form = "the version holds the adapter" if adapter.alone else "merged into the base"
        lines.append(
            f"- LoRA: rank {adapter.rank}, alpha {adapter.alpha:g}, on {', '.join(adapter.targets)}; vision tower "
            f"{vision}; {form}"
        )
    elif settings.get("freeze_vision"):
        lines.append("- vision tower: frozen")
    return "\n".join(lines) or "Not recorded."


def _data(task: str, params: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    sources = params.get("data", {}).get(task, {})
    lines = []
    for split in ("train", "validation", "test"):
        known = provenance.get("splits", {}).get(split, {})
        source = known.get("source") or sources.get(split) or {}
        named_below = ("licence", "revision", "sha256") if known else ()
        parts = [f"{key} {value}" for key, value in source.items() if _plain(value) and key not in named_below]
        if "rows" in known:
            parts.insert(0, f"{known['rows']} rows")
        parts += [f"{key} {known[key]}" for key in ("licence", "revision", "sha256") if known.get(key)]
        put_aside = known.get("quarantined", {})
        if put_aside:
            reasons = ", ".join(f"{rows} {reason}" for reason, rows in put_aside.items())
            parts.append(f"{sum(put_aside.values())} of {known['read']} rows put aside ({reasons})")
        parts += [f"{what}: {rows}" for what, rows in known.get("changed", {}).items()]
        lines.append(f"- {split}: " + ", ".join(parts))
    return "\n".join(lines)


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and len(str(value)) <= 80


def _limits(task: str, metrics: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    lines = []
    if base.get("source") == "tiny":
        lines.append("- The base is the demo's: made improvable on purpose, of use only to show that the chain works.")
    for name, of_task in metrics.get("tasks", {}).items():
        wrong = 100 * (1 - of_task["strict"]["accuracy"])
        lines.append(f"- It answers {wrong:.0f}% of the {name} test questions wrongly, and nothing in a reply says so.")
    lines.append("- Other kinds of pictures and questions were not tested; the thinking need not be why it answers.")
    return "\n".join(lines)
