"""Judging over real HTTP: right averages whatever the replies, bounded calls, no call twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from judge_server import Act, serve

from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks.replies import Replies
from videollava.evaluate.judge import Cache, Limits, judge_answers, judge_asks, limits_of, open_judge, plan
from videollava.evaluate.judge_endpoint import Completion, Endpoint, LocalModel, Replay, Transient, key_from
from videollava.evaluate.judge_prompts import GRADE, MATCH, PAIR, Ask
from videollava.evaluate.score import score
from videollava.params import Judge as JudgeParams

QUICK = Limits(concurrency=4, retries=3, pause=0.001, longest_pause=0.01)
YES = "{'pred': 'yes', 'score': 4}"


def ask(key: str, prediction: str = "a dog") -> Ask:
    return Ask(key, MATCH, f"question {key}?", "dog", prediction)


def number(body: dict[str, Any]) -> int:
    found = re.search(r"question (\d+)\?", body["messages"][-1]["content"])
    assert found
    return int(found[1])


def test_every_kind_of_failure_ends_in_the_right_replies(tmp_path: Path) -> None:
    """0 fine, 1 prose then fine, 2 429, 3 500, 4 cut body, 5 no JSON, 6 slow, 7 never readable, 8 always
    500.
    """
    first = {
        1: Act("Sure! " + YES),
        2: Act(status=429, headers={"Retry-After": "0"}),
        3: Act(status=500),
        4: Act(YES, cut=True),
        5: Act(raw=b'{"choices": ['),
        6: Act(YES, hang=True),
    }

    def act(body: dict[str, Any], before: int) -> Act:
        n = number(body)
        if n == 7:
            return Act("I cannot judge this.")
        if n == 8:
            return Act(status=500)
        return first.get(n, Act(YES)) if before == 0 else Act(YES)

    cache = Cache(tmp_path / "verdicts.jsonl")
    asks = [ask(str(n)) for n in range(9)]
    with serve(act) as log:
        judged = judge_asks(asks, Endpoint(log.url, "fake", timeout=1.5), cache, QUICK)
    calls = {n: log.questions().count(asks[n].messages()[1]["content"]) for n in range(9)}
    assert calls == {0: 1, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 4, 8: 4}
    assert judged.calls == sum(calls.values())
    assert judged.replies["1"] == ["Sure! " + YES, YES]
    assert all(judged.replies[str(n)] == [YES] for n in (0, 2, 3, 4, 5, 6))
    assert (judged.invalid, judged.failed, judged.complete) == (["7"], ["8"], False)
    assert log.url in judged.problem
    temperatures = [body["temperature"] for body in log.bodies if number(body) == 7]
    assert temperatures == [0, 0.5, 1.0, 1.0]  # a greedy judge would say the same again

    with serve(lambda body, before: Act("{'pred': 'no', 'score': 0}")) as again:
        resumed = judge_asks(asks, Endpoint(again.url, "fake"), Cache(cache.path), QUICK)
    assert [number(body) for body in again.bodies] == [8]  # only what was never answered
    assert resumed.cached == 8
    assert resumed.complete


def test_replies_become_a_score_with_its_judge(tmp_path: Path) -> None:
    questions = [
        {"video_name": f"v{n}", "question_id": f"q{n}", "question": f"question {n}?"} for n in range(4)
    ]
    answers = [{"answer": "dog", "type": 0, "question_id": f"q{n}"} for n in range(4)]
    lines = [{"id": f"q{n}", "question": "?", "answer": "not the gold", "pred": f"p{n}"} for n in range(4)]
    paths = {name: tmp_path / name for name in ("q.json", "a.json", "merge.jsonl")}
    paths["q.json"].write_text(json.dumps(questions))
    paths["a.json"].write_text(json.dumps(answers[::-1]))
    paths["merge.jsonl"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    gold = [paths["a.json"], paths["q.json"]]
    asks = benchmarks.get("msvd").asks
    assert asks is not None
    wanted = asks(gold, paths["merge.jsonl"])
    assert [(a.id, a.answer, a.prediction) for a in wanted] == [(f"q{n}", "dog", f"p{n}") for n in range(4)]
    replies = [YES, "{'pred': 'no', 'score': '2'}", "{'pred': 'yes', 'score': '2.5'}", "no idea"]
    with serve(lambda body, before: Act(replies[number(body)])) as log:
        endpoint = Endpoint(log.url, "fake")
        few = Limits(concurrency=1, max_calls=1)
        with pytest.raises(InputError, match=r"1 answers judged and kept, the rest not: the cap of 1 calls"):
            judge_answers("msvd", gold, paths["merge.jsonl"], endpoint, tmp_path / "judged", few)
        file = judge_answers("msvd", gold, paths["merge.jsonl"], endpoint, tmp_path / "judged", QUICK)
    figures = score("msvd", gold, paths["merge.jsonl"], file)
    # yes and no count once each; "2.5" is no int: adds 0 and its vote is lost; the last is never readable.
    assert (figures["accuracy"], figures["score"], figures["n"]) == (50.0, (4 + 2) / 4, 4)
    assert (figures["yes"], figures["no"], figures["undecided"], figures["unscored"]) == (1, 1, 2, 2)
    assert figures["invalid"] == 1
    assert figures["judge"] == {"name": "fake", "version": "fake-0613", "prompt": MATCH.hash}


def test_the_cap_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "verdicts.jsonl")
    asks = [ask(str(n)) for n in range(10)]
    told: list[str] = []
    with serve(lambda body, before: Act(YES)) as log:
        endpoint = Endpoint(log.url, "fake")
        judged = judge_asks(asks, endpoint, cache, Limits(concurrency=2, max_calls=4), told.append)
        assert len(log.bodies) == judged.calls == 4
        assert judged.stopped
        assert not judged.complete
        assert len(judged.replies) == len(Cache(cache.path)) == 4
        assert "10 calls to make" in told[0]
        assert "stops at 4" in told[0]
        rest = judge_asks(asks, endpoint, Cache(cache.path), Limits(max_calls=6))
        assert len(log.bodies) == 10
    assert rest.complete
    assert (rest.cached, rest.calls) == (4, 6)


def test_equal_asks_are_put_once() -> None:
    asks = [Ask(f"v{n}", MATCH, "what?", "dog", "dog") for n in range(5)]
    with serve(lambda body, before: Act(YES)) as log:
        judged = judge_asks(asks, Endpoint(log.url, "fake"), None, QUICK)
    assert len(log.bodies) == 1
    assert set(judged.replies) == {f"v{n}" for n in range(5)}


def test_a_dead_server_ends_the_run_early() -> None:
    with serve(lambda body, before: Act(YES)) as log:
        url = log.url
    limits = Limits(concurrency=1, retries=1, pause=0.001, longest_pause=0.001)
    judged = judge_asks([ask(str(n)) for n in range(50)], Endpoint(url, "fake"), None, limits)
    assert judged.calls == 6  # three asks, two calls each
    assert judged.stopped
    assert url in judged.problem


def test_throttling_holds_back_every_thread() -> None:
    def act(body: dict[str, Any], before: int) -> Act:
        return Act(status=429, headers={"retry-after-ms": "30"}) if before == 0 else Act(YES)

    limits = Limits(concurrency=4, retries=2, pause=0.001, longest_pause=0.02)
    with serve(act) as log:
        judged = judge_asks([ask(str(n)) for n in range(6)], Endpoint(log.url, "fake"), None, limits)
    assert judged.complete
    assert judged.calls == len(log.bodies) == 12


def test_a_refusal_is_an_input_error_and_never_shows_the_key() -> None:
    secret = "sk-very-secret"
    with serve(lambda body, before: Act(status=401, raw=f"bad key {secret}".encode())) as log:
        endpoint = Endpoint(log.url, "fake", secret)
        with pytest.raises(InputError, match="VIDEOLLAVA_JUDGE_API_KEY") as caught:
            judge_asks([ask("1"), ask("2")], endpoint, None, QUICK)
    assert secret not in str(caught.value)
    assert secret not in repr(endpoint)
    assert log.keys[0] == f"Bearer {secret}"


def test_a_redirect_does_not_carry_the_key_away() -> None:
    with serve(lambda body, before: Act(YES)) as other:
        there = {"Location": other.url + "/chat/completions"}
        with serve(lambda body, before: Act(status=307, headers=there)) as log, pytest.raises(InputError):
            judge_asks([ask("1")], Endpoint(log.url, "fake", "sk-x"), None, QUICK)
    assert not other.bodies


def test_keys_come_from_the_environment() -> None:
    assert key_from({"OPENAI_API_KEY": "b"}) == "b"
    assert key_from({"OPENAI_API_KEY": "b", "VIDEOLLAVA_JUDGE_API_KEY": "a"}) == "a"
    assert key_from({}) == ""


def test_plan_counts_and_prices() -> None:
    asks = [ask(str(n)) for n in range(3)]
    estimate = plan(asks, Endpoint("http://x/v1", "fake"), None, Limits(price_in=1.0, price_out=2.0))
    assert (estimate.asks, estimate.cached, estimate.calls) == (3, 0, 3)
    assert estimate.tokens_out == 3 * MATCH.max_tokens
    assert estimate.cost == pytest.approx((estimate.tokens_in + 2 * estimate.tokens_out) / 1e6)
    assert "cost unknown" in str(plan(asks, Endpoint("http://x/v1", "fake"), None))


def test_runs_of_one_question_are_kept_apart(tmp_path: Path) -> None:
    asks = [Ask(key, GRADE, "q", "a", key, run) for run in range(2) for key in ("v1_0", "v1_1")]
    grades = iter(["0.5", "x", "0.7", "1.0", "0.0"])
    limits = Limits(concurrency=1, retries=2, pause=0)
    with serve(lambda body, before: Act(next(grades))) as log:
        judged = judge_asks(asks, Endpoint(log.url, "fake"), Cache(tmp_path / "c.jsonl"), limits)
    assert judged.replies == {"v1_0": [["0.5"], ["1.0"]], "v1_1": [["x", "0.7"], ["0.0"]]}
    again = judge_asks(
        asks, Replay(Replies(Path("r"), {"name": "fake", "version": "1"}, judged.replies)), None
    )
    assert again.replies == judged.replies


def test_prompts_are_judged_apart() -> None:
    with pytest.raises(InputError, match="several prompts"):
        judge_asks(
            [ask("1"), Ask("2", PAIR, "q", "a", "p", more={"context": "c"})], Endpoint("http://x", "m"), None
        )


def test_open_judge() -> None:
    assert open_judge(JudgeParams()) is None
    endpoint = open_judge(JudgeParams(kind="endpoint", base_url="http://x/v1", model="m"))
    assert isinstance(endpoint, Endpoint)
    assert endpoint.name == "m"
    assert open_judge(
        JudgeParams(kind="endpoint", base_url="http://x/v1", model="m", timeout=7.0)
    ) == Endpoint("http://x/v1", "m", key_from(), 7.0)
    assert limits_of(JudgeParams(concurrency=2, retries=1, max_calls=7)).max_calls == 7
    paced = JudgeParams(per_minute=30.0, price_in=0.5, price_out=1.5)
    assert limits_of(paced) == Limits(per_minute=30.0, price_in=0.5, price_out=1.5)
    with pytest.raises(InputError, match="base_url"):
        open_judge(JudgeParams(kind="endpoint", model="m"))
    with pytest.raises(InputError, match="judge-replies"):
        open_judge(JudgeParams(kind="replay"))


KILLED = """
from pathlib import Path
from videollava.evaluate.judge import Cache, Limits, judge_asks
from videollava.evaluate.judge_endpoint import Endpoint
from videollava.evaluate.judge_prompts import MATCH, Ask
asks = [Ask(str(n), MATCH, f"question {{n}}?", "dog", "a dog") for n in range(40)]
judge_asks(asks, Endpoint({url!r}, "fake"), Cache(Path({cache!r})), Limits(concurrency=2))
"""


def test_killed_in_the_middle_it_resumes_without_asking_again(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    started: list[subprocess.Popen[bytes]] = []
    asks = [ask(str(n)) for n in range(40)]

    def act(body: dict[str, Any], before: int) -> Act:
        if len(log.bodies) > 15 and started:
            os.kill(started.pop().pid, signal.SIGKILL)
        return Act(YES)

    with serve(act) as log:
        process = subprocess.Popen([sys.executable, "-c", KILLED.format(url=log.url, cache=str(path))])
        started.append(process)
        assert process.wait(120) == -signal.SIGKILL
    with path.open("ab") as file:
        file.write(b'{"key": "torn')  # as a kill in the middle of a write leaves it
    cache = Cache(path)
    kept = len(cache)
    assert 0 < kept < 40
    assert cache.torn == 1
    settled = {json.loads(line)["id"] for line in path.read_bytes().splitlines()[:-1]}
    with serve(lambda body, before: Act(YES)) as again:
        judged = judge_asks(asks, Endpoint(again.url, "fake"), cache, QUICK)
    assert judged.complete
    assert judged.replies == {str(n): [YES] for n in range(40)}
    assert (judged.cached, judged.calls) == (kept, 40 - kept)
    assert sorted(map(number, again.bodies)) == [n for n in range(40) if str(n) not in settled]
    assert len(Cache(path)) == 40


class Flaky:
    """A judge in the process, for what needs no HTTP."""

    name = "flaky"

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, ask: Ask, attempt: int) -> Completion:
        self.calls += 1
        if self.calls % 2:
            raise Transient("not now")
        return Completion(YES, "1")


def test_the_order_of_failures_does_not_change_the_result() -> None:
    judged = judge_asks([ask(str(n)) for n in range(20)], Flaky(), None, Limits(concurrency=1, pause=0))
    assert judged.complete
    assert judged.calls == 40


def test_a_local_model_judges(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: at for at, word in enumerate(["<unk>", "<s>", "</s>", "yes", "no", "{", "}"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", eos_token="</s>", bos_token="<s>"
    )
    fast.save_pretrained(tmp_path / "small")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path / "small")
    save_file(
        LlamaForCausalLM(config).state_dict(), tmp_path / "small" / "model.safetensors", {"format": "pt"}
    )
    judge = LocalModel(str(tmp_path / "small"))
    first, second = judge.complete(ask("1"), 0), judge.complete(ask("1"), 0)
    assert first == second
    assert judge.name == "small"
    assert len(first.version) == 16
    long = judge.complete(ask("1", "yes " * 600), 0)
    assert (long.text, long.final) == ("", True)
    assert "tokens for its 512 positions" in long.note
    judged = judge_asks([ask("1")], judge, None, Limits(retries=1))
    assert judged.calls == 2  # no dictionary comes of seven words
    assert judged.invalid == ["1"]


def test_a_benchmark_with_its_own_metric_takes_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gqa has its own metric"):
        judge_answers("gqa", [], tmp_path, Flaky(), tmp_path)


def test_several_runs_and_what_had_no_medium(tmp_path: Path) -> None:
    """MM-Vet's answers are graded three times each; a missing video is wrong without a call."""
    tasks = {
        f"v1_{n}": {"imagename": "a", "question": f"question {n}?", "answer": "x", "capability": ["ocr"]}
        for n in (1, 2)
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps(tasks))
    (tmp_path / "a.json").write_text(json.dumps({"1": "x", "v1_2": "y"}))
    with serve(lambda body, before: Act(f"0.{before + number(body)}")) as log:
        gold, answers = [tmp_path / "mm-vet.json"], tmp_path / "a.json"
        judge = Endpoint(log.url, "fake")
        replies = judge_answers("mm-vet", gold, answers, judge, tmp_path, Limits(concurrency=1), runs=3)
    assert len(log.bodies) == 6
    figures = score("mm-vet", gold, answers, replies)
    assert figures["runs"] == pytest.approx([15.0, 25.0, 35.0])
    asked = [{"video_name": "v", "question_id": f"k{n}", "question": f"question {n}?"} for n in range(3)]
    (tmp_path / "q.json").write_text(json.dumps(asked))
    (tmp_path / "g.json").write_text(json.dumps([{"question_id": f"k{n}", "answer": "x"} for n in range(3)]))
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"question_id": f"k{n}", "text": ""}) + "\n" for n in range(3))
    )
    gold, answers = [tmp_path / "q.json", tmp_path / "g.json"], tmp_path / "b.jsonl"
    with serve(lambda body, before: Act(YES)) as log:
        judge, kept = Endpoint(log.url, "fake"), tmp_path / "kept/verdicts.jsonl"
        unseen = {"k0", "k1"}
        replies = judge_answers("msvd", gold, answers, judge, tmp_path, QUICK, unseen=unseen, verdicts=kept)
    assert [number(body) for body in log.bodies] == [2]
    figures = score("msvd", gold, answers, replies)
    assert (figures["yes"], figures["no"], figures["n"]) == (1, 2, 3)
    assert figures["score"] == pytest.approx(4 / 3)
    assert len(kept.read_text().splitlines()) == 1
