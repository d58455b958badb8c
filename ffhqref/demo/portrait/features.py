"""The features of a drawn face, painted on its skin: eyes, brows, nose, mouth, beard."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ffhqref.demo.portrait.hair import scalp_line
from ffhqref.demo.portrait.paint import Points, Skin, bare, curve, mirrored, noise, shaded, window
from ffhqref.demo.portrait.shape import WRAP, Reals, bump, eye_at, mouth_half, mouth_height, nose_tip, step
from ffhqref.demo.portrait.traits import Color, Person, Shot, as_color, person

DARK = (0.09, 0.06, 0.055)  # of lashes and brows
LIPSTICKS = ((0.72, 0.2, 0.24), (0.74, 0.32, 0.34), (0.62, 0.22, 0.3), (0.8, 0.38, 0.36))
EYES = window(-2.1, 2.1, -0.8, 1.4)
MOUTH = window(-1.6, 1.6, -3.3, -0.8)


def paint(who: Person, taken: Shot) -> Skin:
    """The face's skin in one photo, expression included."""
    static = _static(who.seed, who.number)
    skin = Skin(static.color.copy(), static.relief.copy(), static.gloss.copy())
    _mouth(skin.part(*MOUTH), who, taken)
    _eyes(skin.part(*EYES), who, taken)
    _brows(skin.part(*EYES), who, taken)
    return skin


@lru_cache(maxsize=2)
def _static(seed: int, number: int) -> Skin:
    """What no expression moves, kept for a person's next photo."""
    who = person(seed, number)
    skin = bare(who)
    _hair_roots(skin, who)
    _beard(skin, who)
    _nose(skin.part(*MOUTH), who)
    return skin


def _lids(who: Person, taken: Shot) -> tuple[Points, Points]:
    """The upper and the lower edge of the eye on the right of the picture, from the nose outwards."""
    s = who.shape
    t = np.linspace(-1, 1, 41)
    half = 0.48 * (1 + s["eye_size"])
    opening = (1 + s["eye_open"]) * taken.lids * (1 + s["eye_size"])
    squint = 1 - 0.22 * max(taken.smile, 0)
    slope = (0.05 + s["eye_tilt"]) * t * half
    raised = 1.15 - 0.4 * max(taken.smile, 0)
    upper = 0.215 * opening * squint * (1 - np.abs(t + 0.06) ** 2.3).clip(0) + slope
    lower = -0.15 * opening * raised * (1 - np.abs(t - 0.1) ** 2.2).clip(0) + slope
    a = eye_at(who) + half * t
    return np.stack([a, upper], -1), np.stack([a, lower], -1)


def _eyes(skin: Skin, who: Person, taken: Shot) -> None:
    upper, lower = _lids(who, taken)
    opened = skin.polygons(np.vstack([upper, lower[::-1]]), 0.006)
    _eyelids(skin, who, upper, lower)
    skin.fill(opened, (0.86, 0.83, 0.81))
    corner = np.array([upper[0], upper[0] + [0.07, 0.0]])
    corners = np.maximum(*[skin.lines([side], 0.09, 0.03) for side in mirrored(corner)])
    skin.fill(opened * corners, (0.83, 0.55, 0.52))
    half = opened.shape[1] // 2
    for side, columns in ((-1, slice(0, half)), (1, slice(half, None))):
        _iris(skin.part(slice(None), columns), who, taken, side, opened[:, columns])
    above = skin.lines(mirrored(upper), 0.10, 0.045)
    skin.dye(opened * above * 0.75, (0.45, 0.42, 0.42))  # the lid's shadow on the eyeball
    skin.gloss[:] = np.maximum(skin.gloss * (1 - opened), 0.2 * opened)
    _lashes(skin, who, upper, lower)


def _iris(skin: Skin, who: Person, taken: Shot, side: int, opened: Reals) -> None:
    """Iris, pupil and the light's reflection in one eye, inside `opened`."""
    eye, radius = eye_at(who), 0.205 * (1 + 0.4 * who.shape["eye_size"])
    a, v = skin.grid()
    x, y = a - (side * eye + taken.gaze[0]), v - (0.045 + taken.gaze[1])
    r = np.sqrt(x * x + y * y) / radius
    iris = opened * (1 - step(r, 0.93, 1.04))
    rays = 1 + 0.16 * np.sin(np.arctan2(y, x) * 17 + 5 * r) * step(r, 0.3, 0.6) + 0.35 * (0.55 - r)
    rays *= 1 + 0.35 * np.clip(-y / radius, -0.6, 1)  # light falls in from above and shines below
    skin.cover(iris, np.array(who.eyes, np.float32) * rays[..., None])
    skin.dye(iris * step(r, 0.74, 1.0), (0.38, 0.36, 0.38))
    skin.fill(opened * (1 - step(r, 0.36, 0.46)), (0.02, 0.02, 0.025))
    glint = 0.07 if taken.light[0] > 0 else -0.07
    skin.fill(opened * (1 - step(np.hypot(x - glint, y - 0.075), 0.028, 0.05)), (1.0, 1.0, 1.0), 0.95)
    skin.fill(opened * (1 - step(np.hypot(x + glint, y + 0.06), 0.0, 0.045)), (1.0, 1.0, 1.0), 0.3)


def _eyelids(skin: Skin, who: Person, upper: Points, lower: Points) -> None:
    """The fold above the eye, make-up on the lid, the soft edge below."""
    fold = np.array([0.02, 0.13 * (1 + who.shape["lid_fold"])])
    crease = upper[2:-1] + fold * np.array([1, 1])
    mask = skin.lines(mirrored(crease), 0.025, 0.018)
    strength = float(np.clip(0.85 + 0.6 * who.shape["lid_fold"], 0.25, 1))
    skin.dye(mask * strength, (0.56, 0.47, 0.45))
    skin.relief -= 0.05 * strength * mask
    lid = skin.polygons(np.vstack([upper, crease[::-1]]), 0.04)
    tint = (0.72, 0.58, 0.62) if who.number % 2 else (0.66, 0.56, 0.5)
    skin.dye(lid * (0.35 + 0.65 * who.makeup), tint if who.makeup > 0.2 else (0.86, 0.8, 0.78))
    edge = lower + np.array([0, -0.035])
    skin.fill(skin.lines(mirrored(edge), 0.03, 0.015), shaded(who.skin, 1.07), 0.6)
    bag = lower + np.array([0, -0.14])
    skin.dye(skin.lines(mirrored(bag), 0.05, 0.05) * 0.6, (0.84, 0.76, 0.75))


def _lashes(skin: Skin, who: Person, upper: Points, lower: Points) -> None:
    skin.fill(skin.lines(mirrored(upper), 0.035 + 0.02 * who.makeup, 0.007), DARK, 0.92)
    wing = upper[20:] + np.linspace(0, 0.025, 21)[:, None] * np.array([1, 1])
    skin.fill(skin.lines(mirrored(wing), 0.045 + 0.02 * who.makeup, 0.01), DARK, 0.9)
    skin.fill(skin.lines(mirrored(lower[8:]), 0.018, 0.01), DARK, 0.3 + 0.4 * who.makeup)
    if who.gender == "Female":
        length = 0.09 + 0.06 * who.makeup
        t = np.linspace(-0.3, 1, 17)
        roots = upper[14:31]
        tips = roots + length * np.stack([0.25 + 0.5 * t, 0.9 - 0.35 * t], -1)
        strokes = [stroke for pair_ in zip(roots, tips, strict=True) for stroke in mirrored(np.array(pair_))]
        skin.fill(skin.lines(strokes, 0.011, 0.004), DARK, 0.55 + 0.3 * who.makeup)


def _brows(skin: Skin, who: Person, taken: Shot) -> None:
    s, eye, rng = who.shape, eye_at(who), who.generator("brows")
    lift = 0.56 + s["brow_height"] + 0.09 * taken.brows
    arch = 0.1 * (1 + s["brow_arch"])
    start, end = eye - 0.56, eye + 0.62 * (1 + s["brow_length"])
    spine = curve((start, lift + 0.07 - s["brow_tilt"] / 2), (start + 0.4, lift + 0.03 + 0.6 * arch),
                   (eye + 0.22, lift + arch + 0.03), (end, lift - 0.1 + s["brow_tilt"] / 2))  # fmt: skip
    thick = 0.115 * (1 + s["brow_thick"])
    t = np.linspace(0, 1, len(spine))
    width = (thick * np.minimum(1, 0.55 + 2 * t) * (1 - 0.8 * t**2.2))[:, None] * np.array([0, 1])
    shade = skin.polygon(np.vstack([spine + width, (spine - width)[::-1]]), 0.035)
    shade = shade + shade[:, ::-1]
    base = np.array(who.hair) * (0.75 if sum(who.hair) > 1.2 else 0.9)
    color = as_color(0.75 * base + 0.25 * np.array(DARK) if sum(who.hair) < 2.2 else base * 0.85)
    skin.fill(shade, color, 0.5)
    strokes = []
    for place, across in zip(rng.uniform(0, 1, 150), rng.uniform(-1, 1, 150), strict=True):
        index = int(place * (len(spine) - 1))
        root = spine[index] + width[index] * across
        lean = np.array([0.06 + 0.12 * place, (0.11 - 0.17 * place) - 0.05 * across])
        strokes += mirrored(np.stack([root, root + lean * (0.7 + thick)]))
    skin.fill(skin.lines(strokes, 0.011, 0.004), color, 0.85)
    skin.relief += 0.012 * shade


def _hair_roots(skin: Skin, who: Person) -> None:
    """The shadow of hair at its roots, or of shaved hair."""
    a, v = skin.grid()
    line = scalp_line(who, np.abs(a) / WRAP)
    mask = step(v - line, 0.0, 0.4) * (0.14 if who.style == "bald" else 0.6)
    tone = np.array(who.hair, np.float32) * (0.8 + 0.1 * noise("pores"))[..., None]
    skin.cover(mask, np.clip(tone, 0, 1))


def _nose(skin: Skin, who: Person) -> None:
    tip, wide = nose_tip(who), 1 + who.shape["nose_width"]
    hole = curve((0.09 * wide, tip - 0.2), (0.18 * wide, tip - 0.155), (0.28 * wide, tip - 0.2),
                  (0.26 * wide, tip - 0.25), (0.15 * wide, tip - 0.25))  # fmt: skip
    mask = skin.polygons(hole, 0.022)
    skin.fill(mask, (0.2, 0.09, 0.08) if sum(who.skin) > 1.4 else (0.1, 0.05, 0.04), 0.85)
    wing = curve((0.40 * wide, tip + 0.13), (0.52 * wide, tip - 0.02), (0.52 * wide, tip - 0.19),
                  (0.38 * wide, tip - 0.27))  # fmt: skip
    mask = skin.lines(mirrored(wing), 0.035, 0.035)
    skin.dye(0.55 * mask, (0.62, 0.5, 0.48))
    skin.relief -= 0.04 * mask


def _lip_lines(who: Person, taken: Shot) -> list[Points]:
    """Upper lip's upper and lower edge, lower lip's upper and lower edge, from left to right."""
    s = who.shape
    smile, centre, half = taken.smile, mouth_height(who), mouth_half(who, taken) - 0.05 * taken.mouth
    t = np.linspace(-1, 1, 49)
    corner = 0.17 * smile * np.abs(t) ** 1.8 - 0.02 * (1 - t * t)
    thin = 1 - 0.38 * max(smile, 0)
    upper = 0.19 * (1 + s["lip_upper"]) * thin
    dip, peaks = np.exp(-((t / 0.12) ** 2)), np.exp(-(((np.abs(t) - 0.22) / 0.12) ** 2))
    bow = (1 - np.abs(t) ** 1.5) - 0.26 * dip + 0.05 * peaks
    gap = taken.mouth * (1 - np.abs(t) ** 2.2)
    lower = 0.27 * (1 + s["lip_lower"]) * thin * (1 - np.abs(t) ** 2.4)
    line = centre + corner + 0.02 * np.cos(3 * np.pi * t) * (1 - t * t)
    rows = (line + upper * bow + 0.03 * gap, line + 0.09 * gap, line - 0.24 * gap, line - 0.24 * gap - lower)
    return [np.stack([half * t, row], -1) for row in rows]


def _lip_color(who: Person) -> Color:
    natural = np.array(who.skin) * np.array([0.86, 0.62, 0.60] if sum(who.skin) > 1.5 else [0.95, 0.72, 0.74])
    made_up = np.array(LIPSTICKS[who.number % len(LIPSTICKS)])
    return as_color(natural + max(0.0, who.makeup - 0.25) * 0.95 * (made_up - natural))


def _mouth(skin: Skin, who: Person, taken: Shot) -> None:
    top, inner_top, inner_low, low = _lip_lines(who, taken)
    color = _lip_color(who)
    upper_lip = skin.polygon(np.vstack([top, inner_top[::-1]]), 0.018)
    lower_lip = skin.polygon(np.vstack([inner_low, low[::-1]]), 0.022)
    skin.fill(upper_lip, shaded(color, 0.88), 0.9)
    skin.fill(lower_lip, color, 0.9)
    fine = noise("strands")[MOUTH]
    both = np.maximum(upper_lip, lower_lip)
    skin.dye(both * np.clip(0.10 * np.abs(fine), 0, 0.4), (0.7, 0.6, 0.6))
    skin.relief += 0.03 * lower_lip + 0.02 * upper_lip + 0.004 * both * fine
    skin.gloss += lower_lip * (0.3 + 0.3 * who.makeup)
    if taken.mouth > 0.02:
        _teeth(skin, np.vstack([inner_top, inner_low[::-1]]), inner_top, taken)
    crease = skin.lines([inner_top, inner_low], 0.022, 0.012)
    skin.fill(crease, (0.24, 0.09, 0.09), 0.75)
    corner = np.array([inner_top[0] + [-0.03, -0.01], inner_top[2]])
    skin.dye(0.7 * skin.lines(mirrored(corner), 0.05, 0.03), (0.55, 0.42, 0.4))
    shadow = low + np.array([0, -0.07])
    skin.dye(0.5 * skin.lines([shadow[12:-12]], 0.1, 0.06), (0.78, 0.7, 0.68))
    _smile_lines(skin, who, taken)


def _teeth(skin: Skin, opening: Points, edge: Points, taken: Shot) -> None:
    inside = skin.polygon(opening, 0.008)
    skin.fill(inside, (0.2, 0.07, 0.07))
    below = opening[len(edge) :][::-1]
    height = 0.05 + 0.2 * taken.mouth
    bite = np.vstack([edge + np.array([0, 0.1]), (0.25 * edge + 0.75 * below + np.array([0, 0.01]))[::-1]])
    teeth = inside * skin.polygon(bite, 0.012)
    fade = 1 - 0.6 * step(np.abs(skin.grid()[0]), 0.3, 0.85)
    skin.cover(teeth, np.array([0.93, 0.91, 0.86], np.float32) * fade[..., None])
    high, low = edge[24, 1] + 0.1, edge[24, 1] - height
    gaps = [np.array([[x, high], [x, low]]) for x in (-0.53, -0.37, -0.19, 0, 0.19, 0.37, 0.53)]
    skin.dye(0.4 * teeth * skin.lines(gaps, 0.01, 0.008), (0.62, 0.55, 0.5))
    skin.dye(0.7 * inside * skin.lines([edge], 0.06, 0.03), (0.5, 0.42, 0.4))
    skin.gloss += 0.25 * teeth


def _smile_lines(skin: Skin, who: Person, taken: Shot) -> None:
    """The fold from the wings of the nose past the corners of the mouth."""
    depth = float(np.clip((who.age - 25) / 55, 0, 1) * 0.8 + 0.5 * max(taken.smile, 0))
    corner, tip = mouth_half(who, taken), nose_tip(who)
    fold = curve((0.62, tip - 0.05), (0.86, tip - 0.4), (corner + 0.13, -1.88), (corner + 0.14, -2.2))
    mask = skin.lines(mirrored(fold), 0.03, 0.04)
    skin.relief -= 0.075 * depth * mask
    skin.dye(0.42 * depth * mask, (0.66, 0.56, 0.53))


def beard_mask(who: Person, a: Reals, v: Reals) -> Reals:
    """Where hair grows on the lower face, 0..1."""
    mouth = mouth_height(who)
    lip = bump(a, v, 0, mouth + 0.36, 0.85, 0.2) * 1.5
    chin = bump(a, v, 0, mouth - 0.95, 0.72, 0.55) * 1.5
    cheeks = step(np.abs(a) * 0.75 - v - 0.05, 2.3, 2.75) * step(v, -4.2, -3.6) * step(-np.abs(a), -3.4, -3.0)
    cheeks = cheeks * step(-v - 0.12 * np.abs(a), -0.1, 0.6)
    lips = 1 - 1.2 * bump(a, v, 0, mouth - 0.05, 0.75, 0.3)
    whole = np.maximum(np.maximum(lip, chin), cheeks)
    parts = {"moustache": lip, "goatee": np.maximum(lip, chin), "full": whole, "stubble": whole}
    return np.asarray(np.clip(parts[who.beard] * np.clip(lips, 0, 1), 0, 1), np.float32)


def _beard(skin: Skin, who: Person) -> None:
    if who.beard == "none":
        return
    rng = who.generator("beard")
    a, v = skin.grid()
    mask = beard_mask(who, a, v)
    fine = np.roll(noise("pores"), int(rng.integers(999)), 1)
    strands = np.roll(noise("strands"), int(rng.integers(999)), 1)
    if who.beard == "stubble":
        skin.fill(mask * np.clip(0.36 + 0.12 * fine, 0, 0.75), shaded(who.hair, 0.8))
        return
    ragged = step(mask + (0.1 * strands + 0.05 * fine) * (mask > 0.02), 0.3, 0.75)
    tone = np.array(who.hair, np.float32) * (0.82 + 0.07 * strands + 0.14 * fine)[..., None]
    skin.cover(0.93 * ragged, np.clip(tone, 0.02, 1))
    skin.relief += ragged * (0.03 + 0.006 * strands)
    skin.gloss *= 1 - 0.8 * ragged
