"""Rendered demo tasks: one `scene(seed, index, split, image_size)` a task."""
