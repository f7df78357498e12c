"""ASF/AMC beyond CMU's own files: names of HDM05, extensions, and bytes that are no ASF or AMC."""

import pytest
from walker import walk, write_asf_amc

from epfv2_jax.data.mocap import loading


def test_the_walker_as_asf_and_amc_is_the_walker(tmp_path, plain, same):
    same(loading.load_clip(write_asf_amc(walk(), tmp_path, "01.asf", "01_01.amc"), fps=120), plain)


@pytest.mark.parametrize(
    ("asf", "amc"),
    [
        ("HDM_bd.asf", "HDM_bd_01-01_01_120.amc"),
        ("HDM_bd.ASF", "HDM_bd_walk4StepsLstart_001_120.AMC"),
        ("hdm_BD.asf", "HDM_bd_01-01_01_120.Amc"),
        ("90.ASF", "90_01.AMC"),
        ("walk.asf", "walk.amc"),
    ],
)
def test_the_skeleton_of_hdm05_and_of_any_case_is_found(tmp_path, plain, same, asf, amc):
    path = write_asf_amc(walk(), tmp_path, asf, amc)
    for other in ("HDM.asf", "HDM_b.asf", "HDM_bk.asf", "HDM_bd_01.asf.txt"):
        if other.lower() != asf.lower():
            (tmp_path / other).write_text("not this one")
    same(loading.load_clip(path, fps=120), plain)


def test_a_skeleton_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    path = write_asf_amc(walk(seconds=0.1), tmp_path, "HDM_bk.asf", "HDM_bd_01-01_01_120.amc")
    with pytest.raises(ValueError, match=r"HDM\.asf: no such file.*put the subject's ASF beside .*HDM_bd.*HDM_bk\.asf"):
        loading.load_clip(path, fps=120)


def test_words_in_upper_case_and_a_skin_section_are_read(tmp_path, plain, same):
    path = write_asf_amc(walk(), tmp_path, "01.asf", "01_01.amc")
    asf = path.with_name("01.asf")
    text = asf.read_text().replace("angle deg", "ANGLE DEG").replace("dof rx ry rz", "DOF RX RY RZ")
    asf.write_text("# written by hand\n" + text + ":skin\n  skins/none\n")
    path.write_text("#!OML:ASF\n" + path.read_text().replace(":DEGREES", ":degrees"))
    same(loading.load_clip(path, fps=120), plain)


def test_deep_and_circular_hierarchies_are_read_or_refused(tmp_path):
    path = write_asf_amc(walk(seconds=0.1), tmp_path, "01.asf", "01_01.amc")
    asf = path.with_name("01.asf")
    text = asf.read_text()
    bone = "  begin\n name x{}\n direction 0 1 0\n length 1\n axis 0 0 0 XYZ\n  end\n"
    for count, message in ((900, None), (3000, "more than 1000 bones")):
        many = "".join(bone.format(i) for i in range(count))
        chain = "head x0\n" + "".join(f"x{i} x{i + 1}\n" for i in range(count - 1))
        head, tail = text.split(":hierarchy\n  begin\n")
        asf.write_text(f"{head}{many}:hierarchy\n  begin\n{chain}{tail}")
        if message is None:
            assert loading.load_clip(path, fps=120).num_frames == 3
        else:
            with pytest.raises(ValueError, match=message):
                loading.load_clip(path, fps=120)
    head, tail = text.split(":hierarchy\n  begin\n")
    asf.write_text(f"{head}{bone.format('a')}{bone.format('b')}:hierarchy\n  begin\nxa xb\nxb xa\n{tail}")
    with pytest.raises(ValueError, match=r"bone 'xa' is not below 'root'"):
        loading.load_clip(path, fps=120)
