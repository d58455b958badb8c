"""ffhqref evaluate: scores with oracles, failures, intervals, resuming, and bad input."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, journal, lists, store, tables
from ffhqref.demo import EMBEDDER
from ffhqref.evaluate import cases as collecting
from ffhqref.evaluate import run as running
from ffhqref.evaluate import scoring
from ffhqref.evaluate.cases import LOW_QUALITY, Method
from ffhqref.evaluate.summary import LATEX, latex, markdown, summarise
from tests.photographs import Known, Once

NAMES = {"ids", "ids_aligned", "psnr", "ssim", "likeness_references", "copying", "likeness_wrong"}


def run(*words: object, code: int = 0) -> str:
    """The command's output; it must end with `code`, and never with a traceback."""
    result = CliRunner().invoke(app, ["evaluate", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def data(built: Path, once: Once, known: list[Known]) -> Path:
    """A built dataset with severe pictures, and results of two methods: `perfect` and `blurred`."""

    def make(folder: Path) -> None:
        out = folder / "mine"
        shutil.copytree(built, out)
        again = ["split", "--redraw", "--test-identities", "3"]
        for words in (again, ["references"], ["degrade", "--level", "severe"]):
            done = CliRunner().invoke(app, [words[0], str(out), *words[1:]])
            assert done.exit_code == 0, done.output
        for target in lists.read_references(out / "reference_mapping/test_references.csv"):
            whole = images.read(known[0].path.parent / target)
            name = images.png_name(target)
            images.write(folder / "perfect" / name, whole)
            images.write(folder / "blurred" / name, images.resize(images.resize(whole, 40, 40), 512, 512))

    return once("evaluated", make)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "scores"


def both(data: Path) -> list[object]:
    return ["--data", data / "mine", "--restored", f"perfect={data / 'perfect'}",
            "--restored", f"blurred={data / 'blurred'}"]  # fmt: skip


def scores(out: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(method, metric) -> image -> value."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in tables.read(out / "scores.parquet", tables.SCORES).to_pylist():
        found.setdefault((row["method"], row["metric"]), {})[row["image"]] = row["value"]
    return found


def plain_ids(one: images.Rgb, other: images.Rgb) -> float:
    """The published metric by ONNX Runtime and NumPy alone: crop, area to 112 px, [-1, 1], cosine."""
    session = onnxruntime.InferenceSession(str(EMBEDDER), providers=["CPUExecutionProvider"])
    vectors = []
    for image in (one, other):
        middle = image[32:480, 32:480].astype(np.float64)
        small = middle.reshape(112, 4, 112, 4, 3).mean((1, 3)) / 127.5 - 1
        blob = small.transpose(2, 0, 1)[None].astype(np.float32)
        vector = session.run(None, {session.get_inputs()[0].name: blob})[0][0]
        vectors.append(vector / np.linalg.norm(vector))
    return float(vectors[0] @ vectors[1])


def test_the_command_scores_every_method_and_the_input(data: Path, out: Path, known: list[Known]) -> None:
    said = run(*both(data), "--out", out)
    assert "blurred less low quality: ids" in said and f"Next: cat {out}/table.md" in said
    found = scores(out)
    targets = sorted(lists.read_references(data / "mine/reference_mapping/test_references.csv"))
    for method in (LOW_QUALITY, "perfect", "blurred"):
        assert {metric for name, metric in found if name == method} >= NAMES
        assert all(sorted(values) == targets for (name, _), values in found.items() if name == method)
    assert list(found["perfect", "psnr"].values()) == pytest.approx([80.0] * len(targets))
    for metric in ("ids", "ids_aligned", "ssim"):
        assert list(found["perfect", metric].values()) == pytest.approx([1.0] * len(targets), abs=1e-6)
        means = [np.mean(list(found[m, metric].values())) for m in (LOW_QUALITY, "blurred", "perfect")]
        assert means == sorted(means)
    first = targets[0]
    whole = images.read(known[0].path.parent / first)
    blurred = images.read(data / "blurred" / images.png_name(first))
    assert found["blurred", "ids"][first] == pytest.approx(plain_ids(whole, blurred), abs=1e-5)
    for name in targets:  # copying is defined by two others
        mine = {metric: found["blurred", metric][name] for metric in NAMES}
        assert mine["copying"] == pytest.approx(mine["likeness_references"] - mine["ids_aligned"])
        assert mine["likeness_references"] > mine["likeness_wrong"]
    by = set(tables.read(out / "scores.parquet", tables.SCORES)["computed_by"].to_pylist())
    assert any(store.digest_file(EMBEDDER) in text for text in by) and all("ffhqref" in text for text in by)


def test_scores_by_group(data: Path, out: Path, tmp_path: Path, known: list[Known]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,set\n" + "".join(f"{one.path.name},{n % 2}\n" for n, one in enumerate(known)))
    words = [*both(data), "--labels", labels, "--metrics", "psnr", "--out", out]
    said = run(*words, "--by", "references", "--by", "yaw", "--by", "set")
    for by in ("references", "yaw", "set"):
        assert (out / f"by-{by}.png").is_file() and f"psnr by {by} (table: {out}/by-{by}.csv" in said
    with (out / "by-set.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "blurred"]
    found = scores(out)["blurred", "psnr"]
    assert sum(int(row["pictures"]) for row in rows) == len(found)
    total = sum(int(row["pictures"]) * float(row["mean"]) for row in rows)
    assert total == pytest.approx(sum(found.values()))


def test_workers_order_and_other_methods_change_no_digit(data: Path, out: Path, tmp_path: Path) -> None:
    run(*both(data), "--out", out, "--workers", 1)
    turned = ["--data", data / "mine", "--restored", f"blurred={data / 'blurred'}"]
    run(*turned, "--out", tmp_path / "one", "--workers", 3)
    alone, together = scores(tmp_path / "one"), scores(out)
    assert alone == {key: values for key, values in together.items() if key[0] != "perfect"}


def test_a_second_run_scores_only_what_changed(
    data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(data / "blurred", results)
    words = ["--data", data / "mine", "--restored", f"one={results}", "--out", out]
    run(*words)
    before = (out / "scores.parquet").read_bytes()
    scored = []
    compare = scoring._Truth.compare
    monkeypatch.setattr(
        scoring._Truth, "compare",
        lambda self, method, path: scored.append((method, path.name)) or compare(self, method, path),
    )  # fmt: skip
    run(*words)
    assert scored == [] and (out / "scores.parquet").read_bytes() == before
    changed = sorted(results.iterdir())[0]
    images.write(changed, np.zeros((512, 512, 3), np.uint8))
    run(*words)
    assert scored == [("one", changed.name)]
    lines = (out / "scored.jsonl").read_text().splitlines(keepends=True)
    (out / "scored.jsonl").write_text("".join(lines[:-2]) + lines[-1][:40])  # as a kill leaves it
    after = (out / "scores.parquet").read_bytes()
    run(*words)
    assert (out / "scores.parquet").read_bytes() == after != before
    kept = journal.read(out / "scored.jsonl")
    hostile = ["[]", '{"target": 1}', '{"target": {"key": "x", "views": {"crop": "?"}}}', "{"]
    for file, note in zip(kept, hostile, strict=False):
        kept[file] = replace(kept[file], note=note)
    journal.write(out / "scored.jsonl", kept)
    run(*words)
    assert (out / "scores.parquet").read_bytes() == after


@pytest.mark.slow
def test_a_killed_run_goes_on(data: Path, tmp_path: Path) -> None:
    """Killed wherever it is, and run again: the same bytes as without a kill."""
    words = [str(word) for word in both(data)]
    run(*words, "--out", tmp_path / "whole")
    wanted = (tmp_path / "whole/scores.parquet").read_bytes()
    for share in (0.2, 0.5, 0.9):
        out = tmp_path / f"killed-{share}"
        call = [sys.executable, "-m", "ffhqref", "evaluate", *words, "--out", str(out), "--workers", "1"]
        size = share * (tmp_path / "whole/scored.jsonl").stat().st_size
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal_file = out / "scored.jsonl"
        while process.poll() is None and not (journal_file.exists() and journal_file.stat().st_size > size):
            time.sleep(0.02)
        process.kill()
        process.wait()
        run(*words, "--out", out)
        assert (out / "scores.parquet").read_bytes() == wanted


def test_failures_are_listed_and_never_make_a_method_better(data: Path, out: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(data / "perfect", results)
    files = sorted(results.iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:300])
    images.write(files[2], np.zeros((300, 512, 3), np.uint8))
    images.write(files[3], images.resize(images.read(files[3]), 256, 256))
    said = run("--data", data / "mine", "--restored", f"mine={results}", "--out", out)
    assert "mine (3 failed, scored on the rest)" in said and "1 pictures of mine have another size" in said
    with (out / "failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["status"]) for row in rows] == [
        (files[0].name, "missing"), (files[1].name, "unreadable"), (files[2].name, "other_shape"),
    ]  # fmt: skip
    with (out / "summary.csv").open(newline="") as file:
        mine = {row["metric"]: row for row in csv.DictReader(file) if row["method"] == "mine"}
    found, lq = scores(out)["mine", "ids"], scores(out)[LOW_QUALITY, "ids"]
    wanted = np.mean([found.get(name, lq[name]) for name in lq])
    assert float(mine["ids"]["mean"]) == pytest.approx(np.mean(list(found.values())))
    assert float(mine["ids"]["mean_with_failures"]) == pytest.approx(wanted)
    assert float(mine["ids"]["mean_with_failures"]) < float(mine["ids"]["mean"])


def test_a_result_without_a_face_fails(data: Path, out: Path, tmp_path: Path, detector: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(data / "perfect", results)
    flat = sorted(results.iterdir())[0]
    images.write(flat, np.full((512, 512, 3), 90, np.uint8))
    run("--data", data / "mine", "--restored", f"mine={results}", "--detector", detector, "--out", out)
    with (out / "failures.csv").open(newline="") as file:
        assert [(row["image"], row["status"]) for row in csv.DictReader(file)] == [(flat.name, "no_face")]


def test_copying_shows_who_pastes_references(data: Path, out: Path, tmp_path: Path) -> None:
    """Results that are a reference, of the own or of another person, against the target itself."""
    found = collecting.of_dataset(data / "mine", level="severe")
    for case in found.cases:
        images.write(tmp_path / "own" / case.file, images.read(found.pictures[case.references[0]]))
        images.write(tmp_path / "wrong" / case.file, images.read(found.pictures[found.wrong[case.image][0]]))
    run(*both(data)[:4], "--restored", tmp_path / "own", "--restored", tmp_path / "wrong", "--out", out)
    mean = {key: np.mean(list(values.values())) for key, values in scores(out).items()}
    assert mean["own", "copying"] > mean["perfect", "copying"] + 0.005
    assert mean["wrong", "likeness_wrong"] > mean["own", "likeness_wrong"] + 0.3
    person = found.person
    assert all(not set(found.wrong[name]) & set(case.references) for name, case in
               ((case.image, case) for case in found.cases))  # fmt: skip
    assert len(set(person.values())) >= 2


def test_folders_without_a_dataset(data: Path, out: Path, tmp_path: Path, known: list[Known]) -> None:
    """Targets and low quality beside results; and, as for real photographs, no targets at all."""
    photos = known[0].path.parent
    rows = lists.read_references(data / "mine/reference_mapping/test_references.csv")
    for target, references in rows.items():
        links = {tmp_path / "clean" / target: target}
        links |= {tmp_path / "refs" / Path(target).stem / name: name for name in references[:2]}
        for place, name in links.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(photos / name)
    labels = tmp_path / "people.csv"
    labels.write_text("image,identity\n" + "".join(f"{one.path.name},{one.person}\n" for one in known))
    lq = data / "mine/test_images/severe_degrad"
    words = ["--lq", lq, "--labels", labels, "--embedder", EMBEDDER, "--restored", data / "blurred"]
    run("--targets", tmp_path / "clean", *words, "--out", out)
    few = ["--max-references", 1]
    run(*both(data)[:2], "--restored", data / "blurred", *few, "--out", tmp_path / "dataset")
    whole, plain = scores(tmp_path / "dataset"), scores(out)
    assert all(plain["blurred", metric] == whole["blurred", metric] for metric in ("ids", "psnr", "ssim"))
    said = run(*words, "--refs-dir", tmp_path / "refs", "--out", tmp_path / "real")
    real = scores(tmp_path / "real")
    assert {"likeness_references", "likeness_wrong"} <= {metric for _, metric in real}
    assert not {"ids", "psnr", "copying"} & {metric for _, metric in real}
    assert "Note: psnr: not computed, there are no targets." in said


def test_matches_are_counted_at_the_rate_of_the_dataset() -> None:
    """By hand: three people on a circle, two photos each; no pair of two people is nearer than 60 degrees."""
    from ffhqref.evaluate.identity import Threshold, thresholds

    def at(*degrees: float) -> list[np.ndarray]:
        return [np.array([np.cos(d), np.sin(d)], np.float32) for d in np.deg2rad(degrees)]

    found = thresholds(list("aabbcc"), at(0, 5, 120, 125, 240, 245))
    assert found["match_1e-3"] == Threshold(1e-3, None, 12)
    many = thresholds(
        [str(n // 2) for n in range(100)], [np.eye(50, dtype=np.float32)[n // 2] for n in range(100)]
    )
    assert many["match_1e-3"].pairs == 4900 and many["match_1e-4"].similarity is None
    assert many["match_1e-3"].similarity == pytest.approx(0, abs=1e-9)  # strangers are at right angles


def test_tables_escape_and_published_rows_are_marked(data: Path, out: Path) -> None:
    name = "a|b_50%"
    run(
        "--data",
        data / "mine",
        "--restored",
        f"{name}={data / 'blurred'}",
        "--published",
        "severe",
        "--out",
        out,
    )
    text, tex = (out / "table.md").read_text(), (out / "table.tex").read_text()
    assert "a\\|b_50%" in text and r"a|b\_50\%" in tex and LATEX["%"] == r"\%"
    assert "| ReF-LDM (published) | 0.676 |" in text
    assert "DMDNet (published; leaked; 214 failed, scored on the rest)" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("|") and "---" not in line}
    assert len(widths) == 1


def test_the_summary_of_hand_made_scores() -> None:
    found = running.Evaluation([LOW_QUALITY, "a", "b"], {"1": "p", "2": "p", "3": "q"})
    found.values = {
        LOW_QUALITY: {"psnr": {"1": 10.0, "2": 20.0, "3": 30.0}},
        "a": {"psnr": {"1": 11.0, "2": 22.0, "3": 33.0}},
        "b": {"psnr": {"1": 40.0, "3": 50.0}},
    }
    found.failures = [("b", "2", "missing", "there is no such file")]
    summary = summarise(found)
    assert summary.cells["a"]["psnr"].mean.mean == 22 and summary.cells["b"]["psnr"].mean.mean == 45
    full = summary.cells["b"]["psnr"].full
    assert full is not None and full.mean == pytest.approx((40 + 20 + 50) / 3)
    assert summary.differences["b", "a"]["psnr"].mean == pytest.approx((29 + 17) / 2)
    assert "b (1 failed, scored on the rest)" in markdown(summary) and r"\begin{tabular}{lr}" in latex(
        summary
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "nowhere"], "give --data a built dataset"),
        (["--restored", "x=nowhere"], "is not a folder"),
        (["--data", "{data}/mine", "--metrics", "ids,beauty"], "known are ids"),
        (["--out", "x"], "Give --data OUT, or --targets"),
        (["--data", "{data}/mine", "--level", "no"], "run `ffhqref degrade"),
        (["--data", "{data}/mine", "--embedder", "{data}/perfect"], "no network file"),
        (["--data", "{data}/mine", "--restored", "a={data}/mine/reference_mapping"], "holds no PNG"),
        (["--data", "{data}/mine", "--restored", "a={data}/mine/test_images"], "the targets' names"),
        (["--data", "{data}/mine", *2 * ["--restored", "a={data}/perfect"]], "twice"),
        (["--data", "{data}/mine", "--metrics", "psnr", "--protocol", "all"], "--metrics or --protocol"),
        (["--data", "{data}/mine", "--size", "1"], "32 to 4096"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(data: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    given = [word.format(data=data) for word in words]
    said = run(*given, *([] if "--out" in given else ["--out", tmp_path / "scores"]), code=1)
    assert sentence in " ".join(said.split()), said
    assert said.strip().startswith("Error: ") and said.count("Error") == 1
    assert Method("a", Path("b")).name == "a"
