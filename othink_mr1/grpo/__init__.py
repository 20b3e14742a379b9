"""GRPO and GRPO-D on shared prompts, one file for each part of the paper's equations."""
