"""A folder a person: who is in which, and what each reader takes for granted."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core import images
from ffhqref.export.contents import flat, folder_of
from ffhqref.export.people import mutual
from tests.export.conftest import PEOPLE, files_below
from tests.export.test_stage import refused, run


def wanted(least: int, splits: tuple[str, ...] = ("train", "val", "test")) -> set[str]:
    return {
        f"{split}/{flat(group[0])}/{flat(name)}.png"
        for split in splits for group in PEOPLE[split] if len(group) >= least for name in group
    }  # fmt: skip


def test_folders(handed: Path, tmp_path: Path) -> None:
    run("folders", handed, tmp_path / "out")
    made = {
        file: data for file, data in files_below(tmp_path / "out").items() if not file.startswith("receipts/")
    }
    assert set(made) == wanted(1)
    assert made["test/00040/00041.png"] == (handed / "photos/00041.png").read_bytes()
    drawn = images.decode(made["train/00000/deep__c.png"])
    assert (drawn == images.read(handed / "photos/deep/c.jpg")).all()  # a PNG of what the JPEG shows


@pytest.mark.parametrize("reader", ["dualpivot", "gen2res"])
def test_readers_of_one_person(reader: str, handed: Path, tmp_path: Path) -> None:
    said = run(reader, handed, tmp_path / "out", "--size", 256)
    made = [file for file in files_below(tmp_path / "out") if not file.startswith("receipts/")]
    assert set(made) == wanted(2)
    assert {images.dimensions(tmp_path / "out" / file) for file in made} == {(256, 256)}
    assert "train: 0 of 2 people have the 20 photos" in said
    run(reader, handed, tmp_path / "large", "--least", 4)
    assert {file.split("/")[1] for file in files_below(tmp_path / "large") if file[0] == "t"} == {"00000"}
    assert "Nothing would be in the export" in refused(reader, handed, tmp_path / "none", "--least", 20)


def test_restorerid_never_meets_a_person_of_one_photo(handed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("restorerid", handed, out, "--least", 1)
    folders = [line for s in PEOPLE for line in (out / "Celeb_Ref" / f"{s}.txt").read_text().splitlines()]
    assert sorted(folders) == sorted(path.name for path in (out / "Celeb_Ref_Clean").iterdir())
    for folder in folders:
        assert len(list((out / "Celeb_Ref_Clean" / folder).glob("*.png"))) >= 2
    assert (out / "Celeb_Ref/val.txt").read_text() == "00020\n"


def test_coderefformer_takes_all_others_of_a_folder(own: Path, tmp_path: Path) -> None:
    path = own / "mine/reference_mapping/test_references.csv"
    pairs = {
        "00030": ["00031", "00032"],
        "00031": ["00030"],
        "00032": ["00030"],
        "00040": ["00041"],
        "00041": ["00040"],
    }
    lines = [f'{name}.png,{name}.png,"{[f"{o}.png" for o in others]}"' for name, others in pairs.items()]
    path.write_text("\n".join(["gt_image,lq_image,ref_image", *lines]) + "\n")
    out = tmp_path / "out"
    said = run("coderefformer", own, out)
    assert "test: 1 targets with no mutual reference are left out" in said
    assert "train has no severe low-quality images." in said
    for split in PEOPLE:
        for folder in (out / split / "gt").iterdir():
            names = sorted(file.name for file in folder.iterdir())
            assert len(names) >= 2
            if split != "train":
                assert sorted(file.name for file in (out / split / "lr" / folder.name).iterdir()) == names
    assert not (out / "train" / "lr").exists()
    for folder in (out / "test" / "gt").iterdir():  # each is a reference of every other
        for a, b in itertools.permutations([file.stem for file in folder.iterdir()], 2):
            assert b in pairs[a]
    low = own / "mine/test_images/severe_degrad/00041.png"
    assert (out / "test/lr/00040/00041.png").read_bytes() == low.read_bytes()


def test_mutual_groups_hold_for_any_graph() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        names = [f"{n:02d}" for n in range(12)]
        graph = {a: [b for b in names if b != a and random.random() < 0.6] for a in names}
        groups = mutual(graph)
        assert len({name for group in groups for name in group}) == sum(map(len, groups))
        for group in groups:
            assert len(group) >= 2
            assert all(b in graph[a] for a in group for b in group if a != b)
        left = set(names) - {name for group in groups for name in group}
        assert not any(b in graph[a] and a in graph[b] for a in left for b in left)
        assert mutual(dict(reversed(graph.items()))) == groups


def test_names_of_folders() -> None:
    assert folder_of("deep/00012.jpg") == "deep__00012"
    assert folder_of("George W. Bush") == "George W. Bush"
    assert folder_of("../../etc") == "___.._etc" or not folder_of("../../etc").startswith(".")
    assert "/" not in folder_of("a/b") and folder_of("..") not in ("..", ".") and folder_of("") == "_"
    assert folder_of("a\nb\t\u202ec") == "a_b__c"


def test_two_people_never_share_a_folder(own: Path, tmp_path: Path) -> None:
    from ffhqref.core import tables

    path = tables.path_of(own / "mine", "splits")
    rows = [tuple(row.values()) for row in tables.read(path, tables.SPLIT_TABLE).to_pylist()]
    named = [(i, {"00030.png": "A?", "00040.png": "a*"}.get(who, who), split) for i, who, split in rows]
    tables.write_rows(path, tables.SPLIT_TABLE, named)
    assert "Two people would share the folder" in refused("folders", own, tmp_path / "out")
