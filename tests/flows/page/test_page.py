"""The page of a retraining: what it says under way, refused, failed, promoted, and with nothing to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.history.made import MadeStage
from flows.page.addresses import HOSTED
from flows.page.steps import next_steps
from flows.page.text import as_markdown, headline, spent_text
from flows.page.told import Failure, Links, Step, Told
from flows.stages.stage import StageResult
from videollava.gate import Decision
from videollava.gate.benchmark import Row

ROW = Row(
    "easy_vqa",
    71.5,
    40.0,
    73.0,
    -1.5,
    "refused",
    "no_worse",
    1.0,
    -2.75,
    low=-3.1,
    high=0.125,
    n=4000,
    media=900,
)
REFUSED = Decision(
    False,
    ("easy_vqa: -1.50 against the champion, at most -1.00 allowed",),
    (ROW,),
    ("a note | of <the> gate",),
    {"level": 0.05},
    candidate=4,
    champion=3,
)
GPU = MadeStage(
    key="k",
    hours=1.5,
    host="node7",
    device="cuda",
    ranks=8,
    pool="gpu",
    worker="w-1",
    price=2.5,
    currency="EUR",
)
CPU = MadeStage(key="k", hours=0.25, host="box", device="cpu", ranks=1)
STEPS = (
    Step("fetch@clips", result=StageResult("fetch@clips", "unchanged", 0.4), made=CPU),
    Step("index", ("data data/shards/clips changed",), StageResult("index", "ran", 30.0), CPU),
    Step("align", (), StageResult("align", "restored", 4.0), GPU),
    Step(
        "finetune",
        tuple(f"finetune.epochs: {n} -> {n + 1}" for n in range(6)),
        StageResult("finetune", "ran", 700.0, "no route"),
        GPU,
    ),
)
DONE = Told(
    model="videollava",
    who="Ada <ada@lab>",
    began=1_790_000_000.0,
    ended=1_790_007_200.0,
    profile="paper-7b",
    changes=("finetune.epochs=6",),
    commit="a" * 40,
    subject="More clips",
    pool="team",
    host="login1",
    steps=STEPS,
    saved="b" * 40,
    ref="refs/exps/aa/retrained-1",
    run="run1",
    version=4,
    decision=REFUSED,
    links=Links(
        run="http://ml/#/experiments/1/runs/run1", version="http://ml/#/models/videollava/versions/4"
    ),
)


def test_a_refused_retraining_answers_a_lead_in_one_place() -> None:
    page = as_markdown(DONE)
    assert page.startswith("# videollava 4: refused by the gate\n")
    for line in (
        "**Who** Ada &lt;ada@lab>  ",
        "**When** 2026-09-21 14:13 UTC, 2.0 h  ",
        f"**Code** `{'a' * 12}` More clips  ",
        "**Asked** profile paper-7b, finetune.epochs=6  ",
        "**Where** login1, pool team  ",
        "**Spent** 1.50 GPU-hours and 0.250 process-hours: 3.75 EUR",
        "## Scores against champion 3",
        "| easy_vqa | 71.50 | 40.00 | 73.00 | -1.50 | -3.10 to +0.12 | -2.75 | -1.00 | 4,000 | refused |",
        "- a note | of &lt;the> gate",
        "- the gate: easy_vqa: -1.50 against the champion, at most -1.00 allowed",
        "| index | ran | data data/shards/clips changed | box, 1 x cpu | 30 s | 0.250 |  |",
        "| align | restored | what these inputs give was made before |  | 4 s |  |  |",
        "Unchanged, so not run: fetch@clips.",
        "- version: [models:/videollava/4](http://ml/#/models/videollava/versions/4)",
        "- MLflow run: [run1](http://ml/#/experiments/1/runs/run1)",
        f"- saved as commit `{'b' * 12}`, `refs/exps/aa/retrained-1`: `videollava lineage 4` tells it all",
    ):
        assert line in page.split("\n"), line
    (finetune,) = [line for line in page.split("\n") if line.startswith("| finetune")]
    assert "ran; **not on the DVC remote**" in finetune
    assert "finetune.epochs: 3 -> 4; and 2 more" in finetune
    assert "pool gpu, worker w-1, node7, 8 x GPU | 12 min | 1.50 | 3.75 EUR |" in finetune


def test_the_headline_says_what_came_out() -> None:
    passed = replace(REFUSED, passed=True, reasons=())
    assert headline(replace(DONE, ended=0.0, decision=None, version=0)) == "videollava: retraining"
    waiting = replace(DONE, ended=0.0, decision=None, version=0, steps=(*STEPS, Step("evaluate")))
    assert headline(waiting) == "videollava: retraining, at evaluate"
    assert headline(replace(DONE, decision=passed)) == "videollava 4: passed the gate, not promoted"
    assert headline(replace(DONE, decision=passed, moved=True)).endswith("is champion")
    assert headline(replace(DONE, decision=passed, asked=True)).endswith(
        "waits for another person's approval"
    )
    same = replace(passed, champion=4)
    nothing = replace(DONE, decision=same, new=False)
    assert headline(nothing) == "videollava 4: nothing to retrain; registered before, the champion already"
    assert "## Scores\n" in as_markdown(nothing)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (replace(DONE, ended=0.0), []),
        (DONE, ["the gate:", "diff 3 4", "promote 4` judges", "--force --because"]),
        (
            replace(DONE, decision=replace(REFUSED, unanswered=("mme", "gqa"))),
            [
                "the gate:",
                "--model models:/videollava/3 --benchmarks mme,gqa --keep",
                "diff 3 4",
                "judges",
                "--force",
            ],
        ),
        (
            replace(DONE, decision=replace(REFUSED, passed=True), promote=False),
            ["`videollava promote 4` makes it"],
        ),
        (
            replace(DONE, decision=replace(REFUSED, passed=True), moved=True),
            ["makes version 3 champion again"],
        ),
        (replace(DONE, decision=replace(REFUSED, passed=True, champion=0), moved=True), []),
        (replace(DONE, decision=REFUSED, asked=True), ["another person agrees with `videollava promote 4`"]),
        (
            replace(
                DONE, decision=None, version=0, failure=Failure("align", "stage align failed", again=True)
            ),
            [
                "trigger it once more",
                "mend what the last lines say",
                "nothing is lost: index, finetune need not",
            ],
        ),
        (
            replace(DONE, version=0, decision=None, failure=Failure("finetune", "ended", (), True, "Budget")),
            ["with a higher one, and it goes on", "nothing is lost"],
        ),
        (
            replace(DONE, version=0, failure=Failure("", "params.yaml: no")),
            ["the same trigger would", "nothing is"],
        ),
    ],
)
def test_what_to_do_next(told: Told, wanted: list[str]) -> None:
    steps = next_steps(told)
    assert len(steps) == len(wanted), steps
    for step, words in zip(steps, wanted, strict=True):
        assert words in step


def test_a_failed_stage_is_shown_with_its_last_words() -> None:
    steps = (*STEPS[:2], Step("align", ("code x.py changed",)))
    failure = Failure("align", "stage align failed (exit status 1)", ("Traceback", "OSError: ```<no>"), True)
    page = as_markdown(replace(DONE, steps=steps, version=0, saved="", decision=None, failure=failure))
    assert page.startswith("# videollava: failed in align\n")
    assert "**stage align failed (exit status 1)**\n\n```\nTraceback\nOSError: '''<no>\n```\n" in page
    assert "| align | **failed** | code x.py changed |  |  |  |  |" in page
    assert "## Scores" not in page


def test_a_stage_that_is_elsewhere_leads_to_its_own_page() -> None:
    sent = Step("finetune", ("after pretrain",), page="http://p/runs/flow-run/1")
    page = as_markdown(replace(DONE, ended=0.0, decision=None, version=0, steps=(*STEPS[:3], sent)))
    assert "| [finetune](http://p/runs/flow-run/1) | sent | after pretrain |  |  |  |  |" in page
    assert page.startswith("# videollava: retraining, at finetune\n")


def test_what_was_spent() -> None:
    assert spent_text(STEPS[:1]) == ("", "")
    assert spent_text(STEPS[:2]) == ("0.250 process-hours", "")
    other = replace(STEPS[3], made=GPU.model_copy(update={"currency": "USD", "hours": 1200.0}))
    assert spent_text((*STEPS, other)) == (
        "1,201.50 GPU-hours and 0.250 process-hours",
        "3.75 EUR and 3,000.00 USD",
    )


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("https://user:key@github.com/org/name.git", "github.com org/name"),
        ("git@gitlab.corp.com:group/sub/name.git", "gitlab.corp.com group/sub/name"),
        ("ssh://git@host.org:2222/org/name", "host.org org/name"),
        ("/srv/git/name.git", None),
        ("file:///srv/git/name.git", None),
    ],
)
def test_a_commit_has_a_page_where_git_is_hosted(address: str, page: str | None) -> None:
    found = HOSTED.fullmatch(address)
    assert (f"{found['host']} {found['path']}" if found else None) == page
