"""Temporal attention against a plain reference that looks at every pair of frames."""

import jax
import numpy as np
import pytest

from epfv2_jax.models.epfv2 import temporal

WINDOW, HEADS, WIDTH = 4, 2, 8


@pytest.fixture(scope="module")
def layer():
    """The layer's variables and compiled call."""
    module = temporal.TemporalAttention(HEADS, WINDOW, rope_base=10.0)
    tokens = np.zeros((1, 1, WIDTH), np.float32)
    empty = temporal.empty_cache(1, WINDOW, HEADS, WIDTH // HEADS)
    masks = np.ones((1, 1), bool), np.ones((1, 1), np.int32)
    return jax.jit(module.init)(jax.random.key(0), tokens, *masks, empty), jax.jit(module.apply)


def reference(variables, tokens, frame_gap):
    """The layer for one person, all frames valid, frame by frame in float64."""
    W = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    q, k, v = (np.einsum("tc,cak->tak", tokens, W[n]["kernel"]) + W[n]["bias"] for n in ("query", "key", "value"))
    time = np.cumsum(frame_gap)
    half = WIDTH // HEADS // 2
    angle = time[:, None] * 10.0 ** (-np.arange(half) / half)

    def turn(x):
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], axis=-1)

    q, k = turn(q), turn(k)
    out = []
    for t in range(len(tokens)):
        seen = [j for j in range(t + 1) if time[t] - time[j] < WINDOW]
        logits = np.einsum("ak,nak->an", q[t], k[seen]) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads = np.einsum("an,nak->ak", weights, v[seen])
        out.append(np.einsum("ak,akc->c", heads, W["out"]["kernel"]) + W["out"]["bias"])
    return np.stack(out)


def stream(layer, tokens, frame_valid, frame_gap, chunks):
    """The layer over chunks of the given lengths."""
    variables, apply = layer
    cache = temporal.empty_cache(len(tokens), WINDOW, HEADS, WIDTH // HEADS)
    out, start = [], 0
    for n in chunks:
        part = (x[:, start : start + n] for x in (tokens, frame_valid, frame_gap))
        y, cache = apply(variables, *part, cache)
        out.append(y)
        start += n
    return np.concatenate(out, axis=1), cache


@pytest.mark.parametrize("chunks", [(13,), (1,) * 13, (5, 2, 1, 5), (3, 10)])
def test_any_chunking_gives_the_reference_with_gaps(layer, chunks):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 13, WIDTH)).astype(np.float32)
    frame_gap = np.stack([np.ones(13), rng.choice([1, 1, 2, 3, 2**31 - 1], 13)]).astype(np.int32)
    out, _ = stream(layer, tokens, np.ones((2, 13), bool), frame_gap, chunks)
    for b in range(2):
        # int64 times: the reference has no overflow to fear.
        np.testing.assert_allclose(out[b], reference(layer[0], tokens[b], frame_gap[b].astype(np.int64)), atol=2e-6)


def test_padding_is_neither_seen_nor_written(layer):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(1, 9, WIDTH)).astype(np.float32)
    gap = np.ones((1, 9), np.int32)
    expected, cache = stream(layer, tokens, np.ones((1, 9), bool), gap, (9,))
    padding = np.full((1, 2, WIDTH), 7.0, np.float32)
    padded = np.concatenate([tokens[:, :4], padding, tokens[:, 4:5], padding[:, :1], tokens[:, 5:]], axis=1)
    valid = np.array([[1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1]], bool)
    for chunks in ((6, 2, 4), (1,) * 12):
        out, padded_cache = stream(layer, padded, valid, np.ones((1, 12), np.int32), chunks)
        np.testing.assert_allclose(out[valid], expected[0], atol=2e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), cache, padded_cache)
        assert np.isfinite(out).all()


def test_a_long_stream_keeps_positions_small(layer):
    tokens = np.tile(np.random.default_rng(2).normal(size=(1, 8, WIDTH)).astype(np.float32), (1, 2, 1))
    ones = np.ones((1, 8), bool), np.ones((1, 8), np.int32)
    variables, apply = layer
    cache = temporal.empty_cache(1, WINDOW, HEADS, WIDTH // HEADS)
    outs = []
    for _ in range(50):
        out, cache = apply(variables, tokens[:, :8], *ones, cache)
        outs.append(out)
    np.testing.assert_array_equal(outs[1], outs[-1])  # bitwise: nothing knows how long the stream has run
    np.testing.assert_array_equal(cache.age, [[2, 1, 0]])


def test_window_of_one_sees_the_frame_itself():
    module = temporal.TemporalAttention(HEADS, 1, rope_base=10.0)
    tokens = np.random.default_rng(3).normal(size=(1, 5, WIDTH)).astype(np.float32)
    valid, gap = np.ones((1, 5), bool), np.ones((1, 5), np.int32)
    cache = temporal.empty_cache(1, 1, HEADS, WIDTH // HEADS)
    variables = jax.jit(module.init)(jax.random.key(0), tokens, valid, gap, cache)
    apply = jax.jit(module.apply)
    out, cache = apply(variables, tokens, valid, gap, cache)
    alone, _ = apply(variables, tokens[:, 3:4], valid[:, :1], gap[:, :1], cache)
    np.testing.assert_allclose(out[:, 3:4], alone, atol=1e-6)
    assert cache.keys.shape[1] == 0
