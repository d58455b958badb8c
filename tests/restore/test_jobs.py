"""What is restored with what, what a second run redoes, and who may write where; no network runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffhqref.core import images, store
from ffhqref.core.images import BadImage
from ffhqref.core.store import UserError
from ffhqref.faces.geometry import ffhq_crop
from ffhqref.refldm.restorer import SamplingOptions
from ffhqref.restore.align import FaceAligner
from ffhqref.restore.jobs import Job, of_pictures, shard
from ffhqref.restore.record import Record, RestoreOutcome, ResultSettings, spare_inputs, writer

SETTINGS = ResultSettings(
    checkpoint="c", autoencoder=None, weights="ema", architecture={"a": 1}, options=SamplingOptions(),
    seed=1, noise="shared", precision="fp32", device="cpu",
)  # fmt: skip


def put(*paths: Path) -> tuple[Path, ...]:
    """Small pictures whose grey is of their name."""
    for path in paths:
        grey = store.digest(path.name.encode())
        images.write(path, np.full((8, 8, 3), int(grey[:2], 16), np.uint8))
    return paths


@pytest.fixture
def job(tmp_path: Path) -> Job:
    lq, one, two, truth = put(*(tmp_path / f"{name}.png" for name in ("lq", "one", "two", "truth")))
    return Job(name="a.png", lq=lq, references=(one, two), truth=truth)


def test_a_mapping_gives_the_first_references_and_says_what_cannot_be_done(tmp_path: Path) -> None:
    put(*(tmp_path / "lq" / f"{name}.png" for name in ("a", "none", "gone", "extra")))
    put(*(tmp_path / "photos" / f"{name}.jpg" for name in ("a", "r1", "r2", "r3")))
    (tmp_path / "refs.csv").write_text(
        "gt_image,ref_image\na.jpg,\"['r2.jpg', 'r1.jpg', 'r3.jpg']\"\nnone.jpg,[]\n"
        "gone.jpg,\"['r1.jpg', 'r9.jpg']\"\nabsent.jpg,\"['r1.jpg']\"\n"
    )
    given = {"mapping": tmp_path / "refs.csv", "photos": tmp_path / "photos"}
    found = of_pictures(tmp_path / "lq", most=2, **given)
    assert found.jobs == [
        Job(
            name="a.png", lq=tmp_path / "lq" / "a.png", truth=tmp_path / "photos" / "a.jpg",
            references=(tmp_path / "photos" / "r2.jpg", tmp_path / "photos" / "r1.jpg"),
        )
    ]  # fmt: skip
    assert found.failed == {
        "none.png": "has no references",
        "gone.png": f"its reference {tmp_path / 'photos' / 'r9.jpg'} is not there",
        "absent.png": "has no low-quality picture",
        "extra.png": f"has no line in {tmp_path / 'refs.csv'}",
    }
    fewer = of_pictures(tmp_path / "lq", most=1, **given)
    assert {job.name: len(job.references) for job in fewer.jobs} == {"a.png": 1, "gone.png": 1}


def test_of_pictures_whose_results_would_be_one_file_one_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "lq" / "a.png", tmp_path / "lq" / "a.jpg", tmp_path / "lq" / "b.png")
    found = of_pictures(tmp_path / "lq", most=5).jobs
    assert [(job.name, job.lq.name) for job in found] == [("a.png", "a.png"), ("b.png", "b.png")]


def test_shards_part_the_jobs_by_name_whatever_their_order() -> None:
    jobs = [Job(name=f"{number:02d}.png", lq=Path("lq")) for number in range(10)]
    mixed = [jobs[at] for at in np.random.default_rng(0).permutation(10)]
    assert shard(mixed, None) == jobs
    assert [[job.name[:2] for job in shard(mixed, f"{i}/3")] for i in (1, 2, 3)] == [
        ["00", "03", "06", "09"], ["01", "04", "07"], ["02", "05", "08"]
    ]  # fmt: skip
    for wrong in ("0/3", "4/3", "3", "a/3", "1/0", "-1/3"):
        with pytest.raises(UserError, match="--shard"):
            shard(jobs, wrong)


def test_what_is_done_depends_on_settings_picture_and_references(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "a.png")

    def done(job: Job, settings: ResultSettings = SETTINGS) -> bool:
        return Record(out, settings, None).done(job)

    assert not done(job)
    record = Record(out, SETTINGS, None)
    record.mine[job.name] = record.key(job)
    record.save(RestoreOutcome(), {})
    assert done(job)
    assert not done(replace(job, references=job.references[:1]))
    assert not done(replace(job, references=job.references[::-1])), "their order counts"
    assert not done(replace(job, lq=job.references[0]))
    for change in ({"seed": 2}, {"checkpoint": "d"}, {"paste_back": True}, {"align": "x"}, {"weights": "raw"},
                   {"noise": "per-image"}, {"options": SamplingOptions(steps=3)}):  # fmt: skip
        assert not done(job, replace(SETTINGS, **change)), change
    put(tmp_path / "other" / "one.png")
    images.write(job.references[0], np.zeros((8, 8, 3), np.uint8))
    assert not done(job), "a reference has another content"
    put(job.references[0])
    assert done(job)
    (out / "a.png").unlink()
    assert not done(job), "its file is gone"


def test_with_noise_by_name_the_name_counts(job: Job, tmp_path: Path) -> None:
    other = replace(job, name="b.png")
    shared = Record(tmp_path, SETTINGS, None)
    assert shared.key(job) == shared.key(other)
    own = Record(tmp_path, replace(SETTINGS, noise="per-image"), None)
    assert own.key(job) != own.key(other)


def test_a_shard_knows_what_others_finished_and_writes_its_own_alone(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "a.png", out / "b.png")
    for part, name in (("1/2", "a.png"), ("2/2", "b.png")):
        record = Record(out, SETTINGS, part)
        record.mine[name] = record.key(job)
        record.save(RestoreOutcome(), {})
    assert sorted(path.name for path in out.glob("*.json")) == ["run-1of2.json", "run-2of2.json"]
    for part in (None, "1/2", "2/2", "1/1"):
        record = Record(out, SETTINGS, part)
        assert record.done(job) and record.done(replace(job, name="b.png"))
    assert list(Record(out, SETTINGS, "2/2").mine) == ["b.png"]


@pytest.mark.parametrize("which", ["lq", "one", "truth"])
def test_no_picture_that_was_given_is_overwritten(job: Job, tmp_path: Path, which: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="would overwrite"):
            spare_inputs([replace(job, name=f"{which}.png")], out)
    spare_inputs([job], tmp_path)


def test_shards_of_one_run_may_write_at_once_and_one_shard_may_not(tmp_path: Path) -> None:
    def take(part: str | None) -> str:
        try:
            with writer(tmp_path, part):
                return "taken"
        except UserError as error:
            return str(error)

    with writer(tmp_path, "1/2"), ThreadPoolExecutor(1) as other:
        assert other.submit(take, "2/2").result() == "taken"
        assert "being written" in other.submit(take, "1/2").result()


@dataclass
class Face:
    """What a detector finds."""

    landmarks: np.ndarray[Any, Any]


def test_the_best_placed_face_is_cut_out(tmp_path: Path) -> None:
    photo = images.resize(np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8), 640, 480)
    points = np.array([[240, 180], [300, 190], [268, 225], [240, 255], [290, 262]], np.float32)
    faces = [Face(points), Face(points + 60)]

    class Finder:
        def find(self, image: images.Rgb) -> Sequence[Face]:
            return faces

    aligner = FaceAligner.__new__(FaceAligner)
    aligner.detector = Finder()  # type: ignore[assignment]
    crop, back = aligner.crop(photo, (64, 64))
    np.testing.assert_array_equal(crop, ffhq_crop(photo, points, 64))
    changed = np.abs(back(255 - crop).astype(int) - photo).max(axis=2) > 8
    rows, columns = np.nonzero(changed)
    assert abs(columns.mean() - points[:, 0].mean()) < 12 and abs(rows.mean() - points[:, 1].mean()) < 40
    faces.clear()
    with pytest.raises(BadImage) as caught:
        aligner.crop(photo, (64, 64))
    assert caught.value.status == "no_face"
