"""build-refs end to end: what it must reach, bad input, and the same bytes every time."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from ffhqref import build_refs, find_identities, load_recipe
from ffhqref.cli import app
from ffhqref.core import images, lists, tables
from ffhqref.core.store import UserError, digest_file, receipt_path
from ffhqref.dataset import build
from ffhqref.dataset.verify import Report
from ffhqref.identities.grouping import Agreement, agreement
from tests.core.test_store import HOLD, parts
from tests.dataset.test_verify import CHOSEN
from tests.dataset.test_verify import built as sound
from tests.faces.stand_in import write_embedder
from tests.photographs import Known
from tests.synthetic import statuses

Array = np.ndarray[Any, Any]
FRESH = "Built and verified"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(result: Result, *words: str) -> str:
    """The one sentence of an error: exit code 1, no traceback, and the words are in it."""
    assert result.exit_code == 1, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ") and lines[0][-1] in ".?", result.stderr
    for word in words:
        assert word in lines[0]
    return lines[0]


QUOTAS = ["--val-identities", 2, "--test-identities", 3]


@pytest.fixture(scope="module")
def small(sixty: Path, networks: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the sixty; copy it before writing to it."""
    out = tmp_path_factory.mktemp("small") / "mine"
    result = call("build-refs", "--images", sixty, "--out", out, *networks, *QUOTAS, "--workers", 2)
    assert result.exit_code == 0, result.output
    return out


def texts(out: Path) -> dict[str, bytes]:
    """Every CSV and TXT of a dataset."""
    found = [*out.rglob("*.csv"), *out.rglob("*.txt")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def assert_same(one: Path, other: Path) -> None:
    """Byte-identical CSV and TXT, and tables of equal contents."""
    assert len(texts(one)) == 6 and texts(one) == texts(other)
    names = sorted(path.relative_to(one).as_posix() for path in one.rglob("*.parquet"))
    assert names == sorted(path.relative_to(other).as_posix() for path in other.rglob("*.parquet"))
    for name in names:
        contents = [pq.read_table(out / name).replace_schema_metadata(None) for out in (one, other)]
        assert contents[0].equals(contents[1]), name
    assert parts(one) == parts(other) == []


# what it must reach


def agreement_with(people: dict[str, str], dataset: Path) -> Agreement:
    """How a dataset's identities agree with known people, of whom every photograph shows a face."""
    assert Counter(status for status, _ in statuses(dataset).values()) == {"ok": len(people)}
    table = tables.read(tables.path_of(dataset, "identities"), tables.IDENTITIES)
    names = tables.texts(table, tables.IMAGE)
    return agreement(tables.texts(table, tables.IDENTITY), [people[name] for name in names])


def test_the_identities_are_the_drawn_people(built: Path, known: list[Known]) -> None:
    score = agreement_with({photo.path.name: photo.person for photo in known}, built)
    assert score.pair_precision == 1 and score.pair_recall >= 0.95, score


def test_the_identities_are_the_people(
    photographs: list[Known], real_detector: Path, real_embedder: Path, tmp_path: Path
) -> None:
    """The shared photographs under names drawn from their bytes, at the distance of their network."""
    people = {digest_file(photo.path)[:16] + photo.path.suffix: photo for photo in photographs}
    (tmp_path / "photos").mkdir()
    for name, photo in people.items():
        (tmp_path / "photos" / name).symlink_to(photo.path)
    recipe = load_recipe(
        "photos", detector=str(real_detector), embedder=str(real_embedder), distance=0.6, crop="off"
    )
    build_refs(tmp_path / "photos", tmp_path / "mine", recipe, device="cpu", workers=2, batch_size=16)
    score = agreement_with({name: photo.person for name, photo in people.items()}, tmp_path / "mine")
    assert score.photos == 369
    assert score.pair_precision >= 0.995, score
    assert score.bcubed_f >= 0.99, score


def brute_force(vectors: Array, distance: float) -> tuple[set[tuple[int, int]], list[int]]:
    """All pairs below a distance, and the lowest index of each photo's component, without any library."""
    wide = vectors.astype(np.float64)
    count = len(wide)
    near = np.array([[float((wide[i] * wide[j]).sum()) for j in range(count)] for i in range(count)])
    near = 1 - near < distance
    label = list(range(count))
    for start in range(count):
        stack = [start] if label[start] == start else []
        while stack:
            for other in np.flatnonzero(near[stack.pop()]).tolist():
                if label[other] > start:
                    label[other] = start
                    stack.append(other)
    return {(i, j) for i in range(count) for j in range(i + 1, count) if near[i, j]}, label


@pytest.mark.parametrize("distance", [0.15, 0.25, 0.4])
def test_components_are_exactly_the_brute_force_ones(built: Path, tmp_path: Path, distance: float) -> None:
    out = tmp_path / "mine"
    shutil.copytree(built, out)
    embeddings = tables.load_embeddings(out)
    names, vectors = embeddings.names, embeddings.vectors
    find_identities(out, load_recipe("ffhq-ref", distance=distance))
    pairs, components = brute_force(vectors, distance)
    table = tables.read(tables.path_of(out, "pairs"), tables.PAIRS).to_pylist()
    assert [(row["left"], row["right"]) for row in table] == sorted((names[i], names[j]) for i, j in pairs)
    people = tables.read(tables.path_of(out, "identities"), tables.IDENTITIES)
    assert tables.texts(people, tables.IDENTITY) == [names[label] for label in components]
    assert tables.texts(people, tables.COMPONENT) == tables.texts(people, tables.IDENTITY)
    assert 1 < len(set(components)) < len(names)


def test_the_published_tree_is_there(small: Path, sixty: Path) -> None:
    assert sorted(path.name for path in small.iterdir() if not path.name.startswith(".")) == [
        "id_based_ffhq_split", "receipts", "reference_mapping", "tables",
    ]  # fmt: skip
    lists = {
        split: (small / "id_based_ffhq_split" / f"{split}_image.txt").read_text().splitlines()
        for split in tables.SPLITS
    }
    photos = sorted(path.relative_to(sixty).as_posix() for path in sixty.rglob("*.png"))
    assert sorted(sum(lists.values(), [])) == photos and all(lists.values())
    for split, names in lists.items():
        frame = pd.read_csv(small / "reference_mapping" / f"{split}_references.csv")
        columns = ["gt_image", "ref_image"] if split == "train" else ["gt_image", "lq_image", "ref_image"]
        assert list(frame.columns) == columns and len(frame) > 0
        for target, references in zip(frame.gt_image, map(ast.literal_eval, frame.ref_image), strict=True):
            assert target in names and references and set(references) < set(names) - {target}
            assert split != "test" or 2 <= len(references) <= 9


def test_the_effective_recipe_is_kept(small: Path, detector: Path) -> None:
    kept = load_recipe(str(small / "receipts" / "recipe.toml"))
    assert (kept.val_identities, kept.test_identities, kept.val, kept.test) == (2, 3, None, None)
    assert kept.distance == 0.25, "the distance that weights.toml knows for the network"
    assert kept.detector == str(detector.resolve())


# the same bytes every time


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (4, 64)])
def test_workers_batches_and_the_order_of_files_change_nothing(
    small: Path, sixty: Path, networks: list[str], tmp_path: Path, workers: int, batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sources = sorted(sixty.rglob("*.png"))
    shuffled = np.random.default_rng(workers).permutation(len(sources))
    for at in shuffled:  # another order of making, which some file systems list by
        copy = tmp_path / "photos" / sources[at].relative_to(sixty)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sources[at], copy)
    walk = os.walk

    def reversed_walk(top: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, subfolders, files in walk(top, **options):
            subfolders.sort(reverse=workers == 1)
            yield folder, subfolders, sorted(files, reverse=workers == 1)

    monkeypatch.setattr(images.os, "walk", reversed_walk)
    result = call(
        "build-refs", "--images", tmp_path / "photos", "--out", tmp_path / "mine", *networks, *QUOTAS,
        "--workers", workers, "--batch-size", batch,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert_same(small, tmp_path / "mine")


AGAIN = """
import sys
from ffhqref.cli import app
app(sys.argv[1:], standalone_mode=False)
print(sorted({"insightface", "faiss", "torch"} & set(sys.modules)))
"""


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time and bytes, but the lock's."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_a_finished_build_has_nothing_to_do_and_opens_no_network(
    small: Path, sixty: Path, networks: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(small, out)
    before = state(out)
    arguments = ["build-refs", "--images", sixty, "--out", out, *networks, *QUOTAS]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    *summary, loaded = done.stdout.splitlines()
    assert summary[-1].startswith(f"Nothing to do: {out} is finished and verified.")
    assert "insightface" not in loaded
    assert state(out) == before, "not a file is written"


def test_a_changed_option_redoes_only_what_depends_on_it(
    small: Path, sixty: Path, networks: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(small, out)
    before = state(out)
    result = call("build-refs", "--images", sixty, "--out", out, *networks, *QUOTAS, "--order", "name")
    assert result.exit_code == 0 and FRESH in result.stdout
    changed = {name for name, about in state(out).items() if before[name] != about}
    assert {"receipts/recipe.toml", "receipts/references.json"} <= changed
    assert not any(name.startswith(("tables/", "id_based")) or "embed" in name for name in changed)
    first = (out / "reference_mapping" / "train_references.csv").read_text().splitlines()[1]
    references = ast.literal_eval(first.partition(",")[2].strip('"'))
    assert references == sorted(references)


def test_a_dataset_that_is_not_sound_is_refused_and_has_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = sound(tmp_path / "out")
    whole = build._verified(out, CHOSEN)
    assert whole.notes["counts"]["photos"] == 38
    receipt_path(out, "verify").unlink()
    for count, last in ((20, "  fault 19"), (23, "  and 3 more")):
        report = Report(violations=[f"fault {number}" for number in range(count)])
        monkeypatch.setattr(build, "verify_dataset", lambda *asked, report=report: report)
        with pytest.raises(UserError, match=f"is not sound, {count} violations") as caught:
            build._verified(out, CHOSEN)
        assert str(caught.value).splitlines()[-1] == last
        assert not receipt_path(out, "verify").exists()


def test_a_dry_run_writes_nothing(small: Path, sixty: Path, networks: list[str], tmp_path: Path) -> None:
    new = call("build-refs", "--images", sixty, "--out", tmp_path / "new", *networks, "--dry-run")
    assert new.exit_code == 0 and "Would embed 60 of 60 photos" in new.stdout and "MB" in new.stdout
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(small, tmp_path / "mine")
    before = state(tmp_path / "mine")
    old = call("build-refs", "--images", sixty, "--out", tmp_path / "mine", *networks, "--dry-run")
    assert old.exit_code == 0 and "Would embed 0 of 60 photos" in old.stdout
    assert state(tmp_path / "mine") == before


# pictures and names of every kind


def exif(orientation: int) -> Image.Exif:
    kept = Image.Exif()
    kept[0x0112] = orientation
    return kept


def test_every_kind_of_picture_of_one_person_is_that_person(
    known: list[Known], networks: list[str], tmp_path: Path
) -> None:
    with Image.open(known[0].path) as opened:
        photo = opened.convert("RGB")
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.save(folder / "plain.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("P").save(folder / "palette.png")
    cv2.imwrite(str(folder / "sixteen bit.png"), np.asarray(photo)[..., ::-1].astype(np.uint16) * 257)
    for orientation, undo in ((3, "ROTATE_180"), (6, "ROTATE_90"), (5, "TRANSPOSE")):
        turned = photo.transpose(Image.Transpose[undo])
        turned.save(folder / f"turned {orientation}.png", exif=exif(orientation))
        turned.save(folder / f"turned {orientation}.jpg", exif=exif(orientation), quality=95)
    photo.save(folder / "animated.webp", save_all=True, append_images=[ImageOps.invert(photo)], quality=95)
    photo.save(folder / "animated x.png", save_all=True, append_images=[ImageOps.invert(photo)])
    (folder / "bytes after.jpg").write_bytes((folder / "turned 3.jpg").read_bytes() + b"\0" * 99)
    for stem in ("turned 3", "turned 6", "turned 5"):  # one stem, two suffixes: names that meet
        (folder / f"{stem}.jpg").rename(folder / f"{stem} lossy.jpg")
    # the demo's network knows people by their colours too, and one copy is grey
    far = ["--distance", 0.6, "--grouping", "components"]
    result = call("build-refs", "--images", folder, "--out", tmp_path / "mine", *networks, *far)
    assert result.exit_code == 0, result.output
    table = tables.read(tables.path_of(tmp_path / "mine", "identities"), tables.IDENTITIES)
    assert tables.texts(table, tables.IMAGE) == sorted(path.name for path in folder.iterdir())
    assert len(set(tables.texts(table, tables.IDENTITY))) == 1
    copies = tables.read(tables.path_of(tmp_path / "mine", "duplicates"), tables.DUPLICATES).to_pylist()
    exact = {row["image"] for row in copies if row["kind"] == "exact"} | {
        row["kept"] for row in copies if row["kind"] == "exact"
    }
    assert {"plain.png", "sixteen bit.png", "turned 3.png", "turned 6.png", "turned 5.png"} <= exact


ODD = [
    "a b.png", " leading.png", "it's.png", 'say "x", y.png', "a,b.png",
    "人物/写真 1.png", "[é].png", "%s.png",
]  # fmt: skip


def test_names_of_every_kind_go_through_to_the_mappings(
    known: list[Known], networks: list[str], tmp_path: Path
) -> None:
    people: dict[str, list[Known]] = {}
    for photo in known:
        people.setdefault(photo.person, []).append(photo)
    one, other = [photos for photos in people.values() if len(photos) >= 6][:2]
    for name, photo in zip([*ODD[:4], *ODD[4:7], "line\nbreak.png"], one[:4] + other[:4], strict=True):
        place = tmp_path / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo.path, place)
    os.link(tmp_path / "photos" / ODD[0], os.fsencode(tmp_path / "photos") + b"/\xff.png")
    out = tmp_path / "my data, é"
    result = call(
        "build-refs", "--images", tmp_path / "photos", "--out", out, *networks, "--dedupe", "off",
        "--test-identities", 1, "--val", 0, "--test-references", "1:",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 bad name, 7 ok" in result.stdout
    found = []
    for split in tables.SPLITS:
        path = out / "reference_mapping" / f"{split}_references.csv"
        frame = pd.read_csv(path)
        assert path.read_bytes() == frame.to_csv(index=False, lineterminator="\n").encode()
        for row in frame.itertuples():
            references = ast.literal_eval(row.ref_image)
            assert set(references) < set(ODD) - {row.gt_image}
            found.append(row.gt_image)
    assert sorted(found) == sorted(ODD[:7])
    assert call("verify", out).exit_code == 0
    lists = [(out / "id_based_ffhq_split" / f"{split}_image.txt").read_text() for split in tables.SPLITS]
    assert sorted("".join(lists).splitlines()) == sorted(ODD[:7])


def test_the_mapping_is_pandas_own_dialect() -> None:
    rows = [(name, [ODD[0], name]) for name in ODD]
    for with_lq in (False, True):
        text = lists.reference_csv(rows, with_lq)
        frame = pd.DataFrame({"gt_image": ODD})
        if with_lq:
            frame["lq_image"] = ODD
        frame["ref_image"] = [str(references) for _, references in rows]
        assert text.encode() == frame.to_csv(index=False, lineterminator="\n").encode()
        back = pd.read_csv(io.StringIO(text))
        assert [ast.literal_eval(value) for value in back.ref_image] == [names for _, names in rows]


# bad input: one sentence that names the file, exit code 1, nothing written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "none"], ["none", "is not a folder"]),
        (["--images", "empty"], ["empty", "holds no PNG, JPEG or WebP"]),
        (["--images", "file.txt"], ["file.txt", "is not a folder"]),
        (["--detector", "none.onnx"], ["none.onnx"]),
        (["--embedder", "none.onnx"], ["none.onnx"]),
        (["--exclude", "none.txt"], ["none.txt"]),
        (["--exclude", "binary.bin"], ["binary.bin", "UTF-8"]),
        (["--recipe", "nosuch"], ["nosuch"]),
        (["--recipe", "file.txt"], ["file.txt", "TOML"]),
        (["--recipe", "odd.toml"], ["odd.toml", "distanse"]),
        (["--distance", "3"], ["distance"]),
        (["--test-references", "9:2"], ["reversed"]),
        (["--test-references", "few"], ["few", "2:9"]),
        (["--grouping", "magic"], ["--grouping", "magic"]),
        (["--val", "0.2", "--val-identities", "3"], ["not both"]),
        (["--align", "landmarks"], ["--landmarks"]),
        (["--align", "landmarks", "--landmarks", "binary.bin"], ["binary.bin"]),
        (["--align", "landmarks", "--landmarks", "file.txt"], ["file.txt"]),
        (["--embedder", "file.txt", "--distance", "0.5"], ["file.txt", "not a network"]),
        (["--detector", "file.txt"], ["file.txt", "not a network"]),
        (["--identities", "none.csv"], ["none.csv"]),
        (["--identities", "file.txt"], ["file.txt", "image"]),
        (["--targets", "none.txt"], ["none.txt"]),
        (["--splits", "none"], ["none"]),
        (["--labels", "none.csv"], ["none.csv"]),
    ],
)
def test_bad_input_is_one_sentence(
    sixty: Path, networks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str], words: Sequence[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.txt").write_text("plain text = no\n")
    Path("odd.toml").write_text("distanse = 0.4\n")
    Path("binary.bin").write_bytes(bytes(range(256)))
    before = sorted(tmp_path.iterdir())
    images = [] if "--images" in arguments else ["--images", sixty]
    result = call("build-refs", *images, "--out", "mine", *networks, "--limit", 3, *arguments)
    told(result, *words)
    assert sorted(tmp_path.iterdir()) in (before, sorted([*before, tmp_path / "mine"]))
    assert parts(tmp_path) == []


def test_an_unknown_network_needs_a_distance(sixty: Path, networks: list[str], tmp_path: Path) -> None:
    other = write_embedder(tmp_path / "other.onnx")
    result = call("build-refs", "--images", sixty, "--out", "never", *networks, "--embedder", other)
    told(result, "--distance", "calibrate")
    assert not Path("never").exists()


def test_photographs_without_any_face(networks: list[str], tmp_path: Path) -> None:
    images.write(tmp_path / "photos" / "a.png", np.full((300, 300, 3), 99, np.uint8))
    told(call("build-refs", "--images", tmp_path / "photos", "--out", tmp_path / "m", *networks), "no photo")
    assert Counter(s for s, _ in statuses(tmp_path / "m").values()) == {"no_face": 1}, "and why is kept"


def test_a_second_build_in_the_same_folder_is_refused(
    small: Path, sixty: Path, networks: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(small, out)
    before = state(out)
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE)
    try:
        assert first.stdout and first.stdout.readline() == b"held\n"
        arguments = ["build-refs", "--images", sixty, "--out", out, *networks, "--seed", 5]
        told(call(*arguments), str(out), str(first.pid), "ffhqref build-refs")
        assert state(out) == before
        for command in ("cluster", "split", "references"):
            told(call(command, out, *(["--seed", 5] if command == "split" else [])), str(first.pid))
        assert state(out) == before, "not even the recipe is changed"
    finally:
        first.kill()
        first.wait()
        if first.stdout:
            first.stdout.close()
    assert call(*arguments).exit_code == 0


NOBODY = """
import json, os, sys
from typer.testing import CliRunner, Result
from ffhqref.cli import app
for number, line in enumerate(sys.stdin):
    result = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([result.exit_code, result.stdout, result.stderr]), flush=True)
    if number == 0:  # the first command ran as root, so that everything is imported
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach (pytest's own are for one)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def nobody() -> Iterator[Any]:
    """Runs command lines in a process that gives up being root after the first one."""
    process = subprocess.Popen(
        [sys.executable, "-c", NOBODY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*arguments: object) -> tuple[int, str, str]:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        process.stdin.flush()
        code, stdout, stderr = json.loads(process.stdout.readline())
        return code, stdout, stderr

    yield run
    process.communicate(timeout=60)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_no_permission_is_one_sentence(
    sixty: Path, networks: list[str], open_folder: Path, nobody: Any
) -> None:
    photos, mine, closed = open_folder / "photos", open_folder / "mine", open_folder / "closed"
    photos.mkdir()
    for number, path in enumerate(sorted(sixty.rglob("*.png"))[:3]):
        shutil.copy(path, photos / f"{number}.png")
        (photos / f"{number}.png").chmod(0o644)
    given = [shutil.copy(word, open_folder) if word.startswith("/") else word for word in networks]
    common = ["build-refs", *given, "--images", photos]
    assert nobody(*common, "--out", open_folder / "roots")[0] == 0

    def refused(out: Path, *more: object) -> str:
        code, _, stderr = nobody(*common, "--out", out, *more)
        assert code == 1 and len(stderr.splitlines()) == 1 and stderr.startswith("Error: "), stderr
        return str(stderr)

    closed.mkdir(mode=0o555)
    for place in (closed, closed / "deeper" / "mine", open_folder / "roots"):
        assert str(place) in refused(place)
    mine.mkdir()
    mine.chmod(0o777)
    photos.chmod(0o700)
    assert str(photos) in refused(mine)
    photos.chmod(0o755)
    (photos / "0.png").chmod(0o600)  # one bad photo is recorded, and the run goes on
    code, stdout, stderr = nobody(*common, "--out", mine)
    assert code == 0 and "1 not read, 2 ok" in stdout, stderr
    shutil.chown(mine / "tables", 0)
    (mine / "tables").chmod(0o555)
    assert str(mine / "tables") in refused(mine, "--distance", 0.2)
    Path(given[3]).chmod(0o600)
    assert given[3] in refused(mine)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave_free(disk: Path, kilobytes: int) -> None:
    """Fill a disk until so much is left."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - (kilobytes << 10)))


def test_a_full_disk_is_one_sentence_and_the_build_goes_on_when_there_is_room(
    disk: Path, small: Path, sixty: Path, networks: list[str]
) -> None:
    out = disk / "mine"
    arguments = ["build-refs", "--images", sixty, "--out", out, *networks, *QUOTAS]
    leave_free(disk, 16)
    assert "No space left" in told(call(*arguments), str(tables.embeddings_folder(out)))
    assert parts(disk) == [] and sorted(path.name for path in out.rglob("*.*")) == [".ffhqref.lock"]
    leave_free(disk, 900)
    shutil.copytree(tables.embeddings_folder(small), tables.embeddings_folder(out), dirs_exist_ok=True)
    (out / "receipts").mkdir()
    shutil.copy(small / "receipts" / "embed.json", out / "receipts")
    reached = []
    for kilobytes in range(0, 100, 8):
        leave_free(disk, kilobytes)
        result = call(*arguments)
        if result.exit_code == 0:
            break
        assert "No space left" in told(result, str(out))
        assert parts(disk) == []
        reached.append(len([path for path in out.rglob("*.*") if path.is_file()]))
    assert result.exit_code == 0 and len(set(reached)) >= 4, "it went a step further each time"
    assert_same(small, out)
