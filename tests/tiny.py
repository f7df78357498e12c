"""Flags that leave nothing of the recipe quickstart but its shape: the command ends in seconds."""

FIELDS = {
    "dataset.synthetic.validation_sequences": 1,
    "dataset.synthetic.test_sequences": 1,
    "dataset.synthetic.frames": 8,
    "dataset.conversion.image_size_hw": "16,16",
    "dataset.conversion.record_frames": 8,
    "dataset.conversion.doubtful": "keep",
    "data.batch_size": 2,
    "data.clip_frames": 2,
    "data.warmup": "None",
    "model.encoder": "tiny",
    "model.body": "keypoints",
    "model.window": 2,
    "model.width": 16,
    "model.heads": 2,
    "model.ffn_width": 16,
    "model.head_width": 16,
    "optimizer.kind": "adamw",
    "step.steps": 2,
    "evaluation.ablate_views": "false",
    "evaluation.pictures": 1,
    "evaluation.clip_frames": 8,
}


def flags(**fields: object) -> list[str]:
    """Returns the flags, with other values for some fields; `__` stands for a dot."""
    changed = {name.replace("__", "."): value for name, value in fields.items()}
    return [f"--config.{name}={value}" for name, value in (FIELDS | changed).items()]
