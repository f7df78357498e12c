"""The arrays that travel between the parts: dtype, shape, unit and coordinate frame of every field, said once.

Frames (coordinate systems): `world` has y up and the floor near y = 0; `headset` has +x to the wearer's left, +y up
and +z forward; `cam` has +x right, +y down and +z along the optical axis of the upright image. Lengths are metres.
``T_a_b`` is a 4x4 matrix that maps coordinates in b to coordinates in a. Leading axes: the legend in `epfv2_jax.core`.
"""

import jax
from flax import struct

from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.cameras import Camera


class Rig(struct.PyTreeNode):
    """The cameras of a headset: one `Camera` with leading axes (..., V) and the pose of the headset in each."""

    cameras: Camera  # leading axes (..., V)
    T_cam_headset: jax.Array  # (..., V, 4, 4) float32

    def project(self, joints_headset_m: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns where in each image joints (B, T, J, 3) lie, and whether its lens can see them; of a rig (B, V).

        Positions are (B, T, V, J, 2), x right and y down, from 0 to 1 over the image, and finite in any case; the
        second array is (B, T, V, J) bool and True outside the image too.
        """
        with jax.default_matmul_precision("highest"):
            camera = jax.tree.map(lambda leaf: leaf[:, None], self.cameras)
            joints_cam_m = transforms.apply(self.T_cam_headset[:, None], joints_headset_m[:, :, None])
            uv_px, seen = cameras.project(camera, joints_cam_m)
            return (cameras.normalized_uv(camera, uv_px) + 1) / 2, seen


class Frames(struct.PyTreeNode):
    """What the model sees."""

    images: jax.Array  # (B, T, V, H, W) uint8, or float32 in [0, 1] after augmentation; monochrome, upright
    rig: Rig  # leading axes (B, V)
    T_world_headset: jax.Array  # (B, T, 4, 4) float32
    view_valid: jax.Array  # (B, T, V) bool: False where a camera delivered no usable image
    frame_valid: jax.Array  # (B, T) bool: False on padding; padding only follows valid frames
    # (B, T) int32, frame times of the data (`RecordSpec.frame_s`) since the previous frame of the stream, rounded; 1
    # where none was dropped. What a model knows of time: its window and positions count frame times, not seconds.
    frame_gap: jax.Array
    # (B, 4, 4) float32 of the frame before the first, which frame_gap[:, 0] counts from; zeros where the clip begins
    # its recording. None: nothing is known of the time before.
    T_world_before: jax.Array | None = None


class Targets(struct.PyTreeNode):
    """The truth, or what a teacher takes for it."""

    joints_headset_m: jax.Array  # (B, T, J, 3) float32
    joint_valid: jax.Array  # (B, T, J) bool
    pseudo: jax.Array | None = None  # (B,) bool: clips labelled by a teacher; None where there are none
    cholesky_m: jax.Array | None = None  # (B, T, J, 3, 3) of the teacher, as in `Predictions`; identity elsewhere


class Batch(struct.PyTreeNode):
    """Clips of T consecutive frames."""

    frames: Frames
    targets: Targets
    clip_id: jax.Array  # (B,) int32: index of the clip in its data set, for reports and per-clip random streams
    # (B, T) float32, seconds since the clip's first frame; strictly increasing, on padding by the nominal frame time.
    # For losses and metrics; models get `frame_gap`.
    time_s: jax.Array
