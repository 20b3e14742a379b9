"""`othink merge`: a LoRA adapter and its base as one whole model."""

from pathlib import Path


def merge(adapter: Path, out: Path, base: Path | None) -> None:
    """Write the whole model and print where it lies.

    Raises:
        UserError: no adapter, its base is not there or another one, or `out` is there already.
    """
    from othink_mr1.models.loading import save_merged

    save_merged(adapter, out, base)
    print(f"{adapter} and its base are one model in {out}")
