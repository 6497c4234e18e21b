"""Long samples: the index counts what training uses, cut once and in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, lines, llava, mp4, params, png, tar
from made import prepare as run

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.batches import Layout, Packs
from videollava.data.load.packing import Lengths, plan_epoch
from videollava.data.prepare.tables import load_split
from videollava.data.records.record import Turn
from videollava.data.text.bounds import TooLongError, bound_of, check_bound, check_positions
from videollava.data.text.prompts import VIDEO_PLACEHOLDER, encode
from videollava.data.text.vocabulary import load_tokenizer
from videollava.errors import InputError
from videollava.params import Params, Pretrain, Train


def talk(name: str, *texts: str, **media: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": name, **media, "conversations": turns}


RECORDS = [
    talk("long", "hello", "word " * 9000),
    llava("short", image="1.png"),
    talk("long-picture", "<image>\nlook", "word " * 900, image="1.png"),
    talk("long-clip", "<video>\nlook", "first", "and then?", "word " * 900, video="1.mp4"),
    talk("late-medium", "word " * 900, "yes", "<image>\nand this?", "no", image="1.png"),
    talk("no-answer-left", "word " * 900, "yes"),
]


def prepared(workspace: Path, records: list[Any] = RECORDS, **changes: Any) -> Params:
    archive = tar(workspace / "from/media.tar", {"1.png": png(1), "1.mp4": mp4(1)})
    notes = lines(workspace / "from/notes.jsonl", records)
    chosen = params(archive_source(archive, notes), max_quarantined=0.5).replace(finetune=Train(**changes))
    fetch(chosen, workspace)
    run(chosen, workspace)
    return chosen


def rows(workspace: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in load_split(workspace / "data/index", "finetune").to_pylist()}


def test_the_index_counts_what_training_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = prepared(tmp_path, max_text_tokens=300, max_tokens=310)
    folder = tmp_path / "data/index"
    found = rows(tmp_path)
    assert list(found) == ["long", "short", "long-picture", "long-clip"]
    assert found["long"]["text_tokens"] == found["long"]["tokens"] == 300
    assert found["long-picture"]["text_tokens"] == 299  # one is the picture's; and 4 of it, below 310
    assert (found["long-clip"]["text_tokens"], found["long-clip"]["tokens"]) == (
        295,
        310,
    )  # 15 are the clip's
    assert found["short"]["text_tokens"] < 300

    tokenizer = load_tokenizer(folder / "tokenizer")
    table = load_split(folder, "finetune")
    tokens, targets = (table[name].to_numpy() for name in ("tokens", "target_tokens"))
    plan = plan_epoch(Lengths(tokens, targets, tokens), batch_size=2, ranks=1, budget=400, seed=0, epoch=0)
    layout = Layout.of(chosen.model, len(tokenizer), template="v1", bound=bound_of(chosen, "finetune"))
    packs = Packs(folder, "finetune", tokenizer, layout, plan)
    for number in range(len(packs)):
        batch, samples = packs[number], plan.pack(number)
        assert batch.dropped == []
        assert batch.lengths == tokens[samples].tolist()
        assert int((batch.labels != -100).sum()) == targets[samples].sum()

    reasons = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["record"], entry["reason"]) for entry in reasons] == [
        ("late-medium", "too long"),
        ("no-answer-left", "too long"),
    ]
    assert "a medium comes after" in reasons[0]["detail"]
    assert "raise finetune.max_text_tokens" in reasons[1]["detail"]
    said = json.loads((folder / "summary.json").read_text())["splits"]["finetune"]
    assert said["cut_records"] == 3
    assert said["cut_tokens"] > 9000
    assert "finetune: 3 of 4 samples are longer than training takes" in capsys.readouterr().out


def test_the_issues_own_numbers(tmp_path: Path) -> None:
    prepared(tmp_path, [talk("long", "hello", "word " * 9000), talk("short", "a", "b")])
    found = rows(tmp_path)
    assert found["long"]["text_tokens"] == 2048
    whole = encode_row(tmp_path, found["long"], None)
    cut = encode_row(tmp_path, found["long"], 2048)
    assert whole.text_tokens > 9000
    assert (
        found["long"]["target_tokens"]
        == cut.target_tokens
        == 2048 - (whole.text_tokens - whole.target_tokens)
    )
    tokens = load_split(tmp_path / "data/index", "finetune")["tokens"].to_numpy()
    plan_epoch(Lengths(tokens, tokens, tokens), batch_size=2, ranks=1, budget=8192, seed=0, epoch=0)


def encode_row(workspace: Path, row: dict[str, Any], limit: int | None) -> Any:
    turns = [Turn(role, text) for role, text in json.loads(row["conversations"])]
    tokenizer = load_tokenizer(workspace / "data/index/tokenizer")
    return encode(turns, [], tokenizer, max_text_tokens=limit)


def test_media_count_in_the_text_as_the_originals_placeholders(tmp_path: Path) -> None:
    """Its collator cuts ids that hold one placeholder for a picture and one for each frame of a video."""
    chosen = prepared(tmp_path, max_text_tokens=300)
    found, frames = rows(tmp_path), chosen.model.frames
    for name, kinds in (("long-picture", ["image"]), ("long-clip", ["video"]), ("long", [])):
        turns = [Turn(role, text) for role, text in json.loads(found[name]["conversations"])]
        whole = encode(turns, kinds, load_tokenizer(tmp_path / "data/index/tokenizer"))
        ids = [[token] * (frames if token == VIDEO_PLACEHOLDER else 1) for token in whole.input_ids]
        kept = [token for group in ids for token in group][:300]
        assert found[name]["text_tokens"] == sum(token >= 0 for token in kept) < whole.text_tokens


def test_each_stage_has_its_own_bound_and_positions_bound_both() -> None:
    chosen = params().replace(
        pretrain=Pretrain(max_text_tokens=100), finetune=Train(max_text_tokens=60, max_tokens=90)
    )
    pretrain, finetune = bound_of(chosen, "pretrain"), bound_of(chosen, "finetune")
    assert pretrain is not None
    assert finetune is not None
    assert pretrain.text_limit(["image"]) == (99, "pretrain.max_text_tokens")
    assert finetune.text_limit(["image"]) == (59, "finetune.max_text_tokens")
    assert finetune.text_limit(["video", "image"]) == (56, "finetune.max_text_tokens")
    assert finetune.text_limit(["video", "video", "video"]) == (45, "finetune.max_tokens")
    assert bound_of(chosen, "align") is None
    assert bound_of(chosen, "test-any") is None
    language = chosen.model.language.replace(positions=40)
    short = bound_of(chosen.replace(model=chosen.model.replace(language=language)), "finetune")
    assert short is not None
    assert short.text_limit(["video"]) == (25, "model.language.positions")
    with pytest.raises(
        TooLongError, match=r"r1: its 3 media take 45 tokens and model\.language\.positions is 40"
    ):
        short.text_limit(["video"] * 3, "r1")


def test_an_index_of_other_parameters_is_refused(tmp_path: Path) -> None:
    chosen = prepared(tmp_path)
    table = load_split(tmp_path / "data/index", "finetune")
    check_bound(table, bound_of(chosen, "finetune"))
    with pytest.raises(InputError, match=r"max_text_tokens 2048, now 64\): run `videollava index` again"):
        check_bound(table, bound_of(chosen.replace(finetune=Train(max_text_tokens=64)), "finetune"))
    with pytest.raises(InputError, match="video_tokens 15, now 25"):
        check_bound(table, bound_of(chosen.replace(model=chosen.model.replace(frames=5)), "finetune"))
    with pytest.raises(InputError, match=r"set model\.language\.positions: 1024"):
        check_positions(2048, 1024, "finetune")
    check_positions(2048, 2048, "finetune")
