"""What is restored with what, what a second run redoes, and who may write where; no network runs."""

from __future__ import annotations

import json
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


def test_pictures_whose_results_would_be_one_file_are_left_out(tmp_path: Path) -> None:
    """One of them is restored, and the other is named: with references of any kind, and without."""
    put(*(tmp_path / "lq" / name for name in ("a.png", "a.jpg", "b.png")))
    put(tmp_path / "refs" / "a" / "1.png", tmp_path / "refs" / "b" / "1.png")
    (tmp_path / "refs.csv").write_text("gt_image,ref_image\na.png,['a/1.png']\nb.png,['b/1.png']\n")
    for more in ({}, {"refs_dir": tmp_path / "refs"},
                 {"mapping": tmp_path / "refs.csv", "photos": tmp_path / "refs"}):  # fmt: skip
        found = of_pictures(tmp_path / "lq", most=5, **more)
        assert {job.name: job.lq.name for job in found.jobs} == {"a.png": "a.png", "b.png": "b.png"}
        assert list(found.failed) == ["a.jpg"] and "meets that of a.png" in found.failed["a.jpg"]


def test_a_line_that_names_a_left_out_picture_does_not_get_the_other(tmp_path: Path) -> None:
    put(*(tmp_path / "lq" / name for name in ("a.png", "a.jpg")), tmp_path / "photos" / "r.png")
    (tmp_path / "refs.csv").write_text("gt_image,lq_image,ref_image\nx.png,a.jpg,['r.png']\n")
    found = of_pictures(tmp_path / "lq", mapping=tmp_path / "refs.csv", photos=tmp_path / "photos", most=5)
    assert not found.jobs and "meets that of a.png" in found.failed["x.png"]


def test_two_targets_with_one_result_are_not_both_restored(tmp_path: Path) -> None:
    put(tmp_path / "lq" / "a.png", tmp_path / "photos" / "r.png")
    (tmp_path / "refs.csv").write_text("gt_image,ref_image\na.jpg,['r.png']\na.png,['r.png']\n")
    found = of_pictures(tmp_path / "lq", mapping=tmp_path / "refs.csv", photos=tmp_path / "photos", most=5)
    assert [job.name for job in found.jobs] == ["a.png"]
    assert "would have the result of a.jpg" in found.failed["a.png"]


def test_references_of_equal_stems_all_serve(tmp_path: Path) -> None:
    put(tmp_path / "lq" / "a.png", *(tmp_path / "refs" / "a" / name for name in ("1.jpg", "1.png", "2.png")))
    (job,) = of_pictures(tmp_path / "lq", refs_dir=tmp_path / "refs", most=5).jobs
    assert [path.name for path in job.references] == ["1.jpg", "1.png", "2.png"]


def test_shards_part_the_jobs_by_name_whatever_their_order() -> None:
    jobs = [Job(name=f"{number:02d}.png", lq=Path("lq")) for number in range(10)]
    mixed = [jobs[at] for at in np.random.default_rng(0).permutation(10)]
    assert shard(mixed, None) == jobs
    assert [[job.name[:2] for job in shard(mixed, f"{i}/3")] for i in (1, 2, 3)] == [
        ["00", "03", "06", "09"], ["01", "04", "07"], ["02", "05", "08"]
    ]  # fmt: skip
    for wrong in ("0/3", "4/3", "3", "a/3", "1/0", "-1/3", "\u0661/3", "1/" + "9" * 5000, "9" * 5000 + "/1"):
        with pytest.raises(UserError, match="--shard") as caught:
            shard(jobs, wrong)
        assert len(str(caught.value)) < 150


def test_what_is_done_depends_on_settings_picture_and_references(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "a.png")

    def done(job: Job, settings: ResultSettings = SETTINGS) -> bool:
        return Record(out, settings, None).done(job)

    assert not done(job)
    record = Record(out, SETTINGS, None)
    record.note(job)
    record.save(RestoreOutcome(), {})
    assert done(job)
    assert done(job, replace(SETTINGS, device="cuda:1")), "results of several devices go together"
    assert not done(replace(job, references=job.references[:1]))
    assert not done(replace(job, references=job.references[::-1])), "their order counts"
    assert not done(replace(job, lq=job.references[0]))
    for change in ({"seed": 2}, {"checkpoint": "d"}, {"paste_back": True}, {"align": "x"}, {"weights": "raw"},
                   {"noise": "per-image"}, {"read": "published"},
                   {"options": SamplingOptions(steps=3)}):  # fmt: skip
        assert not done(job, replace(SETTINGS, **change)), change
    put(tmp_path / "other" / "one.png")
    images.write(job.references[0], np.zeros((8, 8, 3), np.uint8))
    assert not done(job), "a reference has another content"
    put(job.references[0])
    assert done(job)
    whole = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(whole[: len(whole) // 2])
    assert not done(job), "its file is cut off"
    (out / "a.png").write_bytes(whole)
    assert done(job)
    text = (out / "run.json").read_text()
    older = json.loads(text)
    older["finished"] = {name: one["work"] for name, one in older["finished"].items()}
    (out / "run.json").write_text(json.dumps(older))
    assert not done(job), "an earlier version wrote down no digest of the result"
    (out / "run.json").write_text(text)
    (out / "a.png").unlink()
    assert not done(job), "its file is gone"


@pytest.mark.parametrize(
    "text",
    ["[]", "5", "null", '{"finished": 3, "made": []}', '{"finished": {"a.png": [1]}}', "[" * 100_000,
     "9" * 5000, '{"finished": {"a.png": {"work": {}, "result": null}}}', '{"finished":', "\x00"],
)  # fmt: skip
def test_a_record_of_any_kind_is_read(job: Job, tmp_path: Path, text: str) -> None:
    put(tmp_path / "out" / "a.png")
    (tmp_path / "out" / "run.json").write_text(text)
    assert not Record(tmp_path / "out", SETTINGS, None).done(job)


def test_nothing_is_overwritten_that_is_in_no_record(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out / "a.png")
    with pytest.raises(UserError, match="a.png is there, and no run.json"):
        Record(out, SETTINGS, None).claim([job], sheets=False)
    (out / "a.png").unlink()
    record = Record(out, SETTINGS, None)
    record.claim([job], sheets=True)
    record.save(RestoreOutcome(), {})
    put(out / "a.png", out / "sheets" / "a.png")  # and then it is killed
    Record(out, SETTINGS, "1/2").claim([job], sheets=True)
    put(out / "sheets" / "b.png")
    other = replace(job, name="b.png")
    with pytest.raises(UserError, match="sheets/b.png is there"):
        Record(out, SETTINGS, None).claim([other], sheets=True)


def test_a_sheet_takes_no_results_place(job: Job, tmp_path: Path) -> None:
    """Neither in one run, nor where an earlier one made the result; nor does a result a sheet's."""
    deep = replace(job, name="sheets/a.png")
    record = Record(tmp_path, SETTINGS, None)
    with pytest.raises(UserError, match="would overwrite the result sheets/a.png"):
        record.claim([deep, job], sheets=True)
    record.claim([deep, job], sheets=False)
    record.save(RestoreOutcome(), {})
    put(tmp_path / "sheets" / "a.png")
    with pytest.raises(UserError, match="made it as a sheet"):
        Record(tmp_path, SETTINGS, None).claim([job], sheets=True)
    spare_inputs([job], tmp_path / "out", sheets=True)
    (tmp_path / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match="would overwrite"):
        spare_inputs([replace(job, lq=tmp_path / "sheets" / "a.png")], tmp_path / "out", sheets=True)


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
        record.note(replace(job, name=name))
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
