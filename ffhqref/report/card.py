"""The card: README.md in the Hugging Face Hub's form, from receipts and the curator's card.toml.

What only a person can know (licence, consent, whom to write to) stands in one file, OUT/card.toml, which is
made with every entry empty and never written over; what is still empty there is named in the card and by the
command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ffhqref import __version__
from ffhqref.core.recipe import build, load_toml
from ffhqref.core.store import write_text
from ffhqref.core.terminal import LAW
from ffhqref.report import attribution, views
from ffhqref.report.facts import Facts
from ffhqref.report.page import environment

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST = "1M<n<10M"
TO_COMPLETE = "for the curator to complete"
LIMITS = (
    "Who is who was found by a network and a distance: some references show another person, and some are "
    "missing. report.html shows the doubtful ones first.",
    "A network's distance is not equally right for all: errors are more frequent for people whom the network "
    "saw little of, for children, and over many years.",
    "The people are those who were photographed, not a sample of any population.",
)
FORBIDDEN = (
    "Identifying, tracking or watching real people.",
    "Deciding about people: access, credit, work, police, borders.",
    "Inferring traits such as origin, health, belief or orientation from a face.",
    "Pictures that are meant to pass for somebody without that person's consent.",
)
USES = "Training and judging reference-based face restoration."
RIGHTS = (
    "A face is personal data. Whoever is shown may ask to be left out: run `ffhqref forget` with the photo's "
    "name, delete the photograph, and publish anew."
)


def entry(help: str) -> str:
    """A fact of the curator's, empty until it is written; `help` stands beside it in card.toml."""
    value: str = field(default="", metadata={"help": help})
    return value


@dataclass(frozen=True, kw_only=True)
class Curator:
    """What only a person knows of a dataset: the entries of card.toml."""

    name: str = entry("what the dataset is called")
    licence: str = entry("of the dataset as a whole: an SPDX name such as CC-BY-NC-SA-4.0, or in words")
    creators: str = entry("who made it, separated by semicolons")
    contact: str = entry("where a person who is shown may write to")
    url: str = entry("where it is published")
    published: str = entry("the day of publication, such as 2026-11-27")
    citation: str = entry("how it should be cited")
    sources: str = entry("where the photographs come from, and whose they are")
    attribution: str = entry("how their authors are credited, where the licences ask for it")
    collection: str = entry("how and when they were collected, and who chose them")
    consent: str = entry("what those who are shown agreed to, or on what legal ground they are shown")
    synthetic: str = entry("yes where any picture is generated or drawn, else no")
    biases: str = entry("who is shown often and who seldom")
    impact: str = entry("what good and what harm may come of it")
    maintenance: str = entry("who removes people, and how soon")

    def missing(self) -> list[str]:
        """The entries that are still empty, with what belongs there."""
        return [f"{f.name}: {f.metadata['help']}" for f in fields(self) if not getattr(self, f.name).strip()]

    def said(self, name: str) -> str:
        """An entry, or the words that say that it is missing."""
        return getattr(self, name).strip() or TO_COMPLETE


def curator_path(out: Path) -> Path:
    """Where the curator's facts of the dataset `out` lie."""
    return out / "card.toml"


def read_curator(out: Path) -> Curator:
    """The curator's facts; an empty card.toml is written where there is none. UserError names a bad one."""
    path = curator_path(out)
    if not path.is_file():
        lines = [f'{item.name} = ""  # {item.metadata["help"]}\n' for item in fields(Curator)]
        write_text(
            path, "# For the curator to complete; `ffhqref report` puts it into the card.\n" + "".join(lines)
        )
    return build(Curator, load_toml(path), str(path))


def front_matter(known: Facts, curator: Curator) -> dict[str, object]:
    """The YAML head that the Hub reads."""
    count = len(known.faces.names)
    size = next((name for bound, name in SIZES if count < bound), LARGEST)
    found: dict[str, object] = {"pretty_name": curator.name.strip() or known.title, "license": "other"}
    if curator.licence.strip():
        found["license_name"] = curator.licence.strip().lower().replace(" ", "-")[:60]
    found |= {
        "size_categories": [size],
        "task_categories": ["image-to-image"],
        "tags": ["face-restoration", "reference-based", "ffhq-ref", "faces"],
        "configs": [
            {
                "config_name": split,
                "data_files": [
                    {"split": "validation" if split == "val" else split, "path": mapping_file(split)}
                ],
                **({"default": True} if split == "train" else {}),
            }
            for split, rows in known.mapping.items()
            if rows
        ],
    }
    return found


def mapping_file(split: str) -> str:
    """The reference mapping of a split, below the dataset."""
    return f"reference_mapping/{split}_references.csv"


def as_yaml(value: object, indent: int = 0) -> str:
    """Nested lists and tables as YAML; texts in JSON's quotes, which YAML reads."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        parts = []
        for key, inner in value.items():
            nested = isinstance(inner, (Mapping, list))
            parts.append(
                f"{pad}{key}:\n{as_yaml(inner, indent + 1)}" if nested else f"{pad}{key}: {_scalar(inner)}\n"
            )
        return "".join(parts)
    if isinstance(value, list):
        return "".join(f"{pad}- {as_yaml(inner, indent + 1).lstrip()}" for inner in value)
    return f"{pad}{_scalar(value)}\n"


def _scalar(value: object) -> str:
    if (
        isinstance(value, str)
        and value.isascii()
        and value.replace("-", "").replace("_", "").isalnum()
        and value[0].isalpha()
    ):
        return (
            value
            if value.lower() not in ("yes", "no", "on", "off", "true", "false", "null")
            else f'"{value}"'
        )
    return json.dumps(value)


def counts(known: Facts) -> list[tuple[str, int, int, int, int]]:
    """(split, photos, people, targets, references) of every split."""
    found = []
    for split, rows in known.mapping.items():
        photos = [at for at, one in enumerate(known.split) if one == split]
        people = {known.identity[at] for at in photos}
        found.append((split, len(photos), len(people), len(rows), sum(map(len, rows.values()))))
    return found


def built(known: Facts) -> list[str]:
    """How it was built, in sentences."""
    recipe, embed = known.recipe, known.receipts["embed"]
    low, high = recipe.test_references
    sentences = [
        f"Built by ffhqref {__version__} with the recipe `{recipe.name}`. {views.summary(known)[1]}",
        f"Network of the embeddings: SHA-256 `{embed.parameters.get('embedder', 'not recorded')}`.",
        f"Test targets have {low} to {high or 'any number of'} references, "
        f"at a distance of {recipe.min_distance:g} or more; order: {recipe.order}.",
        views.summary(known)[2],
    ]
    if recipe.balance:
        sentences.append(
            f"val and test are balanced over {', '.join(recipe.balance)}: labels from a file, which may be "
            "predicted by another program, and are not part of this dataset."
        )
    if recipe.identities:
        sentences.append("Who is who was given by a list, not found.")
    return sentences


def write_card(known: Facts, curator: Curator) -> Path:
    """Write OUT/README.md, and attribution.csv where the authors of photographs are known."""
    text = environment(escape=False).get_template("card.md").render(
        head=as_yaml(front_matter(known, curator)), title=curator.name.strip() or known.title,
        summary=views.summary(known), counts=counts(known), built=built(known), curator=curator,
        limits=LIMITS, forbidden=FORBIDDEN, uses=USES, rights=RIGHTS, left_out=views.left_out(known)[0],
        law=LAW, missing=curator.missing(), digests=digests(known), authors=attribution.write(known),
    )  # fmt: skip
    path = known.out / "README.md"
    write_text(path, text)
    return path


def digests(known: Facts) -> list[tuple[str, str]]:
    """The mappings with their SHA-256, as the receipt has them."""
    outputs: Mapping[str, str] = known.receipts["references"].outputs
    return sorted(outputs.items())


def listed(missing: Sequence[str], path: Path) -> list[str]:
    """What the command prints of facts that are still missing."""
    if not missing:
        return []
    return [f"For the curator to complete, in {path}:", *(f"  {one}" for one in missing)]
