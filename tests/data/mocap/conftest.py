"""The walking figure as a clip, to compare others with."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from walker import Walker, bvh_text, walk

from epfv2_jax.data.mocap import loading
from epfv2_jax.data.mocap.clip import MotionClip
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON


@pytest.fixture
def load(tmp_path) -> Callable[..., MotionClip]:
    """Writes a walker, or the text of a file, as BVH and loads it."""

    def load_walker(walker: Walker | str | bytes, **style) -> MotionClip:
        path = tmp_path / "walk.bvh"
        text = bvh_text(walker, **style) if isinstance(walker, Walker) else walker
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return loading.load_clip(path)

    return load_walker


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> MotionClip:
    """The clip of the walker without a quirk."""
    path: pathlib.Path = tmp_path_factory.mktemp("walk") / "walk.bvh"
    path.write_text(bvh_text(walk()))
    clip = loading.load_clip(path)
    assert speed_m_s(clip) == pytest.approx(1.2, rel=0.01) and head_m(clip) == pytest.approx(1.45, abs=0.02)
    return clip


def speed_m_s(clip: MotionClip) -> float:
    way = clip.root_position_m[-1] - clip.root_position_m[0]
    return float(np.linalg.norm(way[[0, 2]])) * clip.fps / (clip.num_frames - 1)


def head_m(clip: MotionClip) -> float:
    """Height of the head above the lower ankle."""
    _, joints_m = clip.world_pose
    ankles = [SKELETON.joint_names.index(f"b_{side}_talocrural") for side in "lr"]
    return float(np.median(joints_m[:, SKELETON.joint_names.index("b_head"), 1] - joints_m[:, ankles, 1].min(axis=1)))


@pytest.fixture(scope="session")
def same() -> Callable[[MotionClip, MotionClip], None]:
    """Asserts that two clips show the same motion, but for where it starts and the way that it faces."""

    def assert_same(clip: MotionClip, other: MotionClip, atol_m: float = 2e-3, turn_deg: float = 0.1) -> None:
        rotations, joints_m = clip.world_pose
        wanted_rotations, wanted_m = other.world_pose
        assert joints_m.shape == wanted_m.shape
        yaw = wanted_rotations[0, 0] @ rotations[0, 0].T
        np.testing.assert_allclose(yaw[1], [0, 1, 0], atol=np.radians(turn_deg))
        turned_m = (joints_m - joints_m[0, 0]) @ yaw.T
        np.testing.assert_allclose(turned_m, wanted_m - wanted_m[0, 0], atol=atol_m)
        cosine = 0.5 * (np.einsum("fjab,fjab->fj", yaw @ rotations, wanted_rotations) - 1)
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < turn_deg

    return assert_same
