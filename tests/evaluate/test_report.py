"""The report page: what it says, and that it stands alone."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videollava.data.archives.listing import TarWriter
from videollava.data.prepare.index import write_shards
from videollava.data.prepare.tables import write_media
from videollava.data.toy.scenes import describe_split
from videollava.errors import InputError
from videollava.evaluate.charts import Curve, curve_chart, read_curve
from videollava.evaluate.page import Markup, clip, document, tag
from videollava.evaluate.report import write_report
from videollava.evaluate.report_samples import pick
from videollava.evaluate.report_scores import score_all
from videollava.evaluate.results import Answer, read_results
from videollava.params import Params, Source
from videollava.tracking import input_key

IMAGES, VIDEOS = 4, 2
SOURCES = (
    Source(name="easy_vqa", kind="package", format="easy-vqa", package="easy-vqa"),
    Source(name="toy_clips", kind="generated", format="clips", train=4, test=2),
)
PARAMS = Params(sources={source.name: source for source in SOURCES})
VOID = {"img", "meta", "br"}


def row(key: int, said: str, gold: str = "red", kind: str = "color", media: int = 0) -> dict[str, Any]:
    return {
        "question_id": f"q{key}",
        "kind": kind,
        "question": f"<image>\nquestion {key}?",
        "answer": gold,
        "prediction": said,
        "correct": said == gold,
        "media": [media],
    }


def write_rows(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    file = folder / "predictions" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))


def images(wrong: int) -> list[dict[str, Any]]:
    """40 questions, the first `wrong` of them answered wrong."""
    kinds = ("color", "shape")
    return [row(k, "blue" if k < wrong else "red", kind=kinds[k % 2], media=k % IMAGES) for k in range(40)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of a few pictures and clips."""
    from videollava.data.toy.drawing import encode

    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    contents: list[tuple[str, bytes]] = []
    for _ in range(IMAGES):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (24, 32, 3), np.uint8)).save(file, "PNG")
        contents.append(("image", file.getvalue()))
    for _ in range(VIDEOS):
        contents.append(("video", encode(random.integers(0, 255, (12, 48, 64, 3), np.uint8), 8)))
    rows = []
    shard = folder / "shards/toy/toy-00000.tar"
    shard.parent.mkdir(parents=True)
    with TarWriter(shard) as writer:
        for number, (kind, data) in enumerate(contents):
            offset = writer.add(f"{number}", data)
            place = {"media_id": number, "kind": kind, "shard": 0, "offset": offset, "size": len(data)}
            shape = {"width": 64, "height": 48, "frames": 12 if kind == "video" else 1, "look": ""}
            rows.append(place | {"sha256": sha256(data).hexdigest()} | shape)
    (folder / "index").mkdir()
    write_media(folder / "index", rows)
    write_shards(folder / "index", [("toy", shard)])
    return folder


@pytest.fixture
def workspace(tmp_path: Path, prepared: Path) -> Path:
    """A workspace after `evaluate`: 36 of 40 image questions right, 3 of 4 about clips."""
    (tmp_path / "data").symlink_to(prepared)
    write_rows(tmp_path / "evaluation", "easy_vqa", images(wrong=4))
    write_rows(tmp_path / "evaluation", "easy_vqa.blind", images(wrong=20))
    clips = [row(k, "up" if k else "down", "up", "direction", IMAGES + k % VIDEOS) for k in range(4)]
    write_rows(tmp_path / "evaluation", "toy_video_qa", clips)
    plots = tmp_path / "plots"
    plots.mkdir()
    for stage in ("pretrain", "finetune"):
        lines = [f"{step},{4 / step},{0.001 / step}" for step in range(1, 30)]
        (plots / f"{stage}.csv").write_text("\n".join(["step,loss,learning_rate", *lines]))
    return tmp_path


METRICS: dict[str, Any] = {
    "easy_vqa": {"accuracy": 90.0, "blind_accuracy": 50.0, "chance": 50.1, "n": 40, "by_kind": {}},
    "toy_video_qa": {"accuracy": 75.0, "chance": 25.0, "n": 4, "by_kind": {}},
}


def report(workspace: Path, metrics: dict[str, Any] = METRICS, **options: Any) -> str:
    target = workspace / "evaluation/report.html"
    assert write_report(workspace, PARAMS, metrics, target, **options) == target
    assert not list(target.parent.glob("*.tmp"))
    return target.read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text, a space between elements."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)).split())


class Balance(html.parser.HTMLParser):
    """Fails on an element that is not closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_scores_intervals_kinds_and_counts_are_on_the_page(workspace: Path) -> None:
    text = words(report(workspace))
    scored = score_all(METRICS, read_results(workspace / "evaluation"))[0]
    assert scored.interval is not None
    assert scored.gain is not None
    low, high = scored.interval.low, scored.interval.high
    gain = f"+40.00 {scored.gain.low:+.2f} to {scored.gain.high:+.2f}"
    assert f"easy-VQA 40 90.00 {low:.2f} to {high:.2f} 50.00 {gain} 50.10" in text
    assert re.search(r"Generated clips 4 75\.00 .{5,20} – – 25\.00", text)
    assert re.search(r"shape 20 90\.00", text)
    assert "blue color 2 10.0%" in text  # commonest mistakes: gold red, said blue
    assert "champion" not in text


def test_page_is_well_formed_and_asks_for_nothing_from_outside(workspace: Path) -> None:
    page = report(workspace)
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    assert not balance.seen & {"script", "link", "iframe", "object", "form", "base"}
    addresses = re.findall(r'(?:src|href|action|data)="([^"]*)"', page)
    assert addresses
    assert all(a.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for a in addresses)
    assert not re.search(r"https?:|url\(|@import", page)
    assert str(workspace) not in page
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert {a[1:] for a in addresses if a.startswith("#")} <= targets


def test_same_input_gives_same_bytes(workspace: Path) -> None:
    first = report(workspace)
    assert first == report(workspace)
    lines = (workspace / "evaluation/predictions/easy_vqa.jsonl").read_text().splitlines()
    (workspace / "evaluation/predictions/easy_vqa.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    cards = report(workspace).split('id="samples"')[1]
    assert cards == first.split('id="samples"')[1]  # whatever the order of the lines


def test_videos_are_strips_of_all_frames_and_pictures_decode(workspace: Path) -> None:
    page = report(workspace)
    strips = re.findall(r'<div class="strip">(.*?)</div>', page)
    assert {strip.count("<img") for strip in strips} == {PARAMS.model.frames}
    assert 'alt="frame 8 of 8"' in page
    for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page):
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 192
    assert len(page) < 3_000_000


def test_what_predictions_say_is_escaped(workspace: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\"'&\ud800\x00"
    rows = images(wrong=4)
    rows[0] |= {"prediction": hostile, "question": hostile, "kind": hostile, "question_id": hostile}
    rows[1] |= {"prediction": hostile, "kind": "shape"}
    write_rows(workspace / "evaluation", "easy_vqa", rows)
    page = report(workspace)
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;\ufffd\ufffd" in page
    balance = Balance()
    balance.feed(page)
    assert not balance.open


def test_champion_is_compared_question_by_question(workspace: Path, tmp_path: Path) -> None:
    champion = tmp_path / "champion"
    write_rows(champion, "easy_vqa", [*images(wrong=24)[1:], row(0, "red")])
    text = words(report(workspace, champion=champion))
    assert re.search(r"50\.10 42\.50 \+47\.50 \+\d+\.\d+ to \+\d+\.\d+ 0\.125", text)
    # Nineteen questions more are right, but they are about four pictures.
    assert "no clear difference from the champion" in text
    assert "Lost since the champion (1)" in text
    assert "Gained since the champion (20)" in text
    assert "Wrong, as the champion (3)" in text
    assert "not scored" in text  # the champion has no clips
    assert re.search(r"question 0\? gold red this model blue ✗ blinded blue ✗ champion red ✓", text)


def test_an_unfair_champion_is_named_and_no_error(workspace: Path, tmp_path: Path) -> None:
    champion = tmp_path / "champion"
    write_rows(champion, "easy_vqa", images(wrong=24)[1:])
    text = words(report(workspace, champion=champion))
    assert "not comparable" in text
    assert "easy_vqa: not the same questions: 1 only in this model's (q0)" in text.replace("&#x27;", "'")
    write_rows(champion, "easy_vqa", images(wrong=24))
    judged = METRICS | {"easy_vqa": METRICS["easy_vqa"] | {"judge": "gpt"}}
    text = words(report(workspace, judged, champion=champion)).replace("&#x27;", "'")
    assert "graded in the champion's by no judge and in this model's by gpt" in text


def test_papers_figures_stand_beside_ours(workspace: Path) -> None:
    write_rows(workspace / "evaluation", "gqa", images(wrong=10))
    write_rows(workspace / "evaluation", "msvd", images(wrong=10))
    judged = {"accuracy": 75.0, "n": 40, "judge": "j"}
    text = words(report(workspace, METRICS | {"gqa": {"accuracy": 75.0, "n": 40}, "msvd": judged}))
    assert "Beside the paper&#x27;s tables" in text
    assert "Video-LLaVA-7B 60.3 this model 75.0" in text
    assert "Video-LLaVA-7B 70.7 / 3.9 this model 75.0" in text
    assert re.search(r"MSVD-QA 40 75\.00 [\d. to]+ – – – 70\.7 / 3\.9", text)
    assert "paper" not in words(report(workspace))


def test_score_that_is_no_mean_has_no_interval(workspace: Path) -> None:
    write_rows(workspace / "evaluation", "pope", images(wrong=4))
    text = words(report(workspace, METRICS | {"pope": {"mean_f1": 84.0, "n": 40}, "gqa": {"accuracy": 61.0}}))
    assert "No interval for POPE, GQA: the score is not the mean of the answers at hand." in text
    assert "No predictions of GQA are at hand." in text
    with pytest.raises(InputError, match="gqa: no score"):
        report(workspace, METRICS | {"gqa": {"n": 3}})


def test_split_is_explained_with_counts(workspace: Path, tmp_path: Path) -> None:
    text = words(report(workspace))
    assert " ".join(describe_split().split()) in text
    assert "all 40 questions of its test set" in text
    assert "left no summary" in text
    own = tmp_path / "own"
    write_rows(own / "evaluation", "easy_vqa", images(wrong=4))
    (own / "data/index").mkdir(parents=True)
    counts = {"records": 1234, "images": 5, "videos": 6, "target_tokens": 7}
    left = {"near_a_test": {"mine": 2, "theirs": 1}}
    summary = {"splits": {"finetune": counts}, "left_out": left, "quarantined": {"records": 9}}
    (own / "data/index/summary.json").write_text(json.dumps(summary))
    params = PARAMS.replace(sources={"mine": Source(name="mine", kind="archive", format="llava")})
    page = write_report(own, params, {"easy_vqa": {"accuracy": 90.0}}, own / "evaluation/report.html")
    text = words(page.read_text())
    assert "finetune 1,234 5 6 7" in text
    assert "or media like them: 3. Records quarantined while preparing: 9." in text
    assert "mine: used for training only" in text
    assert "combination is held out" not in text
    assert "media have no picture; the first: data/index/media.arrow: not found" in text
    assert "were held out" not in text
    summary["splits"] = {"finetune": counts, "finetune-valid": counts}
    (own / "data/index/summary.json").write_text(json.dumps(summary))
    page = write_report(own, params, {"easy_vqa": {"accuracy": 90.0}}, own / "evaluation/report.html")
    assert "Splits that end in -valid were held out of training" in words(page.read_text())
    (own / "data/index/summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"summary\.json: not what index writes"):
        write_report(own, params, {"easy_vqa": {"accuracy": 90.0}}, page)


def test_lineage_is_the_workspace_s_or_the_one_given(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("profile: tiny\n")
    lock = {"finetune": {"outs": [{"path": "models/videollava", "md5": "abcdef0123456789.dir"}]}}
    (workspace / "dvc.lock").write_text(json.dumps({"stages": lock}))
    text = words(report(workspace))
    assert "commit not recorded" in text
    assert re.search(r"parameters [0-9a-f]{12} ", text)
    assert "model abcdef012345 " in text
    text = words(report(workspace, lineage={"version": "models:/videollava/7"}))
    assert "version models:/videollava/7" in text
    assert "commit" not in text


def test_curves_are_drawn_and_missing_ones_named(workspace: Path) -> None:
    page = report(workspace)
    assert page.count('<path d="M') == 2 * 3  # raw, smoothed, learning rate
    assert "No curve of bases, align." in words(page)
    assert "29 steps, smoothed loss 4 → " in words(page)


def test_what_is_held_out_is_drawn_in_its_place_beside_the_loss(tmp_path: Path) -> None:
    """Two of four steps, on the scale of the loss: 0 to 4, drawn from the bottom up."""
    (tmp_path / "finetune.csv").write_text("step,loss\n1,4.0\n2,3.0\n3,2.0\n5,1.0\n")
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune/held_out.csv").write_text("step,held_out_loss\n3,4.0\n5,2.0\n")
    curve = read_curve(tmp_path / "finetune.csv")
    assert curve.held_out == ((3, 4.0), (5, 2.0))
    drawn = curve_chart(curve)
    assert '<path d="M500.0 12.0L1000.0 150.0" class="held">' in drawn
    assert "dotted: held out, 4 → 2" in drawn
    (tmp_path / "finetune/held_out.csv").write_text("step,held_out_loss\n3,?\n")
    with pytest.raises(InputError, match=r"held_out\.csv: needs whole steps"):
        read_curve(tmp_path / "finetune.csv")


def test_what_training_took_is_told_by_stage(workspace: Path) -> None:
    """2 GPUs for 30 minutes, and a stage on a CPU for 6 of them."""
    assert "What training took is not recorded here." in words(report(workspace))
    stages = {name: {"cmd": "x", "outs": [name]} for name in ("index", "bases", "pretrain", "finetune")}
    (workspace / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for stage, minutes, tags, rates in (
        ("finetune", 30, {"ranks": "2", "device": "cuda"}, {"mfu": 0.411, "mfu_palm": 0.5}),
        ("bases", 6, {"ranks": "1", "device": "cpu"}, {"flops_per_second": 3.2e10}),
    ):
        values = {"step_seconds": 1.0, "tokens_per_second": 1234.0, **rates}
        events = [
            {"event": "start", "time": 0, "tags": tags, "id": "x", "pid": 1},
            {"event": "metric", "time": 5, "step": 1, "values": values},
            {"event": "end", "time": minutes * 60_000, "status": "FINISHED", "seconds": 1.0},
        ]
        file = workspace / f"runs/{stage}/{input_key(workspace, stage)[:16]}-001.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(event) + "\n" for event in events))
    text = words(report(workspace))
    assert "bases 0.1 process-hours 1 1,234 32 G" in text
    assert "finetune 1 GPU-hours 1 1,234 41.1% 50.0%" in text
    assert "1.00 GPU-hours and 0.10 process-hours in all. Not recorded here: index, pretrain." in text


def test_a_curve_with_gaps_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.csv"
    file.write_text("step,loss,learning_rate\n1,2.0,\n2,nan,0.1\n3,,0.1\n4,1.0,0.1\n")
    curve = read_curve(file)
    assert (curve.steps, curve.loss, curve.skipped) == ((1, 4), (2.0, 1.0), 2)
    assert "2 without a finite loss" in curve_chart(curve)
    file.write_text("step,loss\n1,high\n")
    with pytest.raises(InputError, match="line 2: needs a whole step"):
        read_curve(file)
    assert "No step has a finite loss" in curve_chart(Curve("x", (), (), ()))


def test_long_and_flat_curves_stay_small_and_finite() -> None:
    steps = tuple(range(20_000))
    drawn = curve_chart(Curve("x", steps, tuple(8 / (1 + s / 100) for s in steps), (0.1,) * len(steps)))
    assert len(drawn) < 20_000
    assert "log scale" in drawn
    for flat in (0.0, 2.0, -1.0):
        text = curve_chart(Curve("x", (1, 2), (flat, flat), (float("nan"),) * 2))
        assert "nan" not in text
        assert 'class="rate"' not in text
    assert 'class="raw"' in curve_chart(Curve("x", (5,), (1.0,), (0.1,)))


def test_samples_spread_over_kinds_and_media() -> None:
    answers = [
        Answer(f"{kind}{n}", kind, "q", "a", "b", False, 0.0, (n % 3,)) for kind in "xyz" for n in range(50)
    ]
    used: set[int | str] = set()
    found = pick(answers, 6, used)
    assert [a.kind for a in found] == list("xyzxyz")
    assert {m for a in found[:3] for m in a.media} == {0, 1, 2}
    assert pick(answers[::-1], 6, set()) == found
    assert len(pick(answers[:4], 6, set())) == 4


def test_pictures_that_cannot_be_read_or_cost_too_much_are_counted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = images(wrong=4)
    rows[0]["media"] = [99]
    write_rows(workspace / "evaluation", "easy_vqa", rows)
    text = words(report(workspace))
    assert "1 media have no picture; the first: data/index: no medium 99" in text
    monkeypatch.setattr("videollava.evaluate.report.PICTURES", 10_000)
    page = report(workspace)
    assert re.search(r"\d+ pictures are left out for the page", words(page))
    assert sum(map(len, re.findall(r"data:image[^\"]+", page))) <= 10_000


def test_media_named_by_path(workspace: Path) -> None:
    Image.new("RGB", (640, 480), "red").save(workspace / "shot.png")
    rows = images(wrong=1)
    rows[0]["media"] = ["shot.png"]
    write_rows(workspace / "evaluation", "easy_vqa", rows)
    assert 'width="192" height="144"' in report(workspace)


def test_elements_escape_text_and_take_markup() -> None:
    assert tag("p", "a<b", Markup("<i>c</i>"), class_="x", data_label='"') == (
        '<p class="x" data-label="&quot;">a&lt;b<i>c</i></p>'
    )
    assert tag("img", alt=None, width=3) == '<img width="3">'
    assert clip("a\n b  c", 4) == "a b…"
    assert "color-scheme" in document("t", "x")
