"""Who a drawn person is, and what varies between photographs of them. Numbers only, no pictures.

The unit of length is half the distance between the eyes of an average adult (about 31.5 mm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffhqref.core.arrays import Float64
from ffhqref.core.store import seed_for

Color = tuple[float, float, float]  # sRGB, 0..1

# name: (spread between people, what is added for men and taken from women)
SHAPE: dict[str, tuple[float, float]] = {
    "face_width": (0.055, 0.015), "jaw_width": (0.085, 0.05), "chin_width": (0.14, 0.08),
    "chin_length": (0.17, 0.05), "chin_out": (0.11, 0.05), "cheekbone": (0.09, -0.02),
    "cheek": (0.11, 0.0), "hairline": (0.2, 0.03), "brow_ridge": (0.045, 0.06),
    "eye_apart": (0.065, 0.0), "eye_size": (0.1, -0.05), "eye_tilt": (0.09, -0.02),
    "eye_depth": (0.07, 0.03), "eye_open": (0.12, -0.04), "lid_fold": (0.25, 0.0),
    "nose_length": (0.14, 0.03), "nose_width": (0.19, 0.06), "nose_out": (0.17, 0.05),
    "bridge": (0.13, 0.04), "hump": (0.07, 0.01), "tip": (0.09, 0.0), "mouth_width": (0.1, 0.02),
    "lip_upper": (0.32, -0.12), "lip_lower": (0.3, -0.1), "mouth_height": (0.1, 0.0),
    "brow_height": (0.07, -0.04), "brow_thick": (0.25, 0.2), "brow_arch": (0.3, -0.3),
    "brow_tilt": (0.07, 0.0), "brow_length": (0.11, 0.0), "ear_out": (0.12, 0.03),
    "ear_size": (0.1, 0.04), "neck": (0.09, 0.14),
}  # fmt: skip

SKIN_TONES: dict[str, Color] = {  # the Fitzpatrick scale in words
    "very light": (0.95, 0.80, 0.73), "light": (0.91, 0.74, 0.64), "medium": (0.85, 0.66, 0.53),
    "olive": (0.76, 0.57, 0.43), "brown": (0.59, 0.41, 0.30), "dark": (0.41, 0.28, 0.21),
}  # fmt: skip
HAIR_COLORS: dict[str, Color] = {
    "black": (0.11, 0.10, 0.11), "dark brown": (0.23, 0.15, 0.11), "brown": (0.37, 0.24, 0.16),
    "chestnut": (0.46, 0.25, 0.16), "auburn": (0.58, 0.27, 0.14), "dark blond": (0.62, 0.47, 0.30),
    "blond": (0.82, 0.67, 0.43), "red": (0.76, 0.37, 0.16), "grey": (0.62, 0.61, 0.60),
    "white": (0.88, 0.87, 0.85),
}  # fmt: skip
EYE_COLORS: dict[str, Color] = {
    "dark brown": (0.19, 0.11, 0.07), "brown": (0.36, 0.21, 0.11), "hazel": (0.45, 0.35, 0.17),
    "green": (0.36, 0.48, 0.29), "blue": (0.31, 0.48, 0.66), "grey": (0.48, 0.54, 0.58),
}  # fmt: skip
HAIRSTYLES = {
    "Female": ("long", "wavy", "bob", "fringe", "afro", "bun", "pixie"),
    "Male": ("short", "quiff", "crop", "curly", "bald", "swept", "afro"),
}
BEARDS = ("none", "none", "none", "stubble", "stubble", "moustache", "goatee", "full", "full")


@dataclass(frozen=True, kw_only=True)
class Person:
    """One identity: everything that stays the same from photo to photo."""

    seed: int
    number: int
    age: int  # years
    gender: str  # Female or Male
    skin_tone: str
    skin: Color
    hair: Color
    eyes: Color
    style: str
    parting: float  # radians around the head, 0 in the middle
    beard: str
    glasses: str  # none, round, square
    freckles: float  # 0..1
    makeup: float  # 0..1
    shape: Mapping[str, float]  # by the names of SHAPE, relative to the average face

    def generator(self, purpose: str) -> np.random.Generator:
        """Random numbers for a part of this person, the same in every photo."""
        return of_person(self.seed, self.number, purpose)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One photograph: everything that differs between photos of one person. Angles in radians."""

    seed: int  # of the backdrop, clothes and noise
    yaw: float  # + looks to the right of the picture
    pitch: float  # + looks up
    roll: float
    tilt: float  # what stays of the roll after framing
    smile: float  # -0.4 .. 1
    mouth: float  # open, 0..1
    lids: float  # 1 is the person's own opening
    brows: float  # raised, -1..1
    gaze: tuple[float, float]
    light: tuple[float, float, float]  # unit vector towards the key light
    warmth: float  # -1 bluish .. 1 orange
    contrast: float  # 0 flat .. 1 hard key light
    exposure: float
    hair_shift: float  # strands and volume differ from day to day
    noise: float  # of 255, standard deviation
    blur: float  # px, standard deviation
    shift: tuple[float, float]  # px of the frame
    zoom: float


def generator(seed: int, name: str, purpose: str) -> np.random.Generator:
    """A generator of random numbers that depends on these three alone."""
    return np.random.default_rng(seed_for(seed, name, purpose))


def of_person(seed: int, number: int, purpose: str) -> np.random.Generator:
    """The same for person `number` of the population `seed`."""
    return generator(seed, f"person {number}", purpose)


def as_color(values: Sequence[float] | Float64) -> Color:
    """Three numbers as a colour."""
    r, g, b = map(float, values)
    return r, g, b


def _mixed(rng: np.random.Generator, color: Color, spread: float) -> Color:
    """The colour, a little lighter or darker and a little warmer or cooler."""
    light, warm = rng.normal(0, spread, 2)
    r, g, b = color
    return as_color(np.clip([r + light + warm / 2, g + light, b + light - warm / 2], 0.02, 1))


def _hair_color(rng: np.random.Generator, tone: str, age: int) -> str:
    if age > 45 and rng.random() < (age - 40) / 40:
        return "white" if rng.random() < (age - 40) / 60 else "grey"
    if tone in ("brown", "dark"):
        return str(rng.choice(["black", "black", "black", "dark brown"]))
    if tone in ("medium", "olive"):
        return str(rng.choice(["black", "black", "dark brown", "brown", "chestnut", "dark blond"]))
    return str(rng.choice([name for name in HAIR_COLORS if name not in ("grey", "white")]))


def _eye_color(rng: np.random.Generator, tone: str) -> str:
    if tone in ("brown", "dark", "olive"):
        return str(rng.choice(["dark brown", "dark brown", "brown", "hazel"]))
    return str(rng.choice(list(EYE_COLORS)))


def _kind(seed: int, number: int) -> tuple[str, str, str]:
    """Gender, skin tone and hair style: each dozen of people has both genders in every tone once.

    People of one gender and tone have different styles until all are taken.
    """
    kinds = [(gender, tone) for gender in HAIRSTYLES for tone in SKIN_TONES]
    dozen, place = divmod(number, len(kinds))
    gender, tone = kinds[int(generator(seed, f"dozen {dozen}", "kinds").permutation(len(kinds))[place])]
    styles = HAIRSTYLES[gender]
    order = generator(seed, f"{gender}, {tone}", "styles").permutation(len(styles))
    return gender, tone, styles[int(order[dozen % len(styles)])]


def person(seed: int, number: int) -> Person:
    """Person `number` of the population `seed`."""
    rng = of_person(seed, number, "traits")
    gender, tone, style = _kind(seed, number)
    male = gender == "Male"
    age = int(rng.integers(18, 45) if rng.random() < 0.68 else rng.integers(45, 79))
    hair = _hair_color(rng, tone, age)
    eyes = _eye_color(rng, tone)
    beard = str(rng.choice(BEARDS)) if male else "none"
    shape = {
        name: float(spread * np.clip(rng.normal(0, 1.4), -2.5, 2.5) + (shift if male else -shift))
        for name, (spread, shift) in SHAPE.items()
    }
    return Person(
        seed=seed, number=number, age=age, gender=gender, skin_tone=tone,
        skin=_mixed(rng, SKIN_TONES[tone], 0.02), hair=_mixed(rng, HAIR_COLORS[hair], 0.025),
        eyes=_mixed(rng, EYE_COLORS[eyes], 0.03),
        style=style, parting=float(rng.uniform(-0.6, 0.6)), beard=beard,
        glasses=str(rng.choice(["round", "square"])) if rng.random() < 0.16 else "none",
        freckles=float(max(0, rng.normal(-0.2, 0.5))) if tone in ("very light", "light", "medium") else 0.0,
        makeup=0.0 if male else float(np.clip(rng.normal(0.35, 0.4), 0, 1)), shape=shape,
    )  # fmt: skip


def shot(seed: int, number: int, photo: int) -> Shot:
    """What is particular to photo number `photo` of a person."""
    rng = of_person(seed, number, f"photo {photo}")
    azimuth, height = rng.uniform(-1.15, 1.15), rng.uniform(0.0, 0.85)
    light = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    yaw = float(np.clip(rng.normal(0, 0.28), -0.55, 0.55))
    smiling = rng.random() < 0.6
    return Shot(
        seed=int(rng.integers(2**62)),
        yaw=yaw, pitch=float(np.clip(rng.normal(0.0, 0.1), -0.24, 0.24)),
        roll=float(rng.normal(0, 0.09)), tilt=float(rng.normal(0, 0.03)),
        smile=float(rng.uniform(0.35, 1) if smiling else rng.uniform(-0.25, 0.3)),
        mouth=float(rng.uniform(0.2, 0.6) if smiling and rng.random() < 0.6 else 0 if rng.random() < 0.8
                    else rng.uniform(0.1, 0.4)),
        lids=float(np.clip(rng.normal(1, 0.13), 0.68, 1.25)),
        brows=float(np.clip(rng.normal(0.1, 0.4), -1, 1)),
        gaze=(float(rng.normal(-0.16 * yaw, 0.035)), float(rng.normal(0, 0.02))),
        light=(float(light[0]), float(light[1]), float(light[2])),
        warmth=float(np.clip(rng.normal(0.1, 0.45), -1, 1)),
        contrast=float(rng.uniform(0.25, 0.95)), exposure=float(np.exp(rng.normal(0, 0.12))),
        hair_shift=float(rng.uniform(0, 1)), noise=float(rng.uniform(0.8, 4.5)),
        blur=float(rng.uniform(0.3, 0.95)),
        shift=(float(rng.normal(0, 4)), float(rng.normal(0, 4))), zoom=float(rng.normal(1, 0.02)),
    )  # fmt: skip
