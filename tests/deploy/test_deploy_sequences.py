"""Recorded sequences as inputs of a graph."""

import jax
import numpy as np

from epfv2_jax.data import images, records
from epfv2_jax.deploy import sequences
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing import fakes

SIZE_HW = (16, 16)


def test_late_frames_are_gaps(tmp_path):
    batch = fakes.fake_batch(B=2, T=4, image_hw=SIZE_HW)
    spec = records.RecordSpec(
        image_size_hw=SIZE_HW,
        camera_model="fisheye",
        frame_s=0.1,
        skeleton=skeleton.EGOBODY3M,
        layout=layout.EGOBODY3M,
    )
    runs = [
        records.FrameRun(
            sequence=f"s{b}",
            split="test",
            frame_index=np.arange(4, dtype=np.int32),
            time_s=np.array(time_s),
            jpegs=tuple(tuple(map(images.encode_grey, views)) for views in batch.frames.images[b]),
            T_world_headset=batch.frames.T_world_headset[b],
            joints_world_m=batch.targets.joints_headset_m[b],
            joint_valid=batch.targets.joint_valid[b],
            view_valid=batch.frames.view_valid[b],
            rig=jax.tree.map(lambda leaf, b=b: leaf[b].copy(), batch.frames.rig),
        )
        for b, time_s in enumerate(([0.5, 0.6, 0.7, 0.8], [0.0, 0.3, 0.41, 0.6]))
    ]
    shard = records.write_shard(tmp_path / "a.arrayrecord", runs)
    records.write_manifest(tmp_path, records.Manifest(split="test", spec=spec, shards=(shard,)))
    (sequence,) = sequences.recorded_sequences(records.open_records(tmp_path), batch=2, num_frames=4)
    np.testing.assert_array_equal(sequence.frames["frame_gap"], [[1, 1], [1, 3], [1, 1], [1, 2]])
    assert set(sequence.recorded) == {"time_s", "joints_world_m", "joint_valid"}
    np.testing.assert_allclose(sequence.recorded["time_s"][:, 1], [0.0, 0.3, 0.41, 0.6])
    assert sequences.random_sequence(2, 4, SIZE_HW, batch=1).recorded == {}
