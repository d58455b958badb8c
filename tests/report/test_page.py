"""report.html: what stands in it, that nothing in it is from outside, that no name becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, tables
from ffhqref.core.store import UserError, read_receipt, write_text
from ffhqref.dataset import verdicts
from ffhqref.dataset.build import Built, recipe_of
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from ffhqref.dataset.verify import STAGES
from ffhqref.report import answers, doubts, facts, labels, scores, views
from ffhqref.report.labels import share_interval
from ffhqref.report.page import ReportOptions, render
from ffhqref.report.thumbnails import Thumbnails, face_square
from ffhqref.report.write import write_report
from tests.report.making import HOSTILE, make_dataset, names_of


class Page(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(dataset: Path) -> Page:
    return Page(write_report(dataset).path.read_text())


def test_the_first_screen_has_the_dataset_s_numbers(dataset: Path, page: Page) -> None:
    known = facts.load(dataset)
    rows = {
        split: lists.read_references(dataset / f"reference_mapping/{split}_references.csv")
        for split in tables.SPLITS
    }
    assert [one.value for one in views.numbers(known)][2:] == [
        sum(map(len, rows.values())), *(len(rows[split]) for split in ("train", "val", "test"))
    ]  # fmt: skip
    assert len(views.summary(known)) == 3 and views.summary(known)[0] in page.text
    assert "FFHQ-Ref 20,405" in page.text


def test_nothing_in_it_is_from_outside(page: Page) -> None:
    assert not page.of("script") and not page.of("iframe") and not page.of("object")
    assert [link["href"] for link in page.of("link")] == ["data:,"]
    assert page.of("img") and all(one["src"].startswith("data:image/jpeg;base64,") for one in page.of("img"))
    assert all(one["href"].startswith("#") for one in page.of("a"))
    policy = next(
        one["content"] for one in page.of("meta") if "content" in one and "default-src" in one["content"]
    )
    assert policy.startswith("default-src 'none'")


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert all(one.get("alt") for one in page.of("img"))
    charts = [one for one in page.of("div") if one.get("role") == "img"]
    assert len(charts) == len(page.of("svg")) >= 6 and all(len(one["aria-label"]) > 20 for one in charts)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    headings = {one["id"] for one in page.of("h2")}
    assert all(one["aria-labelledby"] in headings for one in page.of("section"))


def test_names_never_become_markup(tmp_path: Path) -> None:
    names = [*HOSTILE, *names_of(29 - len(HOSTILE))]
    out = make_dataset(tmp_path, names)
    known = facts.load(out)
    bad = facts.LeftOut("two\nlines<i>.png", "bad_name", "<u>why</u>\u202e")
    scored = [("<b>ours", name, "ids", 0.5, "test") for name in known.faces.names]
    columns = list(zip(*scored, strict=True))
    known = replace(known, left_out=[bad], scores={"<i>level": tables.from_columns(tables.SCORES, columns)})
    text = render(known, Thumbnails(known.images, known.faces), ReportOptions(gallery=100))
    page = Page(text)
    assert not page.of("script") and not page.of("b") and not page.of("i") and not page.of("u")
    assert all("onerror" not in attrs for _, attrs in page.elements)
    assert "<b>ours" in page.text and 'id="scores"' in text
    assert "\u202e" not in text and "49 & " not in page.text
    assert "two\\nlines<i>.png" in page.text and "{{ 7 * 7 }} & <b>.png" in page.text
    assert "photo\\u202egnp.png" in page.text


def test_the_chained_people_are_the_first_doubt_parted_where_they_were_chained(dataset: Path) -> None:
    known = facts.load(dataset)
    first = doubts.find(known)[0]
    assert first.together and first.kinds == ("weak_link",)
    assert {first.left_side, first.right_side} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    vectors = known.faces.vectors.astype(np.float64)
    below = sum(1 - vectors[a] @ vectors[b] < 0.4 for a in range(4) for b in range(4, 8))
    assert first.stake == 2 * below > 0 and first.chance > 0.5


def test_doubts_fall_in_expected_gain(dataset: Path) -> None:
    found = doubts.find(facts.load(dataset))
    assert [d.rank for d in found] == sorted((d.rank for d in found), reverse=True)
    assert doubts.one_person(0.9, 0.6) > 0.99 and doubts.one_person(0.0, 0.6) < 0.01


def test_the_gallery_shows_nobody_twice_and_true_distances(dataset: Path) -> None:
    known = facts.load(dataset)
    rows = views.gallery(known, 0, 200)
    who = [known.identity[known.faces.index[row.title]] for row in rows]
    assert len(who) == len(set(who)) >= 8
    assert {row.split for row in rows} == {"train", "val", "test"}
    pairs = tables.read(tables.path_of(dataset, "pairs"), tables.PAIRS).to_pylist()
    distance = {frozenset((row["left"], row["right"])): row["distance"] for row in pairs}
    for row in rows:
        for shown in row.photos[1:]:
            assert shown.distance == pytest.approx(distance[frozenset((row.title, shown.name))], abs=1e-12)


def test_the_same_seed_gives_the_same_page_and_another_one_other_people(dataset: Path) -> None:
    first = write_report(dataset).path.read_text()
    again = facts.load(dataset)
    assert render(again, Thumbnails(again.images, again.faces), ReportOptions()) == first
    titles = [{row.title for row in views.gallery(facts.load(dataset), seed, 3)} for seed in range(6)]
    assert any(one != titles[0] for one in titles)


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    out = make_dataset(tmp_path)
    (tmp_path / "photos" / "010.png").write_bytes(b"no picture")
    written = write_report(out, options=ReportOptions(gallery=100))
    assert written.missing == ("010.png",)
    assert "could not be read" in written.path.read_text()


def test_a_share_is_never_bare() -> None:
    low, high = share_interval(50, 100, 1.0)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's
    assert share_interval(50, 100, 0.9) == pytest.approx((low - 0.1, high + 0.1))
    assert share_interval(0, 10, 0.5) == pytest.approx((0.0, 0.2775 + 0.5), abs=1e-3)


def test_labels_are_shown_with_the_labeller_s_errors(dataset: Path, tmp_path: Path) -> None:
    rows = "".join(f"{name},{'a<b' if at % 3 else 'c'},{at}\n" for at, name in enumerate(names_of(29)))
    write_text(tmp_path / "labels.csv", "image,kind,number\n" + rows)
    known = facts.load(dataset)
    (found,) = labels.charts(
        known, tmp_path / "labels.csv", 0.71
    )  # a label of 29 values is no label to count
    assert found.name == "kind" and "right in 71% of the pictures" in found.note
    assert "a<b (" in found.chart.label and "a<b" not in found.chart.svg
    assert "was not given" in labels.charts(known, tmp_path / "labels.csv", None)[0].note
    with pytest.raises(UserError, match="label-accuracy 2"):
        labels.charts(known, tmp_path / "labels.csv", 2)


def test_scores_are_means_with_intervals_over_people(dataset: Path) -> None:
    """Beside them the paper's, marked, for a level and a metric that it has; of FID one number."""
    known = facts.load(dataset)
    rows = [("ours", name, "ids", float(at), "test") for at, name in enumerate(known.faces.names[:8])]
    rows += [("ours", "", "fid", 40.0, "test")]
    made = tables.from_columns(tables.SCORES, list(zip(*rows, strict=True)))
    found = scores.scores(replace(known, scores={"severe": made, "mine": made}), 0)
    own = [one for one in found if not one.published]
    assert [(one.level, one.metric) for one in own] == [
        ("severe", "fid"), ("severe", "ids"), ("mine", "fid"), ("mine", "ids")
    ]  # fmt: skip
    assert own[1].mean == 3.5 and own[1].pictures == 8 and own[1].low <= 3.5 <= own[1].high
    assert own[0].mean == 40 and own[0].low is None and own[0].pictures == 0
    paper = {(one.method, one.metric): one.mean for one in found if one.published}
    assert paper["ReF-LDM (published)", "ids"] == 0.676 and paper["LDM (published)", "fid"] == 34.40
    assert all(one.level == "severe" for one in found if one.published)
    labels_of = [chart.label for chart in scores.charts(found)]
    assert len(labels_of) == 4 and labels_of[1].startswith("ids, severe: ours 3.5, from ")
    assert "CodeFormer (published) 0.323" in labels_of[1]


def test_scores_and_curves_are_read_where_evaluate_writes_them(tmp_path: Path) -> None:
    out = make_dataset(tmp_path)
    rows = [("ours", name, "ids", 0.5, "test") for name in names_of(4)]
    place = out / "scores" / "severe"
    tables.write_rows(place / "scores.parquet", tables.SCORES, rows)
    (place / "by-yaw.png").write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    (place / "by-age.png").write_bytes(bytes(scores.LARGEST_CURVE + 1))
    page = Page(write_report(out).path.read_text())
    assert [one["alt"] for one in page.of("img") if one["src"].startswith("data:image/png")] == [
        "Curve: by yaw, severe"
    ]
    assert "ReF-LDM (published)" in page.text and "0.676" in page.text


def test_what_was_answered_is_counted_and_not_asked_again(tmp_path: Path) -> None:
    out = make_dataset(tmp_path)
    known = facts.load(out)
    first = doubts.find(known)[0]
    names, pixels = known.faces.names, known.faces.pixels
    sides = [(names[at], pixels[at]) for at in (first.left, first.right)]
    verdicts.append(verdicts.path_of(out), [verdicts.Verdict("different", *sides[0], *sides[1], "ann", "1")])
    known = facts.load(out)
    assert known.waiting and views.verdict_counts(known) == {"different": 1}
    assert first not in answers.unanswered(known, doubts.find(known))
    assert len(answers.unanswered(known, doubts.find(known))) == len(doubts.find(known)) - 1
    page = Page(write_report(out).path.read_text())
    assert "1 different" in page.text and "newer than the grouping" in page.text
    line = verdicts.Verdict("excluded", names[20], pixels[20], "", "", "ann", "2")
    verdicts.append(verdicts.path_of(out), [line])
    made = recipe_of(out)
    for stage in (find_identities, split_identities, write_references):
        stage(out, made)
    known = facts.load(out)
    assert not known.waiting and names[20] not in known.faces.names
    assert [(one.image, one.status) for one in known.left_out] == [(names[20], "excluded")]
    assert len(known.identity) == len(known.faces.vectors) == 28
    words = Page(write_report(out).path.read_text()).text
    assert "1 excluded" in words and "newer than the grouping" not in words


def test_a_doubtful_name_is_asked_as_one_photo_against_the_others_of_its_name(tmp_path: Path) -> None:
    known = facts.load(make_dataset(tmp_path))
    names = known.faces.names
    given = [
        "anna" if at < 4 or at == 9 else "bert" if at < 8 else one for at, one in enumerate(known.identity)
    ]
    row = dict.fromkeys(tables.SUSPECTS.names, "") | {
        "kind": "label", "doubt": 0.9, "identity": "anna", "other": "bert", "left": names[9],
        "right": names[5],
    }  # fmt: skip
    (doubt,) = (
        d for d in doubts.find(replace(known, identity=given, suspects=[row])) if d.kinds == ("label",)
    )
    assert doubt.together and doubt.left_side == (9,) and doubt.right_side == (0, 1, 2, 3)
    assert doubt.left == 9 and doubt.right in (0, 1, 2, 3) and doubt.chance == 0.9
    assert "unlike the others of its given name, and like those of bert" in doubts.why(doubt, 0.4)


def test_the_face_is_cut_as_ffhq_frames_it() -> None:
    points = np.array([[40, 50], [60, 50], [50, 60], [43, 70], [57, 70]], np.float32)
    left, top, right, bottom = face_square(points, 200, 200)
    assert right - left == bottom - top == 80  # twice the greater of 2 x 20 and 1.8 x 20
    assert (left + right) / 2 == 50 and (top + bottom) / 2 == 52
    assert face_square(points, 60, 60)[2:] == (60, 60)
    assert face_square(np.zeros((5, 2), np.float32), 100, 50) == (25, 0, 75, 50)


def test_the_command_says_where_and_what_next(dataset: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(dataset)])
    assert result.exit_code == 0 and f"Next: ffhqref review {dataset}" in result.output
    assert re.search(r"Wrote .*report.html and the card", result.output)


@pytest.mark.parametrize("words, said", [([], "not a finished dataset"), (["--gallery", "0"], "--gallery 0")])
def test_what_cannot_be_reported_is_a_sentence(
    words: list[str], said: str, dataset: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["report", str(dataset if words else tmp_path), *words])
    assert result.exit_code == 1 and said in result.output


def test_alike_people_are_the_pairs_of_greatest_mean_similarity(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all pairs of people, photo by photo; with the bound on how many, the likest of them."""
    known = facts.load(dataset)
    vectors = known.faces.vectors.astype(np.float64)
    monkeypatch.setattr(doubts, "LEAST_CHANCE", doubts.one_person(0.05, known.distance))
    monkeypatch.setattr(doubts, "BLOCK", 3)
    means = {
        frozenset((a, b)): float((vectors[known.people[a]] @ vectors[known.people[b]].T).mean())
        for a in known.people for b in known.people if a < b
    }  # fmt: skip
    wanted = {pair: mean for pair, mean in means.items() if mean > 0.05}
    found = {frozenset((d.identity, d.other)): d.mean for d in doubts.find(known) if d.kinds == ("alike",)}
    assert wanted and found == pytest.approx(wanted)
    monkeypatch.setattr(doubts, "MOST_ALIKE", 2)
    few = {frozenset((d.identity, d.other)) for d in doubts.find(known) if d.kinds == ("alike",)}
    assert few == set(sorted(wanted, key=lambda pair: -wanted[pair])[:2])


def test_build_refs_ends_with_its_report(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build itself is another test's: here it is one that is done."""
    receipts = {stage: receipt for stage in STAGES if (receipt := read_receipt(dataset, stage))}
    monkeypatch.setattr("ffhqref.dataset.build.build_refs", lambda *_, **__: Built(dataset, receipts, False))
    (dataset / "report.html").unlink(missing_ok=True)
    words = ["build-refs", "--images", str(dataset.parent / "photos"), "--out", str(dataset), "--report"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    last = done.output.splitlines()[-1]
    assert last == f"Look at it: {dataset / 'report.html'}. Next: ffhqref review {dataset}"
    assert (dataset / "report.html").is_file()
