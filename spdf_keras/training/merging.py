"""Makes a run without an adapter of a fine-tuning with LoRA."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spdf_keras.adapters.merge import kept_share, merge
from spdf_keras.config import Config, SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.training.checkpoint import (
    checkpoint_step,
    read_checksums,
    save_checkpoint,
)
from spdf_keras.training.run import Run


def merge_run(
    run: Run,
    folder: str | Path,
    *,
    keep_masks: bool = False,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Adds the adapter of a run to its weights, and writes them as a new run.

    The new run is a fine-tuning of the same base and task, which every command takes.

    Args:
        run: A fine-tuning with LoRA; it is not changed.
        folder: The folder of the new run.
        keep_masks: Whether to mask the adapter's product, so that zeros stay; see
            `merge`.
        tell: Called with sentences that say what the merge does.

    Returns:
        `sparsity` before and after (`sparsity_before`), and `kept`, the share of the
        adapter's squared norm that is in the new weights.

    Raises:
        InputError: If the run has no adapter, or no masks to keep, or the folder is in
            use.
        TrainingError: If the checkpoint cannot be written.
    """
    tell = tell or (lambda _: None)
    lora = run.adapter_settings()
    if lora is None:
        raise InputError(
            "The run must be a fine-tuning with LoRA, as `spdf-keras finetune --lora` "
            f"makes one. Received: '{run.folder}', which has no adapter."
        )
    model = run.load_model()
    before, kept = model.sparsity, kept_share(model) if keep_masks else 1.0
    merged = merge(model, keep_masks)
    checkpoint, result = run.checkpoint(), run.result() or {}
    target = Run(Path(folder))
    with target.writing():
        if target.result() is None and "merged" in target.origin():
            target.remove_checkpoints()  # of a merge that was killed
        if target.checkpoints():
            raise InputError(
                f"The folder '{folder}' is in use: choose another. It holds a run that "
                "has checkpoints."
            )
        origin = {
            **run.origin(),
            "masks": "kept" if keep_masks else "merged",
            "merged": {
                "folder": run.folder.resolve().name,
                "step": checkpoint_step(checkpoint),
                "weights": read_checksums(checkpoint).get("weights.safetensors"),
                "lora": dataclasses.asdict(lora),
                "kept": kept,
            },
        }
        target.start(_config(run.config(), keep_masks), run.tokenizer(), origin)
        save_checkpoint(merged, target.checkpoint_folder, checkpoint_step(checkpoint))
        target.finish(result)
    if before and not keep_masks:
        names = ", ".join(lora.targets)
        tell(
            f"The merge makes the base dense: {before:.0%} of its masked weights were "
            f"zero, and {names} have none any more; the new run has no masks. "
            "--keep-masks keeps them, and changes the function."
        )
    if keep_masks:
        tell(
            f"The masks keep {kept:.0%} of the adapter's squared norm, so the new run "
            "computes another function than the one that was trained. Evaluate it, or "
            "fine-tune it further with --keep-masks."
        )
    return {"sparsity_before": before, "sparsity": merged.sparsity, "kept": kept}


def _config(config: Config, keep_masks: bool) -> Config:
    return dataclasses.replace(
        config,
        sparsity=config.sparsity if keep_masks else SparsityConfig(),
        finetune=dataclasses.replace(
            config.finetune, lora_rank=0, keep_masks=keep_masks
        ),
    )
