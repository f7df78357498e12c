"""A tiny model and frames for it: small enough that a test's time is its compile time."""

import types

import jax
import numpy as np
import pytest

from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.structs import Frames, Rig
from epfv2_jax.testing import fakes

NUM_VIEWS = fakes.TWO_VIEWS.num_views
SIZE = 16


def tiny_config(**changes) -> EPFv2Config:
    """Returns a configuration of the tiny model; `changes` replace fields."""
    small = {
        "encoder": "small",
        "width": 16,
        "heads": 2,
        "ffn_width": 16,
        "head_width": 16,
        "window": 10,
    }
    return EPFv2Config(**{**small, **changes})


def tiny_model(**changes) -> EPFv2:
    """Returns a model of `tiny_config` for two views and the joints of EgoBody3M."""
    return EPFv2(tiny_config(**changes), EGOBODY3M, fakes.TWO_VIEWS)


def make_rig(batch: int, num_views: int = NUM_VIEWS) -> Rig:
    """Returns fisheye cameras at the sides of the headset that look down: straight, forward, or back."""
    camera = cameras.fisheye62(
        focal_px=(5.0, 5.5), center_px=(7.5, 7.5), k=[0.05, -0.01, 0, 0, 0, 0], p=(1e-3, -1e-3), size_px=(SIZE, SIZE)
    )
    T_cam_headset = np.zeros((num_views, 4, 4), np.float32)
    for v, tilt in enumerate((0.3, 0.0, 0.7, -0.7)[:num_views]):
        # Rows: camera x = wearer's right, camera y = forward-ish, camera z = down, turned by `tilt`.
        down = np.array([0, -np.cos(tilt), np.sin(tilt)])
        right = np.array([-1.0, 0, 0])
        T_cam_headset[v, :3, :3] = np.stack([right, np.cross(down, right), down])
        T_cam_headset[v, :3, 3] = -T_cam_headset[v, :3, :3] @ np.array([0.06 * (-1) ** v, 0.0, 0.05])
        T_cam_headset[v, 3, 3] = 1
    rig = Rig(cameras=cameras.stack([camera] * num_views), T_cam_headset=T_cam_headset)
    return jax.tree.map(lambda x: np.broadcast_to(x, (batch, *x.shape)).copy(), rig)


def make_frames(batch: int, num_frames: int, seed: int = 0, num_views: int = NUM_VIEWS) -> Frames:
    """Returns random images seen by a headset on a smooth random walk; all valid, no gaps."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(rng.normal(0, 0.05, (batch, num_frames)), axis=1)
    T_world_headset = np.zeros((batch, num_frames, 4, 4), np.float32)
    T_world_headset[..., 0, 0] = T_world_headset[..., 2, 2] = np.cos(angle)
    T_world_headset[..., 0, 2], T_world_headset[..., 2, 0] = np.sin(angle), -np.sin(angle)
    T_world_headset[..., 1, 1] = T_world_headset[..., 3, 3] = 1
    walk = np.cumsum(rng.normal(0, 0.02, (batch, num_frames, 3)), axis=1)
    T_world_headset[..., :3, 3] = walk + np.array([0.0, 1.6, 0.0])
    return Frames(
        images=rng.integers(0, 255, (batch, num_frames, num_views, SIZE, SIZE), np.uint8),
        rig=make_rig(batch, num_views),
        T_world_headset=T_world_headset,
        view_valid=np.ones((batch, num_frames, num_views), bool),
        frame_valid=np.ones((batch, num_frames), bool),
        frame_gap=np.ones((batch, num_frames), np.int32),
    )


def time_slice(frames: Frames, start: int, stop: int) -> Frames:
    """Returns frames start ... stop - 1 of the clips."""
    sliced = jax.tree.map(lambda x: x[:, start:stop], frames.replace(rig=None))
    return sliced.replace(rig=frames.rig)


class Tiny:
    """Models of `tiny_config`, their variables and compiled steps, made once for the whole session."""

    def __init__(self):
        self._made = {}

    def __call__(self, **changes):
        """Returns (model, variables, step); step(variables, frames, state) is compiled once per chunk length."""
        config = tiny_config(**changes)
        if config not in self._made:
            model = tiny_model(**changes)
            variables = fakes.random_variables(model, make_frames(1, 1))
            step = jax.jit(lambda v, frames, state: model.apply(v, frames, state, method="step"))
            self._made[config] = (model, variables, step)
        return self._made[config]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """The factory of tiny models."""
    return Tiny()


@pytest.fixture(scope="session")
def helpers():
    """The functions above, for tests that cannot import this file."""
    return types.SimpleNamespace(
        make_frames=make_frames,
        make_rig=make_rig,
        time_slice=time_slice,
        tiny_config=tiny_config,
        tiny_model=tiny_model,
    )
