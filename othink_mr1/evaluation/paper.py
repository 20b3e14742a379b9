"""The accuracies of arXiv 2503.16081v2, in percent, to stand beside ours."""

# Table 1: size -> task -> method
SAME_TASK: dict[str, dict[str, dict[str, float]]] = {
    "2b": {
        "counting": {"base": 42.5, "grpo": 64.5, "sft": 68.5, "grpo_d": 76.5},
        "geometry": {"base": 15.52, "grpo": 30.24, "sft": 32.49, "grpo_d": 34.35},
    },
    "7b": {
        "counting": {"base": 76.0, "grpo": 76.5, "sft": 74.5, "grpo_d": 78.0},
        "geometry": {"base": 33.16, "grpo": 42.04, "sft": 43.5, "grpo_d": 45.49},
    },
}
# Figure 7, worked out from the percentages in its text: size -> task tested on -> method trained on the other task
CROSS_TASK: dict[str, dict[str, dict[str, float]]] = {
    "2b": {
        "counting": {"base": 42.5, "sft": 43.0, "grpo_d": 69.5},
        "geometry": {"base": 15.52, "sft": 3.45, "grpo_d": 16.18},
    },
}
