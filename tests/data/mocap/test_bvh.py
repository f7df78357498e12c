"""BVH as programs write it: every dialect gives the motion of the plain file; bytes that are no BVH are refused."""

import re

import numpy as np
import pytest
from walker import Walker, bvh_text, walk

from epfv2_jax.data.mocap import bvh, loading

BASE = bvh_text(walk())
_HEAD, _, _ROWS = BASE.partition("Frame Time: 0.0083333\n")


def wrapped(text: str) -> str:
    """Rows broken after every fifth number."""
    head, time, rows = text.partition("Frame Time: 0.0083333\n")
    broken = [re.sub(r"((?:\S+ ){5})", r"\1\n", row) for row in rows.splitlines()]
    return head + time + "\n".join(broken) + "\n"


def second_root(text: str, values: str) -> str:
    prop = "ROOT Prop\n{\nOFFSET 0 0 0\nCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
    prop += "End Site\n{\nOFFSET 0 1 0\n}\n}\nMOTION\n"
    head, time, rows = text.replace("MOTION\n", prop).partition("Frame Time: 0.0083333\n")
    return head + time + "".join(f"{row}{values}\n" for row in rows.splitlines())


DIALECTS = {
    "frames announced one too few": BASE.replace("Frames: 120", "Frames: 119"),
    "frames announced one too many": BASE.replace("Frames: 120", "Frames: 121"),
    "byte order mark": "\ufeff" + BASE,
    "line ends of Windows": BASE.replace("\n", "\r\n"),
    "no space after Frames": BASE.replace("Frames: ", "Frames:"),
    "frames without a colon": BASE.replace("Frames: ", "Frames "),
    "no space after Frame Time": BASE.replace("Frame Time: ", "Frame Time:"),
    "frame time in lower case": BASE.replace("Frame Time: ", "frame time: ").replace("Frames", "frames"),
    "Motion": BASE.replace("MOTION", "Motion"),
    "MOTION with a colon": BASE.replace("MOTION", "MOTION:"),
    "hierarchy in lower case": BASE.replace("HIERARCHY", "hierarchy")
    .replace("JOINT", "Joint")
    .replace("End S", "END S"),
    "braces on the line of the joint": re.sub(r"\n\t*{", " {", BASE),
    "tabs and blank lines": _HEAD + "Frame Time:\t0.0083333\n\n" + _ROWS.replace(" ", "\t").replace("\n", "\n\n"),
    "wrapped rows": wrapped(BASE),
    "no end sites": bvh_text(walk(), end=False),
    "a prop with values": second_root(BASE, " 1 2 3 4 5 6"),
    "a prop without values": second_root(BASE, ""),
    "positions of all joints": bvh_text(walk(), positions="absolute"),
    "positions of all joints as changes": bvh_text(walk(), positions="change"),
    "positions of all joints, no offsets": re.sub(
        r"(\n\t\t+OFFSET) .*(\n\t+CHAN)", r"\1 0 0 0\2", bvh_text(walk(), positions="absolute")
    ),
    "channels in the order of Blender": bvh_text(walk(), order="XYZ"),
    "metres": bvh_text(walk(), unit=0.01),
    "inches": bvh_text(walk(), unit=1 / 2.54),
    "millimetres": bvh_text(walk(), unit=10.0),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_give_the_same_motion(dialect, load, plain, same):
    if dialect not in ("metres", "inches", "millimetres", "no end sites"):
        assert DIALECTS[dialect] != BASE
    same(load(DIALECTS[dialect]), plain)


@pytest.mark.parametrize("fps", [24, 25, 50, 60, 100, 120, 200, 240])
def test_every_frame_rate_gives_the_same_speed(fps, load, plain, same):
    clip = load(walk(fps=fps))
    frames = min(clip.num_frames, plain.num_frames)
    assert frames >= 29
    way_m = clip.root_position_m[:, 2]
    np.testing.assert_allclose(np.diff(way_m), 1.2 / 30, atol=2e-3)


def carried(walker: Walker) -> Walker:
    """Bandai-Namco: a root that stays on the floor, above hips that move."""
    parents = (-1, 0, *(p + 1 for p in walker.parents[1:]))
    still = np.broadcast_to(np.eye(3), (len(walker.root), 1, 3, 3))
    return walker.replace(
        names=("joint_Root", *walker.names),
        parents=parents,
        offsets=np.concatenate([np.zeros((1, 3)), [[0.0, 90.0, 0.0]], walker.offsets[1:]]),
        rotations=np.concatenate([still, walker.rotations], axis=1),
        root=np.zeros_like(walker.root),
    )


def test_hips_that_move_below_a_root_carry_the_figure(load, plain, same):
    walker = walk()
    text = bvh_text(carried(walker), positions="absolute")
    head, time, rows = text.partition("Frame Time: 0.0083333\n")
    numbers = np.array([row.split() for row in rows.splitlines()], float)
    numbers[:, 6:9] = walker.root
    text = head + time + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in numbers)
    same(load(text), plain)
    numbers[:, 42:45] *= np.linspace(1.0, 9.0, len(numbers))[:, None]
    text = head + time + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in numbers)
    with pytest.raises(ValueError, match=r"path of joint 'LeftArm' against its parent.*must be in \[0.0, 0.1\]"):
        load(text)


def test_extension_in_upper_case(tmp_path, plain, same):
    path = tmp_path / "WALK.BVH"
    path.write_text(BASE)
    same(loading.load_clip(path), plain)


def test_the_shared_dialects_walk_like_the_plain_file(shared_data, same):
    plain = loading.load_clip(shared_data / "cases" / "bvh_base" / "base.bvh")
    read = []
    for path in sorted((shared_data / "cases" / "bvh_refused").glob("*.bvh")):
        if path.stem == "lafan_like":  # its offsets, with its angles, are no person: the legs always lie along x
            with pytest.raises(
                ValueError, match=r"lafan_like\.bvh: neither the rest pose nor any frame stands upright"
            ):
                loading.load_clip(path)
            continue
        clip = loading.load_clip(path)
        read.append(path.stem)
        if not path.stem.startswith("ft_"):  # those are the same rows at another rate
            same(clip, plain)
    assert len(read) == 13


def test_a_deep_or_wide_figure_is_read_or_refused_quickly(tmp_path):
    joint = "JOINT J{}\n{{\nOFFSET 0 1 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n"
    for count, message in ((900, None), (5000, "more than 1000 joints")):
        text = "HIERARCHY\nROOT R\n{\nOFFSET 0 0 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n"
        text += "".join(joint.format(i) for i in range(count)) + "}\n" * (count + 1)
        text += "MOTION\nFrames: 1\nFrame Time: 0.01\n" + "0 " * 3 * (count + 1)
        path = tmp_path / "deep.bvh"
        path.write_text(text)
        if message is None:
            assert len(bvh.read_bvh(path).names) == count + 1
        else:
            with pytest.raises(ValueError, match=message):
                bvh.read_bvh(path)
