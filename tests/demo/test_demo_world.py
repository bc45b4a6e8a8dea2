"""Attributes, captions and the pixels that must show them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.demo import captions
from linkedout_lightning.demo.render import COLORS, LIGHTS, render, sampled_instants, trajectory
from linkedout_lightning.demo.world import (
    ATTRIBUTES,
    CUTS,
    NAMES,
    NUISANCES,
    Clips,
    from_words,
    sample_clips,
)
from linkedout_lightning.errors import DataError


def clips_with(n: int = 12, seed: int = 0, **fixed: str) -> Clips:
    clips = sample_clips(n, np.random.default_rng(seed))
    for name, word in fixed.items():
        clips.codes[:, NAMES.index(name)] = ATTRIBUTES[name].index(word)
    return clips


def subject_masks(clips: Clips, instants: np.ndarray) -> np.ndarray:
    return render(clips, instants, size=96, masks=True)[1][:, :, 0] / 255.0  # (n, T, 96, 96)


def centroids(masks: np.ndarray) -> np.ndarray:
    axis = (np.arange(96) + 0.5) / 48 - 1
    mass = masks.sum((-1, -2))
    x = (masks.sum(-2) * axis).sum(-1) / mass
    y = (masks.sum(-1) * axis).sum(-1) / mass
    return np.stack([x, y], -1)


def test_words_and_codes_are_inverse():
    clips = sample_clips(200, np.random.default_rng(1))
    back = from_words({name: clips.words(name) for name in NAMES}, clips.nuisance)
    np.testing.assert_array_equal(back.codes, clips.codes)


def test_every_value_is_drawn_about_equally_often():
    clips = sample_clips(24_000, np.random.default_rng(2))
    for name, values in ATTRIBUTES.items():
        share = np.bincount(clips.code(name), minlength=len(values)) / len(clips)
        np.testing.assert_allclose(share, 1 / len(values), atol=0.015)


@pytest.mark.parametrize(
    ("codes", "nuisance", "said"),
    [
        (np.zeros((3, 5), int), np.zeros((3, NUISANCES), np.float32), "expected"),
        (np.zeros((3, 12), int), np.zeros((2, NUISANCES), np.float32), "expected"),
        (np.full((3, 12), 9), np.zeros((3, NUISANCES), np.float32), "sizes"),
    ],
)
def test_broken_clips_are_refused(codes, nuisance, said):
    with pytest.raises(DataError, match=said):
        Clips(codes=codes, nuisance=nuisance)


def test_unknown_words_are_named():
    columns = {name: [values[0]] for name, values in ATTRIBUTES.items()}
    with pytest.raises(DataError, match="plaid"):
        from_words(columns | {"fill": ["plaid"]}, np.zeros((1, NUISANCES), np.float32))
    del columns["fill"]
    with pytest.raises(DataError, match="`fill` is missing"):
        from_words(columns, np.zeros((1, NUISANCES), np.float32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_caption_tells_all_and_can_be_read_back(seed):
    rng = np.random.default_rng(seed)
    (words,) = captions.clip_words(sample_clips(1, rng))
    text = captions.caption(words, rng)
    assert captions.read_caption(text) == words
    assert set(text.split()) <= set(captions.vocabulary())


def test_captions_come_in_many_orders():
    rng = np.random.default_rng(0)
    (words,) = captions.clip_words(sample_clips(1, rng))
    assert len({captions.caption(words, rng) for _ in range(50)}) > 40


def test_half_a_caption_says_half():
    assert captions.read_caption("a large star , beside a red") == {
        "size": "large",
        "shape": "star",
        "companion_color": "red",
    }


def test_a_clip_looks_the_same_alone_and_among_others():
    clips = sample_clips(40, np.random.default_rng(3))
    together, masks = render(clips, sampled_instants(4), size=64, masks=True)
    for i in (0, 17, 39):
        alone, mask = render(clips[slice(i, i + 1)], sampled_instants(4), size=64, masks=True)
        np.testing.assert_array_equal(alone[0], together[i])
        np.testing.assert_array_equal(mask[0], masks[i])


@pytest.mark.parametrize(
    ("event", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_moves_go_where_they_are_said_to_go(event, axis, sign):
    for speed, least in (("slow", 0.25), ("fast", 0.6)):
        clips = clips_with(event=event, speed=speed, size="small")
        way = np.diff(centroids(subject_masks(clips, sampled_instants(8))), axis=1).sum(1)
        assert (way[:, axis] * sign > least).all()
        assert (np.abs(way[:, 1 - axis]) < 0.1).all()


def test_growing_spinning_and_blinking_show():
    instants = sampled_instants(8)
    for event, sign in (("grows", 1), ("shrinks", -1)):
        area = subject_masks(clips_with(event=event, size="small"), instants).sum((-1, -2))
        assert (np.sign(np.diff(area, axis=1)) == sign).all()
    area = subject_masks(clips_with(n=40, event="blinks"), instants).sum((-1, -2))
    assert ((area == 0).any(1) & (area > 0).any(1)).all()
    spin = clips_with(event="spins", shape="arrow", size="small")
    still = clips_with(event="blinks", shape="arrow", size="small")
    turned = np.diff(trajectory(spin, instants).angle, axis=1)
    assert (np.abs(turned) > 0.2).all()
    assert (trajectory(still, instants).angle.std(axis=1) < 1e-6).all()


@pytest.mark.parametrize("pacing", ATTRIBUTES["pacing"])
def test_cuts_are_where_pacing_says(pacing):
    clips = clips_with(n=8, pacing=pacing, camera="still", event="spins", light="day")
    frames, masks = render(clips, sampled_instants(32), size=64, masks=True)
    backdrop = masks.max((1, 2)) == 0  # pixels that nothing ever covers
    change = np.abs(np.diff(frames.astype(float), axis=1)).mean(-1)  # (n, 31, 64, 64)
    cuts = CUTS[ATTRIBUTES["pacing"].index(pacing)]
    expected = {32 * k // (cuts + 1) - 1 for k in range(1, cuts + 1)}
    for one, free in zip(change, backdrop, strict=True):
        jumps = {t for t in range(31) if one[t][free].mean() > 2.0}
        assert jumps == expected


def test_the_camera_moves_the_backdrop_and_only_then():
    for camera, moves in (("still", False), ("pan", True), ("zoom", True)):
        clips = clips_with(n=6, pacing="calm", camera=camera, event="spins", light="day")
        frames, masks = render(clips, sampled_instants(8), size=64, masks=True)
        free = masks.max((1, 2)) == 0
        change = np.abs(frames[:, 0].astype(float) - frames[:, -1]).mean(-1)
        assert all((c[f].mean() > 0.5) == moves for c, f in zip(change, free, strict=True))


@pytest.mark.parametrize("color", ATTRIBUTES["color"])
@pytest.mark.parametrize("light", ATTRIBUTES["light"])
def test_a_solid_subject_has_its_color_under_the_light(color, light):
    clips = clips_with(n=4, color=color, light=light, fill="solid", shape="square", event="spins")
    course = trajectory(clips, sampled_instants(1))
    frames, _ = render(clips, sampled_instants(1), size=96)
    row = ((course.y[:, 0] + 1) * 48).astype(int)
    column = ((course.x[:, 0] + 1) * 48).astype(int)
    centre = frames[np.arange(4), 0, row, column] / 255.0
    expected = np.array(COLORS[color]) * LIGHTS[light]
    np.testing.assert_allclose(centre, np.broadcast_to(expected, (4, 3)), atol=0.01)


def test_silhouettes_differ():
    pictures = {}
    for shape in ATTRIBUTES["shape"]:
        clips = clips_with(n=1, shape=shape, event="blinks", size="large")
        clips.nuisance[:] = 0.5
        clips.nuisance[:, 5] = 0.0
        masks = subject_masks(clips, np.linspace(0, 1, 9, dtype=np.float32))[0]
        pictures[shape] = masks[masks.sum((-1, -2)) > 0][0] > 0.5
    names = list(pictures)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = (pictures[a] & pictures[b]).sum() / (pictures[a] | pictures[b]).sum()
            assert both < 0.85, (a, b, both)
