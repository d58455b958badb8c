"""Drawn people: the same bytes everywhere, landmarks on the features, plainly different people."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ffhqref.core.images import read as read_image
from ffhqref.demo.album import Wanted, album, map_photos, photograph
from ffhqref.demo.portrait import paint, people, shape, traits
from ffhqref.demo.portrait.camera import ffhq_frame, landmarks_of
from ffhqref.demo.portrait.people import Portrait, render_portrait
from ffhqref.demo.portrait.raster import Mesh, rasterize
from ffhqref.faces.geometry import ffhq_matrix

SEED = 5


def digest(wanted: Wanted) -> str:
    return hashlib.sha256(
        render_portrait(wanted.seed, wanted.number, wanted.photo).image.tobytes()
    ).hexdigest()


def test_a_portrait_is_the_same_in_another_process_and_with_workers() -> None:
    wanted = [Wanted(SEED, 0, 0), Wanted(SEED, 3, 1), Wanted(SEED, 1, 0)]
    here = [digest(one) for one in wanted]
    assert len(set(here)) == 3
    assert list(map_photos(digest, wanted[::-1], 2)) == here[::-1]
    code = (
        "from ffhqref.demo.portrait.people import Portrait, render_portrait as d; import hashlib, sys; "
        f"sys.stdout.write(hashlib.sha256(d({SEED}, 3, 1).image.tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout == here[1]


def test_a_portrait_is_512_px_of_rgb_with_landmarks_known_without_drawing() -> None:
    portrait = render_portrait(SEED, 2, 0)
    assert portrait.image.shape == (512, 512, 3) and portrait.image.dtype == np.uint8
    np.testing.assert_array_equal(portrait.landmarks, landmarks_of(SEED, 2, 0))


def test_faces_are_framed_as_ffhq_frames_them() -> None:
    marks = np.stack([landmarks_of(SEED, number, 0) for number in range(40)])
    eyes = marks[:, :2].mean(1)
    assert np.abs(eyes.mean(0) - [256, 240]).max() < 8  # FFHQ's mean eyes lie at 0.47 of the height
    width = np.linalg.norm(marks[:, 1] - marks[:, 0], axis=1)
    assert 110 < width.mean() < 134 and width.max() < 142
    assert (marks[:, 2, 1] > eyes[:, 1] + 25).all(), "noses below eyes"
    assert (marks[:, 3:, 1].mean(1) > marks[:, 2, 1]).all(), "mouths below noses"
    assert (marks[:, 1, 0] > marks[:, 0, 0]).all() and (marks[:, 4, 0] > marks[:, 3, 0]).all()


def test_the_frame_is_that_of_the_crop_for_photographs() -> None:
    """Without a photographer's jitter the frame is what `faces.ffhq_crop` would cut."""
    points = np.array([[-1.1, 0.1], [0.9, -0.1], [0.1, 1.2], [-0.8, 2.1], [0.9, 2.0]])
    exact = replace(traits.shot(SEED, 0, 0), tilt=0.0, zoom=1.0, shift=(0.0, 0.0))
    np.testing.assert_allclose(
        ffhq_frame(points, exact), ffhq_matrix(points.astype(np.float32)), rtol=1e-4, atol=1e-3
    )


def _patch(
    image: npt.NDArray[np.uint8], place: npt.NDArray[np.float64], reach: int
) -> npt.NDArray[np.float64]:
    x, y = (int(round(value)) for value in place)
    return image[y - reach : y + reach + 1, x - reach : x + reach + 1].astype(np.float64)


def test_the_eye_landmarks_lie_on_dark_pupils_in_white_eyes(portraits: dict[int, list[Portrait]]) -> None:
    """Within 7 px of an eye's landmark there is a pupil, darker than everything beside it on the cheek."""
    right = 0
    for portrait, *_ in portraits.values():
        for eye in portrait.landmarks[:2]:
            pupil = _patch(portrait.image, eye, 7).mean(-1).min()
            cheek = np.median(_patch(portrait.image, eye + [0, 62], 8).mean(-1))
            right += pupil < 0.62 * cheek
    assert right >= 22  # of 24; hair or glasses may hide one


@pytest.mark.parametrize("point", range(5))
def test_a_landmark_follows_its_painted_feature(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A green spot painted on the skin where the feature is shows up at the landmark, at every pose."""
    plain = people.paint

    def spotted(who: traits.Person, taken: traits.Shot) -> object:
        skin = plain(who, taken)
        mesh = shape.head(who, taken)
        places = [
            (-mesh.eye[0], mesh.eye[1]),
            mesh.eye,
            mesh.nose,
            (-mesh.mouth[0], mesh.mouth[1]),
            mesh.mouth,
        ]
        a, v = places[point]
        centre = (
            round((a + paint.SKIN_SPAN) * paint.SKIN_SCALE),
            round((paint.SKIN_SPAN - v) * paint.SKIN_SCALE),
        )
        cv2.circle(skin.color, centre, 7, (0.0, 1.0, 0.0), -1)
        return skin

    monkeypatch.setattr(people, "paint", spotted)
    off = []
    for number in (2, 4, 6, 9):
        portrait = render_portrait(SEED, number, 1)
        image = portrait.image.astype(np.int32)
        green = image[..., 1] - np.maximum(image[..., 0], image[..., 2])
        place = portrait.landmarks[point]
        near = green[int(place[1]) - 12 : int(place[1]) + 13, int(place[0]) - 12 : int(place[0]) + 13]
        if near.max() > 40:  # else it is turned away or behind hair
            y, x = np.nonzero(near > near.max() / 2)
            off.append(np.hypot(x.mean() - 12 - place[0] % 1, y.mean() - 12 - place[1] % 1))
    assert len(off) >= 3 and max(off) < 2.5, off


def test_photos_of_one_person_differ_and_keep_the_person() -> None:
    shots = [traits.shot(SEED, 1, photo) for photo in range(8)]
    assert len({shot.yaw for shot in shots}) == 8
    assert max(shot.yaw for shot in shots) - min(shot.yaw for shot in shots) > 0.3  # radians
    assert traits.person(SEED, 1) == traits.person(SEED, 1) != traits.person(SEED, 2)
    assert traits.person(SEED, 1) != traits.person(SEED + 1, 1)


def test_people_cover_tones_genders_and_ages() -> None:
    crowd = [traits.person(SEED, number) for number in range(150)]
    assert {who.skin_tone for who in crowd} == set(traits.SKIN_TONES)
    assert {who.gender for who in crowd} == {"Male", "Female"}
    assert min(who.age for who in crowd) >= 18 and max(who.age for who in crowd) > 65
    assert all(who.beard == "none" for who in crowd if who.gender == "Female")
    assert len({who.style for who in crowd}) >= 10


def test_turning_the_head_turns_it_in_space() -> None:
    """A head that looks to the right shows its nose right of the eyes' middle, and the other way round."""
    for number in range(30):
        for photo in range(3):
            yaw = traits.shot(SEED, number, photo).yaw
            marks = landmarks_of(SEED, number, photo)
            middle = (marks[0] + marks[1]) / 2
            if abs(yaw) > 0.25:
                assert np.sign(marks[2, 0] - middle[0]) == np.sign(yaw), (number, photo)


def test_the_rasteriser_agrees_with_brute_force() -> None:
    """Coverage and depth of two crossing sheets, against a test of each pixel and triangle."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(40, 300, 6), np.linspace(30, 200, 5)), -1)
    points = np.concatenate([grid + rng.uniform(-9, 9, grid.shape), rng.uniform(0, 80, (5, 6, 1))], -1)
    mesh = Mesh(points.astype(np.float32), points.astype(np.float32), both_sides=True)
    layer = rasterize(mesh)
    want = np.full((512, 512), -np.inf)
    for i in range(4):
        for j in range(5):
            a, b, c, d = points[i, j], points[i + 1, j], points[i + 1, j + 1], points[i, j + 1]
            for triangle in ((a, b, c), (a, c, d)):
                _fill(want, np.stack(triangle))
    got = np.full(512 * 512, -np.inf)
    got[layer.pixel] = layer.depth
    got = got.reshape(512, 512)
    both = np.isfinite(want) & np.isfinite(got)
    assert both.sum() > 40_000 and (np.isfinite(want) != np.isfinite(got)).sum() < 5  # px on an edge
    np.testing.assert_allclose(got[both], want[both], atol=0.05)
    y, x = np.divmod(layer.pixel, 512)
    np.testing.assert_allclose(layer.values[:, :2], np.stack([x, y], -1), atol=0.01)


def _fill(depth: npt.NDArray[np.float64], corner: npt.NDArray[np.float64]) -> None:
    y, x = np.mgrid[0:512, 0:512]
    inverse = np.linalg.inv(np.vstack([corner[:, :2].T, np.ones(3)]))
    weights = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]).astype(np.float64))
    inside = weights.min(0) >= 0
    depth[inside] = np.maximum(depth[inside], (weights * corner[:, 2, None, None]).sum(0)[inside])


def test_names_tell_nothing_and_an_album_is_the_start_of_a_larger_one() -> None:
    small, large = album(SEED, 6), album(SEED, 12)
    assert small == large[: len(small)]
    names = [one.name for one in large]
    assert len(set(names)) == len(names) and all(len(name) == 12 for name in names)
    assert {len([w for w in large if w.number == n]) for n in range(12)} <= set(range(1, 9))


def test_a_damaged_photograph_is_drawn_again_and_a_whole_one_kept(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("photos")
    wanted = Wanted(SEED, 0, 0)
    first = photograph(folder, wanted)
    path = folder / wanted.name
    good = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    again = photograph(folder, wanted)
    assert path.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.landmarks, first.landmarks)
    path.write_bytes(good[: len(good) // 2])
    photograph(folder, wanted)
    assert path.read_bytes() == good
    assert read_image(path).shape == (512, 512, 3)
