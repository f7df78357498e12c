import stat

import jax
import pytest

from epfv2_jax.core import compile_cache


@pytest.fixture(autouse=True)
def restored(monkeypatch, tmp_path):
    """The suite's own setting comes back, whatever a test does; the environment says nothing."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_default_is_private_and_in_force(tmp_path):
    directory = compile_cache.enable()
    assert directory == tmp_path / "cache/epfv2_jax/compiled"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(directory)
    assert compile_cache.enable() == directory


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path, caplog, mode):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    before = jax.config.jax_compilation_cache_dir
    assert compile_cache.enable(tmp_path / "shared") is None
    assert "no one else can write to" in caplog.text and str(tmp_path / "shared") in caplog.text
    assert jax.config.jax_compilation_cache_dir == before


def test_a_user_without_a_home_keeps_nothing(monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(compile_cache.os, "getuid", lambda: 4_000_000_000)  # in no passwd file
    assert compile_cache.enable() is None
    assert "this user has no home; set XDG_CACHE_HOME" in caplog.text


def test_a_link_is_refused(tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert compile_cache.enable(tmp_path / "link") is None
    assert "chmod 700" in caplog.text


def test_a_place_that_cannot_be_made_is_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert compile_cache.enable(tmp_path / "file" / "below") is None
    assert "compiled programs are not kept" in caplog.text


def test_what_the_environment_says_is_left_in_force(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    before = jax.config.jax_compilation_cache_dir
    assert compile_cache.enable() == tmp_path / "mine"
    assert jax.config.jax_compilation_cache_dir == before
