"""The tolerant reader of a judge's replies; runs that stop where replies cannot be read, and go on for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import Act, serve

from videollava.cli import main
from videollava.errors import InputError
from videollava.evaluate.judge import Cache, Limits, judge_answers, judge_asks, open_judge
from videollava.evaluate.judge_endpoint import Endpoint
from videollava.evaluate.judge_prompts import CORRECTNESS, GRADE, MATCH, PAIR, Ask, Prompt
from videollava.evaluate.score import score
from videollava.params import Judge as JudgeParams

YES = "{'pred': 'yes', 'score': 4}"
FENCED = f"```python\n{YES}\n```"
QUICK = Limits(concurrency=2, retries=2, pause=0.001, longest_pause=0.01)
TOLERANT = Limits(concurrency=2, retries=2, pause=0.001, longest_pause=0.01, reader="tolerant")


@pytest.mark.parametrize(
    "reply",
    [
        YES,
        FENCED,
        '```json\n{"pred": "yes", "score": 4}\n```',
        f"<think>They differ: {{'pred': 'no', 'score': 1}}?</think>\n{YES}",
        f"They match, I think.</think>{YES}",
        f"Sure! Here is the verdict: {YES}",
        f"{YES}. Good match.",
        f"\n  {YES}",
        f"{YES}\n{YES}",
        "{'pred': 'yes', 'score': 4, }}",
        "{'pred': 'yes', 'score': 4",
        "{pred: yes, score: 4}",
        "{'pred': 'yes', 'score': '4/5'}",
        "{'pred': 'yes', 'score': 'four'}",
        '{"pred": true, "score": 4.0}',
        '{"pred": "yes" "score": 4}',
        '{"result": {"pred": "yes", "score": 4}}',
        '[{"pred": "yes", "score": 4}]',
        '"{\\"pred\\": \\"yes\\", \\"score\\": 4}"',
        "{\u201cpred\u201d: \u201cyes\u201d, \u201cscore\u201d: 4}",
        'Here: {"pred": "yes", "score": 4, "reason": "it says {x}"} as asked.',
        "{'Prediction': 'Yes, they match', 'Score': '4 out of 5'}",
        "pred: yes, score: 4",
        "**Prediction:** Yes\n**Score:** 4/5",
        "Yes, 4",
        "Yes, the answers mean the same. Score: 4 out of 5",
    ],
)
def test_verdicts_in_every_dress(reply: str) -> None:
    read = MATCH.read(reply, "tolerant")
    assert read is not None
    assert MATCH.whole(read)
    assert MATCH.read(read) == read  # the official parser takes it
    value = __import__("ast").literal_eval(read)
    assert ({k.lower(): v for k, v in value.items()}["pred"].lower(), int(value["score"])) == ("yes", 4)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot judge this.",
        "4",  # no yes, no no
        "yes",
        f"<think>{YES}",  # cut before it answered
        f"{YES} or {{'pred': 'no', 'score': 1}}",
        "{'pred': 'yes', 'score': '8/10'}",
        "pred: yes, score: 8/10",
        "pred: yes, then pred: no. score: 4",
        "{'pred': 'maybe', 'score': 3}",
        "{'pred': 'yes', 'score': None}",
        "{'pred': 'yes', 'score': 1e400}",
        "pred: yes, score: 3-4",
        "pred: yes, score: 3 or 4",
        "pred: yes, score: 4%",
        "pred: yes, score: 4 of 10",
    ],
)
def test_what_stays_unread(reply: str) -> None:
    assert MATCH.read(reply, "tolerant") is None


@pytest.mark.parametrize(
    ("prompt", "reply", "read"),
    [
        (CORRECTNESS, "4", "{'score': 4}"),
        (CORRECTNESS, "4/5", "{'score': 4}"),
        (CORRECTNESS, "Score: 4.0", "{'score': 4}"),
        (CORRECTNESS, "{'correctness': 4}", "{'score': 4}"),
        (CORRECTNESS, "```\n{'score': 'four'}\n```", "{'score': 4}"),
        (CORRECTNESS, "The score is 4.", "{'score': 4}"),
        (CORRECTNESS, "4 or 5", None),
        (CORRECTNESS, "score 9", None),
        (GRADE, "**0.5**", "0.5"),
        (GRADE, "Grade: 0.5", "0.5"),
        (GRADE, "The grade is 0.5.", "0.5"),
        (GRADE, "0.5\n\nBecause of 2 legs", "0.5"),
        (GRADE, "It has 4 legs.\n0.5", "0.5"),
        (GRADE, "0.5/1.0", "0.5"),
        (GRADE, "0,5", "0.5"),
        (GRADE, '{"grade": 0.5}', "0.5"),
        (GRADE, "what? | 4 | 0.5", "0.5"),
        (GRADE, "<think>0.9</think>0.5", "0.5"),
        (GRADE, "0.5\n0.7", None),
        (GRADE, "5/10", None),
        (GRADE, "50%", None),
        (GRADE, "2", None),
        (GRADE, "-0.1", None),
        (GRADE, "about 1e-1", None),
        (GRADE, "0.5-0.6", None),
        (PAIR, "8, 9", "8 9"),
        (PAIR, "8/10 9/10", "8 9"),
        (PAIR, "Scores: 8 9", "8 9"),
        (PAIR, "[8, 9]", "8 9"),
        (PAIR, "Here are my ratings:\n8 9\nbecause", "8 9"),
        (PAIR, "Assistant 1: 8\nAssistant 2: 9", "8 9"),
        (PAIR, "Assistant 1 gets 8, Assistant 2 gets 9.5", "8 9.5"),
        (PAIR, '{"assistant_1": 8, "assistant_2": 9}', "8 9"),
        (PAIR, "I would give 8.", None),
        (PAIR, "80, 90", None),
        (PAIR, "Score 1: 8\nScore 2: 9", "8 9"),
        (PAIR, "8\n9", "8 9"),
        (PAIR, "8\n9\n7", None),
    ],
)
def test_other_forms(prompt: Prompt, reply: str, read: str | None) -> None:
    assert prompt.read(reply, "tolerant") == read


def asks(count: int) -> list[Ask]:
    return [Ask(f"k{n}", MATCH, f"question {n}?", "dog", "a dog") for n in range(count)]


def test_unreadable_replies_stop_a_run_early_and_going_on_buys_nothing(tmp_path: Path) -> None:
    many = asks(300)
    path = tmp_path / "v.jsonl"
    with serve(lambda *_: Act(FENCED)) as log:
        judge = Endpoint(log.url, "fake")
        judged = judge_asks(many, judge, Cache(path), QUICK)
        assert not judged.complete
        assert "reader=tolerant reads 10 of them" in judged.problem
        assert "```python" in judged.problem
        bought = len(log.bodies)
        assert bought < 40  # not 900
        again = judge_asks(many, judge, Cache(path), QUICK)
        assert (again.complete, len(log.bodies)) == (False, bought)
        # Read otherwise, what was bought counts; only the rest is asked.
        done = judge_asks(many, judge, Cache(path), TOLERANT)
        assert done.complete
        assert not done.invalid
        assert done.reader == "tolerant"
        assert done.replies["k0"] == [FENCED] * 3  # as they came
        assert len(log.bodies) <= bought + 290
        assert judge_asks(many, judge, Cache(path), TOLERANT).calls == 0
        # Back again: replies that only the other reader takes are asked for until the bound, and no further.
        back = judge_asks(many[:11], judge, Cache(path), QUICK)
        assert not back.complete
        assert all(len(replies) == 3 for replies in back.replies.values())


def test_a_few_unread_are_allowed_and_more_stop_at_the_end() -> None:
    def act(body: dict[str, Any], _: int) -> Act:
        number = int(body["messages"][-1]["content"].split("question ")[1].split("?")[0])
        return Act("no idea" if number < bad else YES)

    for bad, share, complete in (
        (1, 0.05, True),
        (2, 0.05, True),
        (3, 0.05, False),
        (3, 0.1, True),
        (1, 0.0, False),
    ):
        with serve(act) as log:
            limits = Limits(concurrency=1, retries=0, max_unread=share)
            judged = judge_asks(asks(40), Endpoint(log.url, "fake"), None, limits)
        assert judged.complete == complete, (bad, share)
        assert bool(judged.problem) != complete


def test_replies_of_an_ask_that_a_cap_or_an_outage_ended_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "v.jsonl"
    with serve(lambda _, before: Act("Hm.") if before < 1 else Act(YES)) as log:
        judge = Endpoint(log.url, "fake")
        first = judge_asks(asks(1), judge, Cache(cache), Limits(concurrency=1, max_calls=1))
        assert (first.complete, first.replies) == (False, {})
        second = judge_asks(asks(1), judge, Cache(cache), Limits(concurrency=1))
    assert second.replies == {"k0": ["Hm.", YES]}
    assert second.calls == 1


def test_a_reply_cut_at_its_limit_is_not_bought_again_at_the_same(tmp_path: Path) -> None:
    def act(body: dict[str, Any], _: int) -> Act:
        if body["max_tokens"] > 1000:
            return Act("<think>long</think>" + YES)
        cut = {"message": {"content": "<think>long"}, "finish_reason": "length"}
        return Act(raw=json.dumps({"choices": [cut]}).encode())

    cache = tmp_path / "v.jsonl"
    with serve(act) as log:
        judged = judge_asks(asks(1), Endpoint(log.url, "fake"), Cache(cache), TOLERANT)
        assert judged.calls == len(log.bodies) == 1
        assert "raise evaluate.judge.max_tokens (now 64)" in judged.problem
        roomy = Limits(concurrency=1, reader="tolerant", max_tokens=2000)
        more = judge_asks(asks(1), Endpoint(log.url, "fake", max_tokens=2000), Cache(cache), roomy)
    assert more.complete
    assert more.replies == {"k0": ["<think>long", "<think>long</think>" + YES]}


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], Path]:
    """Gold and answers of three questions of MSVD."""
    asked = [{"video_name": "v", "question_id": f"q{n}", "question": f"question {n}?"} for n in range(3)]
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "a.json").write_text(
        json.dumps([{"question_id": f"q{n}", "answer": "dog", "type": 1} for n in range(3)])
    )
    (tmp_path / "said.json").write_text(json.dumps({f"q{n}": "a dog" for n in range(3)}))
    return [tmp_path / "q.json", tmp_path / "a.json"], tmp_path / "said.json"


def test_the_reader_is_named_in_the_score_and_what_the_official_one_loses_is_counted(
    files: tuple[list[Path], Path], tmp_path: Path
) -> None:
    gold, answers = files
    with serve(lambda *_: Act(FENCED)) as log:
        judge = Endpoint(log.url, "fake")
        with pytest.raises(
            InputError, match=r"msvd: .*official reader reads, such as 'q\d': .*none is bought again"
        ):
            judge_answers("msvd", gold, answers, judge, tmp_path / "j", QUICK)
        with pytest.raises(InputError, match="max_unread"):
            judge_answers("msvd", gold, answers, judge, tmp_path / "j", QUICK)
        bought = len(log.bodies)
        loose = Limits(retries=2, max_unread=1.0, concurrency=1)
        official = score(
            "msvd", gold, answers, judge_answers("msvd", gold, answers, judge, tmp_path / "j", loose)
        )
        tolerant = judge_answers("msvd", gold, answers, judge, tmp_path / "j", TOLERANT)
        assert len(log.bodies) <= bought + 3
    assert (official["invalid"], official["lost_to_form"], official["accuracy"]) == (3, 3, None)
    assert "reader" not in official["judge"]
    figures = score("msvd", gold, answers, tolerant)
    assert (figures["invalid"], figures["lost_to_form"], figures["accuracy"], figures["score"]) == (
        0,
        0,
        100.0,
        4.0,
    )
    assert figures["judge"]["reader"] == "tolerant"
    kept = json.loads(tolerant.read_text())
    assert all(reply == FENCED for replies in kept["replies"].values() for reply in replies)
    kept["judge"]["reader"] = "lenient"
    tolerant.write_text(json.dumps(kept))
    with pytest.raises(InputError, match="reader is 'lenient'; it may be: official, tolerant"):
        score("msvd", gold, answers, tolerant)


def test_recorded_replies_are_read_by_it_too(files: tuple[list[Path], Path], tmp_path: Path) -> None:
    """Through the judge of kind replay; another record of a judge without a name is another one."""
    gold, answers = files
    for verdict, accuracy in (("yes", 100.0), ("no", 0.0)):
        recorded = {f"q{n}": [f"```\n{{'pred': '{verdict}', 'score': 4}}\n```"] for n in range(3)}
        (tmp_path / "r.json").write_text(json.dumps(recorded))
        judge = open_judge(JudgeParams(kind="replay", replies=str(tmp_path / "r.json")))
        assert judge is not None
        replies = judge_answers("msvd", gold, answers, judge, tmp_path / "j", TOLERANT)
        figures = score("msvd", gold, answers, replies)
        assert (figures["accuracy"], figures["judge"]["reader"]) == (accuracy, "tolerant")


def test_by_the_command_line(
    files: tuple[list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("profile: tiny\n")
    common = ["judge", "msvd", "--gold", "q.json", "a.json", "--answers", "said.json", "--out", "judged"]
    with serve(lambda *_: Act("Verdict: " + YES)) as log:
        judge = f"evaluate.judge={{kind: endpoint, base_url: '{log.url}', model: fake, retries: 1"
        assert main([*common, "--set", judge + "}"]) == 2
        told = capsys.readouterr().err
        assert "reader=tolerant reads" in told
        bought = len(log.bodies)
        assert main([*common, "--set", judge + ", reader: tolerant}"]) == 0
        assert len(log.bodies) <= max(3, bought + 1)
    assert main(["score", "msvd", *common[2:7], "--judge-replies", "judged/msvd.replies.json", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{\n") :])["judge"]["reader"] == "tolerant"
