"""Parts of the body by the names of any program, with roll joints in the limbs and without hands or toes."""

import re

import numpy as np
import pytest
from walker import bvh_text, walk

from epfv2_jax.data.mocap import articulated, bvh, figure

_LONG = {
    "Arm": "UpperArm", "ForeArm": "LowerArm", "Hand": "Hand", "UpLeg": "UpperLeg", "Leg": "LowerLeg", "Foot": "Foot",
    "ToeBase": "Toes",
}  # fmt: skip
_SMPL = {
    "Shoulder": "Collar", "Arm": "Shoulder", "ForeArm": "Elbow", "Hand": "Wrist", "UpLeg": "Hip", "Leg": "Knee",
    "Foot": "Ankle", "ToeBase": "Foot",
}  # fmt: skip
_BLENDER = {
    "Shoulder": "shoulder", "Arm": "upper_arm", "ForeArm": "forearm", "Hand": "hand", "UpLeg": "thigh", "Leg": "shin",
    "Foot": "foot", "ToeBase": "toe",
}  # fmt: skip
_BIPED = {
    "Shoulder": "Clavicle", "Arm": "UpperArm", "ForeArm": "Forearm", "UpLeg": "Thigh", "Leg": "Calf", "ToeBase": "Toe0",
}  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    match = re.fullmatch("(Left|Right)(.*)", name)
    return match.groups() if match else ("", name)


def _sided(parts: dict[str, str], form: str):
    def rename(name: str) -> str:
        side, part = _split(name)
        return form.format(side=side, s=side[:1], l=side[:1].lower(), part=parts.get(part, part)) if side else name

    return rename


STYLES = {
    "Mixamo": lambda name: f"mixamorig:{name}",
    "Mixamo, exported by Blender": lambda name: f"mixamorig1_{name}",
    "Bandai-Namco": _sided(_LONG, "{part}_{s}"),
    "Rokoko": _sided({"UpLeg": "Thigh", "Leg": "Shin", "ToeBase": "Toe"}, "{side}{part}"),
    "Blender": _sided(_BLENDER, "{part}.{s}"),
    "Rigify": lambda name: f"DEF-{_sided(_BLENDER, '{part}.{s}')(name).lower()}",
    "SMPL": _sided(_SMPL, "{s}_{part}"),
    "Xsens": _sided({**_SMPL, "ToeBase": "Toe"}, "{side}{part}"),
    "3ds Max": lambda name: "Bip01 " + _sided(_BIPED, "{s} {part}")(name),
    "Character Creator": lambda name: "CC_Base_" + _sided(_BIPED, "{s}_{part}")(name),
    "Unreal": lambda name: _sided({**_BIPED, "ToeBase": "Ball", "Forearm": "lowerarm"}, "{part}_{l}")(name).lower(),
    "names with spaces": lambda name: " ".join(re.findall("[A-Z][a-z0-9]*", name)),
    "a name before": lambda name: f"Model_{name}",
    "upper case": str.upper,
}


@pytest.mark.parametrize("style", STYLES)
def test_names_of_other_programs_are_understood(style, load, plain, same):
    walker = walk().renamed(STYLES[style])
    assert walker.names != walk().names
    same(load(walker), plain)


def test_a_part_that_is_missing_or_misplaced_is_named(load):
    with pytest.raises(
        ValueError, match=r"no joint for the l shin; rename it to one of lefttibia.*file has Hips, Spine"
    ):
        load(walk().renamed(lambda name: name.replace("LeftLeg", "Lever")))
    swap = {"LeftLeg": "LeftHand", "LeftHand": "LeftLeg"}
    with pytest.raises(ValueError, match="joint 'LeftLeg', by its name the l shin, is not below 'LeftUpLeg'"):
        load(walk().renamed(lambda name: swap.get(name, name)))


@pytest.mark.parametrize("twist_deg", [0.0, 40.0])
@pytest.mark.parametrize(
    "bones", [("UpLeg",), ("UpLeg", "Leg"), ("Arm", "ForeArm"), ("UpLeg", "Leg", "Arm", "ForeArm")]
)
def test_roll_joints_in_the_chain_leave_lengths_and_motion_as_they_are(bones, twist_deg, load, plain, same):
    walker = walk()
    for side in ("Left", "Right"):
        for bone in bones:
            walker = walker.with_roll(f"{side}{bone}", 0.5 if "Leg" in bone else 0.3, twist_deg)
    same(load(walker), plain)


def test_a_joint_that_bends_between_two_parts_still_gives_the_place_of_the_next(tmp_path):
    walker = walk().with_roll("LeftUpLeg", 0.5)
    rotations = walker.rotations.copy()
    rotations[:, walker.names.index("LeftUpLegRoll")] = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    path = tmp_path / "a.bvh"
    path.write_text(bvh_text(walker.replace(rotations=rotations)))
    motion = bvh.read_bvh(path)
    _, whole_m = articulated.world_pose(motion)
    body = figure.body_of(motion)
    turns, joints_m = articulated.world_pose(body)
    for name, part in (("LeftLeg", "l_shin"), ("LeftFoot", "l_foot")):
        bone, other = (
            whole[:, index(name)] - whole[:, index(above)]
            for whole, index, name, above in (
                (whole_m, motion.names.index, name, {"LeftLeg": "LeftUpLeg", "LeftFoot": "LeftLeg"}[name]),
                (joints_m, body.names.index, part, {"l_shin": "l_thigh", "l_foot": "l_shin"}[part]),
            )
        )
        np.testing.assert_allclose(
            bone / np.linalg.norm(bone, axis=-1, keepdims=True), other / np.linalg.norm(other, axis=-1, keepdims=True),
            atol=1e-5,
        )  # fmt: skip
    rotation = articulated.world_pose(motion)[0][:, motion.names.index("LeftFoot")]
    np.testing.assert_allclose(turns[:, body.names.index("l_foot")], rotation, atol=1e-9)


def test_the_hand_is_taken_by_its_name(load, plain, same):
    walker = walk()
    at = walker.names.index("LeftForeArm") + 1  # a roll joint beside the hand, before it in the file
    parents = np.insert(np.array([p if p < at else p + 1 for p in walker.parents]), at, at - 1)
    walker = walker.replace(
        names=(*walker.names[:at], "LeftForeArmRoll", *walker.names[at:]),
        parents=tuple(parents.tolist()),
        offsets=np.insert(walker.offsets, at, [12.0, 5.0, 5.0], axis=0),
        rotations=np.insert(walker.rotations, at, np.eye(3), axis=1),
    )
    same(load(walker), plain)


@pytest.mark.parametrize("parts", [("Hand",), ("ToeBase",), ("Hand", "ToeBase")])
def test_the_end_of_the_bone_stands_for_a_hand_or_toes_without_a_joint(parts, load, plain, same):
    text = bvh_text(walk(), end=False)
    head, time, rows = text.partition("Frame Time: 0.0083333\n")
    names = walk().names
    columns = [
        *range(3),
        *(3 + 3 * i + k for i, name in enumerate(names) for k in range(3) if not name.endswith(parts)),
    ]
    for part in parts:
        head = re.sub(rf"JOINT \w+{part}(\s*{{\s*OFFSET .*)\n\s*CHANNELS.*", r"End Site\1", head)
    rows = "\n".join(" ".join(np.array(row.split())[columns]) for row in rows.splitlines())
    assert head.count("End Site") == 2 * len(parts)
    same(load(head + time + rows), plain)


def test_joints_above_the_hips_and_beside_the_body_are_left_out(load, plain, same):
    walker = walk()
    walker = walker.replace(
        names=("Reference", *walker.names, "Tail"),
        parents=(-1, 0, *(p + 1 for p in walker.parents[1:]), 0),
        offsets=np.concatenate([np.zeros((1, 3)), walker.offsets, [[0.0, 5.0, -60.0]]]),
        rotations=np.concatenate(
            [walker.rotations[:, :1], np.tile(np.eye(3), (len(walker.root), 1, 1, 1)), walker.rotations[:, 1:],
             walker.rotations[:, :1]], axis=1
        ),
    )  # fmt: skip
    same(load(walker), plain)
