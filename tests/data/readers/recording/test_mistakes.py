"""Clean recordings pass all checks; each mistake that users make is named."""

import dataclasses
import re

import numpy as np
import pytest
import recordings

from epfv2_jax.core.findings import Finding
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data import validation
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.geometry import layout, skeleton

MISTAKEN = dataclasses.replace(recordings.FOUR, poses="gt", joint_frame="world")


@pytest.fixture(scope="module", params=["aria", "made up"])
def clean(request, tmp_path_factory):
    """A folder of recordings without mistakes."""
    folder = tmp_path_factory.mktemp("clean")
    if request.param == "aria":
        shared = request.getfixturevalue("shared_data")
        return recordings.copy(shared / "aria_adt_asl", folder / "aria")
    recordings.write(folder, MISTAKEN, frames=6)
    return folder


def findings_of(folder) -> tuple[Finding, ...]:
    (validated,) = validation.validate(folder, None, 300)
    return validated.findings


def problems(findings) -> list[str]:
    return [f"{finding.check}: {finding.problem}" for finding in findings if finding.problem]


def test_a_clean_recording_passes_every_check(clean):
    found = findings_of(clean)
    assert problems(found) == []
    assert {f.check for f in found} >= {
        "sync",
        "pose_coverage",
        "quat_norm",
        "scale",
        "handedness",
        "bone_length",
        "in_view",
    }
    assert not any(f.value == "not known" for f in found)


@pytest.mark.parametrize("name", [*recordings.MISTAKES, *recordings.ODDITIES])
def test_each_mistake_is_named(clean, name, tmp_path):
    spoil, check, message = (recordings.MISTAKES | recordings.ODDITIES)[name]
    spoil(recordings.copy(clean, tmp_path / "spoilt"))
    verdict = "error" if name in recordings.MISTAKES else "warning"
    found = [f for f in findings_of(tmp_path / "spoilt") if f.verdict == verdict]
    named = [f for f in found if re.fullmatch(check, f.check) and re.search(message, f.problem)]
    assert named, problems(found)


@pytest.mark.parametrize("name", recordings.HEADSETS)
def test_limits_are_silent_on_other_headsets(name, tmp_path):
    recordings.write(tmp_path, recordings.HEADSETS[name], frames=20)
    assert problems(findings_of(tmp_path)) == []


def test_limits_are_silent_on_egobody3m(shared_data):
    sample = shared_data / "egobody3m_sample" / "603778748449547.metadata.zip"
    files = egobody3m.SequenceFiles(sequence="603778748449547", split="test", images=sample, metadata=sample)
    with egobody3m.SequenceReader(files, with_images=False) as reader:
        frames = [reader.metadata(frame) for frame in reader.frames]
        rig = rig_lib.upright(calibration.to_rig(egobody3m.calibrate(reader)), layout.EGOBODY3M, (240, 320))
    motion = validation.Motion(
        time_s=np.array([frame.time_s for frame in frames]),
        T_world_headset=np.stack([frame.T_world_headset for frame in frames]),
        joints_world_m=np.stack([frame.joints_world_m for frame in frames]),
        joint_valid=np.ones((len(frames), skeleton.EGOBODY3M.num_joints), bool),
    )
    found = list(validation.findings([motion], rig, skeleton.EGOBODY3M, layout.EGOBODY3M))
    assert problems(found) == []
    seen = [finding.value for finding in found if finding.check == "in_view"]
    assert [value.split(":")[0] for value in seen] == list(layout.EGOBODY3M.view_names)
    shares = [float(value.split(": ")[1].split("%")[0]) for value in seen]
    np.testing.assert_allclose(shares, [77, 27, 24, 77], atol=1)  # counted from the stored pixels
