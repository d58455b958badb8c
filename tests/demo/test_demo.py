"""The demo end to end, and the network it ships."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, tables
from ffhqref.core.images import read as read_image
from ffhqref.core.recipe import known_distance
from ffhqref.core.store import UserError, digest_file
from ffhqref.dataset.verify import verify_dataset
from ffhqref.degrade.operators import sampler
from ffhqref.demo import EMBEDDER, FIRST_STAGE_FILE, RESTORER, run
from ffhqref.demo.album import album
from ffhqref.demo.portrait.camera import landmarks_of
from ffhqref.demo.portrait.people import Portrait
from ffhqref.demo.run import judged, render_photos, run_demo, tree
from ffhqref.download.stage import DownloadOutcome
from ffhqref.faces.align import read_landmarks
from ffhqref.faces.geometry import align
from ffhqref.faces.networks import Embedder
from ffhqref.identities.calibrate import match_rates
from ffhqref.refldm.model.checkpoint import load_networks
from ffhqref.refldm.model.unet import ReferenceCache
from ffhqref.refldm.restorer import Restorer, resize_bicubic
from tests.photographs import PEOPLE, SEED, Known

SIMILARITY = "similarity [mean, 95 % interval over people]"  # key of the reports


@pytest.fixture(scope="module")
def demo(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small demo that the command made of people already drawn, and what it said."""
    out = shutil.copytree(drawn, tmp_path_factory.mktemp("demo") / "out")
    done = CliRunner().invoke(app, ["demo", "--out", str(out), "--people", str(PEOPLE), "--seed", str(SEED)])
    assert done.exit_code == 0, done.output
    return out, done.output


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the dataset's lists, mappings and pictures, and the tables' rows."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".csv", ".txt", ".png"):
            found[name] = path.read_bytes()
        elif path.suffix == ".parquet":
            found[name] = pd.read_parquet(path).to_json().encode()
    return found


def test_it_says_first_that_nothing_here_is_real(demo: tuple[Path, str]) -> None:
    first = demo[1].splitlines()[0]
    assert "drawn people" in first and "demonstration network" in first


def test_it_finds_the_people_and_says_how_well(demo: tuple[Path, str]) -> None:
    out, said = demo
    found = judged(out / "dataset", out / "labels.csv")
    assert found.photos == len(album(SEED, PEOPLE))
    assert found.pair_precision >= 0.97 and found.pair_recall >= 0.9
    assert f"precision {found.pair_precision:.2%}, recall {found.pair_recall:.2%}" in said


def test_the_dataset_is_sound_and_has_all_three_splits(demo: tuple[Path, str]) -> None:
    from ffhqref.dataset.build import recipe_of

    dataset = demo[0] / "dataset"
    report = verify_dataset(dataset, recipe_of(dataset))
    assert report.violations == []
    for split in tables.SPLITS:
        mapping = lists.read_references(dataset / "reference_mapping" / f"{split}_references.csv")
        assert mapping, split


def test_references_show_the_target_s_person(demo: tuple[Path, str]) -> None:
    """Judged by the drawn truth, not by what the clustering believes."""
    out, _ = demo
    labels = pd.read_csv(out / "labels.csv", index_col="image")
    right = []
    for split in tables.SPLITS:
        mapping = lists.read_references(out / "dataset" / "reference_mapping" / f"{split}_references.csv")
        right += [labels.identity[t] == labels.identity[r] for t, refs in mapping.items() for r in refs]
    assert len(right) > 40 and np.mean(right) >= 0.97


def test_labels_and_landmarks_are_those_of_the_drawings(demo: tuple[Path, str]) -> None:
    out, _ = demo
    labels = pd.read_csv(out / "labels.csv", index_col="image")
    points = read_landmarks(out / "landmarks.csv")
    wanted = album(SEED, PEOPLE)
    assert set(labels.index) == {one.name for one in wanted} == {p.name for p in (out / "photos").iterdir()}
    for one in wanted[::7]:
        assert labels.identity[one.name] == one.identity
        found = points.find(one.name, 512)
        assert found is not None
        np.testing.assert_allclose(found, landmarks_of(one.seed, one.number, one.photo), atol=0.006)


def test_the_report_names_what_lies_where(demo: tuple[Path, str]) -> None:
    out, said = demo
    for name in ("photos/", "labels.csv", "dataset/contact-sheet.png", "dataset/reference_mapping/"):
        assert name in said
    assert all(len(line) <= 100 for line in tree(Path("demo-out")))
    assert "ffhqref build-refs --images" in said and "ffhqref verify" in said
    assert read_image(out / "dataset" / "contact-sheet.png").shape[1] > 400


def test_it_ends_with_its_report(demo: tuple[Path, str]) -> None:
    out, said = demo
    page, following = said.splitlines()[-1].split(". Next: ")
    assert page == f"Look at it all: {out / 'dataset' / 'report.html'}"
    assert CliRunner().invoke(app, shlex.split(following)[1:]).exit_code == 0
    assert "data:image/jpeg" in (out / "dataset" / "report.html").read_text()


def test_running_again_does_nothing_anew(demo: tuple[Path, str]) -> None:
    out, _ = demo
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png") if p.name != "contact-sheet.png"}
    result = run_demo(out, people=PEOPLE, seed=SEED)
    assert not result.built.fresh
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_restorer_joins_by_its_own_command(demo: tuple[Path, str], tmp_path: Path) -> None:
    """A finished demo goes straight to `restore`, which refuses what is no checkpoint."""
    (tmp_path / "no.ckpt").write_bytes(b"not a checkpoint")
    arguments = ["demo", "--out", str(demo[0]), "--people", str(PEOPLE), "--seed", str(SEED)]
    done = CliRunner().invoke(app, [*arguments, "--checkpoint", str(tmp_path / "no.ckpt")])
    assert done.exit_code == 1 and "no.ckpt" in done.output and "Traceback" not in done.output
    assert "precision" in done.output, "the demo itself came first"


def similarity_in(said: str) -> dict[str, float]:
    """What the demo prints of its restored pictures."""
    return {
        kind: float(re.search(rf"{kind} +(-?[0-9.]+) \[", said)[1])  # type: ignore[index]
        for kind in ("severe low quality", "restored without references", "restored with references")
    }


def test_references_bring_the_person_back(demo: tuple[Path, str]) -> None:
    """The shipped restorer on people it never saw: closer to them with references than without."""
    likeness = similarity_in(demo[1])
    # a person's gain scatters by as much as its mean, and here are few: how much it is, restorer.json tells
    assert likeness["restored with references"] > likeness["restored without references"] + 0.01
    assert likeness["restored with references"] > likeness["severe low quality"]
    assert read_image(next((demo[0] / "dataset/restored/severe").glob("*.png"))).shape == (64, 64, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_as_it_is_shows_what_references_are_for(tmp_path: Path) -> None:
    """Default people and seed: 63 severe pictures of 11 of them."""
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    likeness = similarity_in(done.output)
    assert likeness["restored with references"] > likeness["restored without references"] + 0.05


def test_without_torch_the_demo_says_how_to_restore(
    demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.restore.run.has_torch", lambda: False)
    arguments = ["demo", "--out", str(demo[0]), "--people", str(PEOPLE), "--seed", str(SEED)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and done.output.splitlines()[-2].startswith("To restore the test images too")


def test_the_shipped_first_stage_keeps_people_whom_it_never_saw(
    portraits: dict[int, list[Portrait]],
) -> None:
    """Six of a population of their own: pictures come back, and show who it is."""
    import torch

    from ffhqref.demo.making.judge_restorer import normalised, to_targets
    from ffhqref.demo.making.train_restorer import config_of
    from ffhqref.refldm.restorer import as_picture, resize_bicubic
    from ffhqref.refldm.training.stages import first_stage

    told = json.loads(FIRST_STAGE_FILE.with_suffix(".json").read_text())
    assert (
        told["sha256"] == digest_file(FIRST_STAGE_FILE)
        and told["bytes"] == FIRST_STAGE_FILE.stat().st_size < 2_000_000
    )
    autoencoder = first_stage(config_of("ldm"), FIRST_STAGE_FILE, {})
    chosen = [photos[0] for photos in portraits.values()][:6]
    x = torch.cat([normalised(resize_bicubic(portrait.image, 64, 64)) for portrait in chosen])
    with torch.no_grad():
        back = autoencoder.decode(autoencoder.encode(x))
    assert float((back - x).abs().mean()) < 0.08
    colours = (back.mean((2, 3)) - x.mean((2, 3))).abs().max()
    assert float(colours) < 0.08, "colours stay"
    found = to_targets(chosen, {"back": [as_picture(picture) for picture in back]})
    assert np.mean(found["back"]) > 0.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_s_models_can_be_made_again(tmp_path: Path) -> None:
    """The whole of `make demo-models` with few people and steps: it trains, ships and judges."""
    out = tmp_path / "restorer.safetensors"
    command = [sys.executable, "-m", "ffhqref.demo.making.train_restorer", "--work", str(tmp_path / "work"),
               "--out", str(out), "--people", "12", "--judged", "2", "--steps", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["sha256"] == digest_file(out) and told["bytes"] < 7_500_000
    assert told["trained"]["steps"] == {"ldm": 2, "copy": 2, "refldm": 2}
    judged = told["judged"][SIMILARITY]
    assert {f"{count} references" for count in (0, 1, 3, 5)} < set(judged)
    assert read_image(out.with_name("restored.jpg")).shape[1] > 7 * 128
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and json.loads(out.with_suffix(".json").read_text()) == told


def test_the_person_in_the_references_comes_back(portraits: dict[int, list[Portrait]]) -> None:
    """The shipped restorer judged anew as `make demo-models` judges it, on eight pictures of four people."""
    from ffhqref.demo.making.judge_restorer import Case, restored, to_targets

    restorer, degrade, judged = Restorer(load_networks(RESTORER)), sampler("severe"), []
    for number in sorted(portraits, key=lambda number: -len(portraits[number]))[:4]:
        photos = portraits[number]
        lq = [degrade(photo.image, f"{number}, {i}") for i, photo in enumerate(photos[:2])]
        references = [resize_bicubic(photo.image, *restorer.size) for photo in photos[2:7]]
        judged.append(Case(str(number), photos[:2], lq, references))
    own = [restorer.cache_references(case.references) for case in judged]
    made = {"none": [ReferenceCache()] * 4, "own": own, "others": [*own[1:], own[0]]}
    targets = [portrait for case in judged for portrait in case.targets]
    found = to_targets(targets, {kind: restored(restorer, judged, made[kind], kind) for kind in made})
    similarity = {kind: float(np.mean(values)) for kind, values in found.items()}
    told = json.loads(RESTORER.with_suffix(".json").read_text())["judged"][SIMILARITY]
    assert similarity["own"] == pytest.approx(told["5 references"][0], abs=0.15)
    assert similarity["others"] + 0.05 < similarity["none"] < similarity["own"] - 0.02


def test_the_shipped_restorer_is_the_one_that_was_judged() -> None:
    told = json.loads(RESTORER.with_suffix(".json").read_text())
    assert told["sha256"] == digest_file(RESTORER) and told["bytes"] == RESTORER.stat().st_size < 7_500_000
    similarity = told["judged"][SIMILARITY]
    for none in ("0 references", "null condition", "LDM"):
        assert similarity[f"gain of 5 references over {none}"][1] > 0, "the interval lies above zero"
    assert similarity["5 references of another person"][2] < similarity["5 references"][1]
    means = [similarity[f"{count} references"][0] for count in (0, 1, 3, 5)]
    assert means[0] < means[1] and means[0] < means[3]
    assert told["judged"]["population"] != told["trained"]["population"]


def test_the_readme_tells_what_was_judged() -> None:
    """The curve over references, every mean with its interval."""
    similarity = json.loads(RESTORER.with_suffix(".json").read_text())["judged"][SIMILARITY]
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text()
    others = ["low quality", "LDM", "null condition", "5 references of another person"]
    for kind in [*others, *(f"{count} references" for count in (0, 1, 3, 5))]:
        mean, low, high = similarity[kind]
        row = "1 reference" if kind == "1 references" else kind
        assert f"| {row} | {mean:.3f} [{low:.3f}, {high:.3f}] |" in readme
    gain = similarity["gain of 5 references over 0 references"]
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*gain) in readme


def test_the_shipped_restorer_has_a_name_of_its_own(known: list[Known], tmp_path: Path) -> None:
    photo = known[0].path
    arguments = ["restore", "--checkpoint", "demo", "--lq", str(photo), "--steps", "2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert read_image(tmp_path / "out" / photo.name).shape == (64, 64, 3)


def test_a_smaller_demo_leaves_no_photo_of_the_larger(drawn: Path, tmp_path: Path) -> None:
    out = shutil.copytree(drawn, tmp_path / "out")
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "photos").iterdir()}
    folder = render_photos(out, people=5, seed=SEED, workers=1)
    names = {one.name for one in album(SEED, 5)}
    assert {p.name for p in folder.iterdir()} == names < set(kept)
    assert all(p.stat().st_mtime_ns == kept[p.name] for p in folder.iterdir())
    assert set(pd.read_csv(out / "labels.csv").image) == names


@pytest.mark.parametrize("people", ["4", "-1", "100000"])
def test_a_number_of_people_out_of_range_is_a_sentence(people: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "d"), "--people", people])
    assert done.exit_code == 1 and "--people" in done.output and "Traceback" not in done.output


def test_a_folder_in_use_or_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        render_photos(tmp_path / "file", people=5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_killed_at_any_moment_ends_the_same(tmp_path: Path, demo: tuple[Path, str]) -> None:
    """Killed (SIGKILL, workers too) as soon as each of these stands, then run to its end."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ffhqref", "demo", "--out", str(out), "--people", str(PEOPLE)]
    command += ["--seed", str(SEED)]
    for pattern, count in (
        ("photos/*.png", 20),
        ("dataset/tables/pairs.parquet", 1),
        ("dataset/receipts/split.json", 1),
        ("dataset/test_images/*/*.png", 1),
    ):
        run = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while len(list(out.glob(pattern))) < count and run.poll() is None:
                time.sleep(0.002)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, f"the demo was finished before {count} of {pattern} stood"
    done = CliRunner().invoke(app, [*command[3:], "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert contents(out) == contents(demo[0])


def test_the_shipped_network_is_known_and_small() -> None:
    told = json.loads(EMBEDDER.with_suffix(".json").read_text())
    assert EMBEDDER.stat().st_size <= 2_000_000
    assert told["sha256"] == digest_file(EMBEDDER)
    assert known_distance(EMBEDDER) is not None
    assert told["judged"]["equal_error_rate"] <= 0.01
    assert told["judged"]["population"] != told["trained"]["population"]


def test_the_shipped_network_takes_any_batch() -> None:
    network = Embedder(EMBEDDER, "cpu")
    assert network.takes_batches and network.dimension == 512
    faces = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
    single = np.concatenate([network.embed(face[None]) for face in faces])
    np.testing.assert_allclose(network.embed(faces), single, atol=1e-5)


def test_the_shipped_network_tells_people_apart_whom_it_never_saw(known: list[Known]) -> None:
    """Twelve people of a seed that neither training, nor its judging, nor the demo's default draws."""
    faces = [align(read_image(photo.path), photo.landmarks) for photo in known]
    rates = match_rates(Embedder(EMBEDDER, "cpu").embed(np.stack(faces)), [photo.person for photo in known])
    assert rates.same == 153 and rates.equal_error()[0] <= 0.01
    distance = known_distance(EMBEDDER)
    assert distance is not None
    true, false = rates.at(distance)
    assert true >= 0.85 and false <= 0.005


def test_both_levels_of_low_quality_images_are_there_for_each_test_target(demo: tuple[Path, str]) -> None:
    out = demo[0]
    targets = set(lists.read_references(out / "dataset" / "reference_mapping" / "test_references.csv"))

    def detail(path: Path) -> float:
        return float(np.abs(np.diff(read_image(path).astype(float), axis=1)).mean())

    sharp = np.mean([detail(out / "photos" / name) for name in targets])
    for level in ("severe", "moderate"):
        made = {path.name: path for path in (out / "dataset" / "test_images" / f"{level}_degrad").iterdir()}
        assert set(made) == targets
        assert np.mean([detail(path) for path in made.values()]) < 0.7 * sharp, level


def test_real_people_are_built_and_judged_by_their_folders(
    tmp_path: Path, known: list[Known], embedder: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the transfer itself: drawn people stand in for what LFW's archive holds."""
    downloads = tmp_path / "out" / "downloads"

    def fetched(sources: object, out: Path, options: object) -> DownloadOutcome:
        for photo in known:
            (out / "lfw" / photo.person).mkdir(parents=True, exist_ok=True)
            (out / "lfw" / photo.person / photo.path.name).symlink_to(photo.path)
        (out / "buffalo_sc").mkdir()
        (out / "buffalo_sc" / "det_500m.onnx").symlink_to(detector)
        (out / "buffalo_sc" / "w600k_mbf.onnx").symlink_to(embedder)
        return DownloadOutcome()

    monkeypatch.setattr(run, "download", fetched)
    asked: list[str] = []
    result = run.run_real(tmp_path / "out", accept=lambda name, terms: not asked.append(name))
    assert asked == ["buffalo_sc"]  # LFW has no terms to accept
    assert result.identities.photos == len(known)
    assert result.identities.pair_precision >= 0.95 and result.identities.pair_recall >= 0.8
    assert (result.dataset / "contact-sheet.png").is_file() and downloads.is_dir()


def test_real_people_need_accepted_terms_and_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = CliRunner().invoke(app, ["demo", "--real", "--out", str(tmp_path / "a")])
    assert refused.exit_code == 1 and "--accept-terms" in refused.output
    monkeypatch.setattr(run, "download", lambda *_: DownloadOutcome(missing=[("lfw.tgz", "no network")]))
    command = ["demo", "--real", "--accept-terms", "--out", str(tmp_path / "b")]
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 1 and "lfw.tgz" in failed.output and "Traceback" not in failed.output
