"""The shapes of a batch, from the manifest alone."""

import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.data.records import Records


def abstract_batch(records: Records, clip_frames: int, batch_size: int, *, pseudo: bool = False) -> structs.Batch:
    """Returns a batch of `jax.ShapeDtypeStruct`; reads no record and allocates nothing of a batch's size.

    Args:
      records: give V, J, image size and camera model.
      clip_frames: frames T of a clip.
      batch_size: clips B of a batch, those of a teacher included.
      pseudo: with the teacher's fields, as `mixed_batches` returns them.
    """
    B, T, J = batch_size, clip_frames, records.skeleton.num_joints
    one = structs.blank_frames(1, clip_frames, records.num_views, records.image_size_hw, records.camera_model)

    def array(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    frames = jax.tree.map(lambda leaf: array((B, *leaf.shape[1:]), leaf.dtype), one)
    return structs.Batch(
        frames=frames.replace(T_world_before=array((B, 4, 4), jnp.float32)),
        targets=structs.Targets(
            joints_headset_m=array((B, T, J, 3), jnp.float32),
            joint_valid=array((B, T, J), jnp.bool_),
            pseudo=array((B,), jnp.bool_) if pseudo else None,
            cholesky_m=array((B, T, J, 3, 3), jnp.float32) if pseudo else None,
        ),
        clip_id=array((B,), jnp.int32),
        time_s=array((B, T), jnp.float32),
    )
