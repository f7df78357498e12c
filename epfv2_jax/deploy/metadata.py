"""What a graph says about itself: all that is needed to feed it and to read its outputs, as JSON in the ONNX file."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx

import epfv2_jax
from epfv2_jax import structs
from epfv2_jax.checkpoints import About, Card
from epfv2_jax.core import config as config_lib
from epfv2_jax.deploy import session, trace
from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.deploy.step import Exporter
from epfv2_jax.models import base


def describe(
    exporter: Exporter,
    variables: Any,
    about: About,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    precision: str,
    card: Card | None,
) -> dict[str, Any]:
    """Returns the metadata of a graph for the images and cameras of `about`; JSON-ready.

    Of a packaged model, its licence and training data too.
    """
    model = exporter.model
    skeleton = model.skeleton
    return {
        "format_version": session.FORMAT_VERSION,
        "package": "epfv2_jax",
        "version": epfv2_jax.__version__,
        "opset": trace.OPSET,
        "precision": precision,
        "checkpoint_sha256": variables_sha256(variables),
        "model": config_lib.to_mapping(model.config),
        "skeleton": skeleton.name,
        "joint_names": skeleton.joint_names,
        "parents": skeleton.parents,
        "joint_groups": skeleton.metric_groups,
        "degrees_of_freedom": _degrees_of_freedom(exporter, about.image_size_hw),
        "units": {"length": "metre", "angle": "radian", "time": "frame time of the training data"},
        "axes": {
            "world": "y up, floor near y = 0",
            "headset": "+x to the wearer's left, +y up, +z forward",
            "camera": "+x right, +y down, +z along the optical axis of the upright image",
            "T_a_b": "4x4 matrix that maps column vectors of coordinates in b to coordinates in a",
        },
        "camera_model": about.camera_model,
        "camera_order": model.layout.view_names,
        "image_size_hw": about.image_size_hw,
        **exporter.metadata(),
        **({} if card is None else {"licence": card.licence, "training_data": card.training_data}),
        "inputs": [dataclasses.asdict(tensor) for tensor in inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in outputs],
    }


def _degrees_of_freedom(exporter: Exporter, image_size_hw: tuple[int, int]) -> float | None:
    """Returns those of the Student-t that the outputs `cholesky_m` belong to; None without uncertainty."""
    frames = structs.blank_frames(1, 1, exporter.model.layout.num_views, image_size_hw)
    distribution = base.abstract_predictions(exporter.model, frames).distribution
    return None if distribution is None else distribution.degrees_of_freedom


def write(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Writes metadata into an ONNX model, in place of any that it has."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    model.producer_name, model.producer_version = "epfv2_jax", epfv2_jax.__version__


def variables_sha256(variables: Any) -> str:
    """Returns the SHA-256 of all arrays of a tree with their paths, shapes and types, in hexadecimal digits."""
    digest = hashlib.sha256()
    for key, leaf in sorted((jax.tree_util.keystr(k), v) for k, v in jax.tree_util.tree_leaves_with_path(variables)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{key} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
