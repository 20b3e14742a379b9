"""What a step reads and writes: `python -m steps.<name>`."""
