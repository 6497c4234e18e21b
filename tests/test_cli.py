"""The command line: what a person types, what comes back, what a mistake looks like."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from videollava import cli
from videollava.params import load_params


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_names_every_stage_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in cli.COMMANDS)


def test_profile_lists_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "profile", "tiny")[0] == 0
    assert load_params("params.yaml").profile == "tiny"
    _, listed, _ = run(capsys, "profile")
    assert any(line.startswith("* tiny") for line in listed.splitlines())
    status, _, error = run(capsys, "profile", "tinny")
    assert status == 2
    assert "did you mean 'tiny'" in error


def test_a_profile_is_not_written_over_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    edited = "profile: tiny\nseed: 7\n"
    Path("params.yaml").write_text(edited)
    status, _, error = run(capsys, "profile", "tiny")
    assert (status, Path("params.yaml").read_text()) == (2, edited)
    assert "holds edits that profile tiny would overwrite" in error
    assert run(capsys, "profile", "tiny", "--force")[0] == 0
    assert run(capsys, "profile", "paper-7b")[0] == 0  # what is there is a preset's own text


def test_a_mistake_is_one_line_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = run(capsys, "finetune")
    assert (status, out) == (2, "")
    assert error.splitlines() == [
        "videollava finetune: params.yaml: not found; write one with `videollava profile tiny`"
    ]


def test_score_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = [("1", "red", "Red."), ("2", "blue", "green")]
    lines = [{"question_id": i, "kind": "color", "answer": a, "prediction": p} for i, a, p in rows]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, _ = run(capsys, "score", "easy_vqa", "--answers", str(answers), "--json")
    assert status == 0
    assert json.loads(out)["accuracy"] == 50.0


def gqa(folder: Path, name: str, key: str) -> str:
    """A gold file of one question."""
    question = {
        "question": "is it?",
        "answer": "yes",
        "imageId": "1",
        "isBalanced": True,
        "semantic": [],
        "types": {"structural": "verify", "semantic": "obj"},
        "groups": {"global": None},
    }
    (folder / name).write_text(json.dumps({key: question}))
    return str(folder / name)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two gold files and answers to both of them."""
    answers = [{"questionId": "a", "prediction": "yes"}, {"questionId": "b", "prediction": "no"}]
    (tmp_path / "said.json").write_text(json.dumps(answers))
    return [
        gqa(tmp_path, "one.json", "a"),
        gqa(tmp_path, "two.json", "b"),
        "--answers",
        str(tmp_path / "said.json"),
    ]


def test_gold_given_twice_is_all_used(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    one, two, *answers = files
    for gold in (["--gold", one, "--gold", two], ["--gold", one, two], ["--gold", two, "--gold", one]):
        status, out, error = run(capsys, "score", "gqa", *gold, *answers, "--json")
        assert (status, error) == (0, "")
        figures = json.loads(out)
        assert (figures["n"], figures["accuracy"], figures["missing"]) == (2, 50.0, 0)


def test_gold_that_contradicts_itself_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, *answers = files
    other = tmp_path / "other.json"
    other.write_text(Path(one).read_text().replace('"yes"', '"no"'))
    status, _, error = run(capsys, "score", "gqa", "--gold", one, "--gold", str(other), *answers)
    assert status == 2
    assert f"{one} and {other} have 'a' with different contents" in error
    other.write_text(Path(one).read_text())  # the same twice, and a file beside its folder, are that file
    for gold in ([one, str(other)], [one, one], [str(tmp_path), two]):
        status, out, error = run(capsys, "score", "gqa", "--gold", *gold, *answers, "--json")
        assert (status, error) == (0, "")
        assert json.loads(out)["accuracy"] in (50.0, 100.0)


def test_gold_in_parts_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SEED-Bench in two files: the second counts as the first does."""
    for name, number, letter in (("a", 1, "A"), ("b", 2, "B")):
        row = {"question_id": number, "answer": letter, "question_type_id": 1}
        row |= {f"choice_{option}": option for option in "abcd"}
        whole = {"question_type": {"Scene": 1}, "questions": [row]}
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
    (tmp_path / "said.jsonl").write_text(
        '{"question_id": 1, "prediction": "A"}\n{"question_id": 2, "prediction": "A"}\n'
    )
    gold = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    _, out, _ = run(
        capsys, "score", "seed", "--gold", *gold, "--answers", str(tmp_path / "said.jsonl"), "--json"
    )
    assert (json.loads(out)["n"], json.loads(out)["accuracy"]) == (2, 50.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'[{"questionId": "a"}]'.decode().encode("utf-16"), "save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "unpack it if it is an archive"),
    ],
)
def test_files_that_are_no_answers(
    content: bytes, says: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.json").write_bytes(content)
    status, _, error = run(capsys, "score", "gqa", "--gold", *files)
    assert (status, len(error.splitlines())) == (2, 1)
    assert says in error


def test_gold_of_another_benchmark_is_told(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _, *answers = files
    (tmp_path / "other.json").write_text('[{"question_id": "a", "answer": "x"}]')
    status, out, error = run(
        capsys, "score", "gqa", "--gold", one, "--gold", str(tmp_path / "other.json"), *answers
    )
    assert status == 0
    assert "other.json: nothing in it is gold of gqa; not used" in error
    assert "accuracy: 100.00" in out


def test_scores_of_single_questions_are_shown_without_json_too(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "score", "gqa", "--gold", *files[:2], *files[2:], "--per-question")
    assert "per_question:\n  a: 100.00\n  b: 0.00" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "gqa", "--answers", "a", "--answers", "b"], "--answers: given twice"),
        (["evaluate", "--model", "a", "--model", "b"], "--model: given twice"),
        (["evaluate", "--params", "a", "--params=b"], "--params: given twice"),
        (["evaluate", "--benchmarks", "gqa", "--benchmarks", "pope"], "--benchmarks: given twice"),
        (["plan", "--gpus", "1", "--gpus", "1"], "--gpus: given twice"),
        (["score", "gqa", "--gol", "a"], "unrecognized arguments: --gol a"),
        (["evaluate", "--mod", "a"], "unrecognized arguments: --mod a"),
        (["score", "gqa", "--gold", ""], "an argument is empty, the one after --gold"),
        (["ask", "what?", "--model="], "--model is empty"),
        (["ask", "  "], "an argument is empty, the one after ask"),
        (["promote", "3", "4"], "unrecognized arguments: 4"),
        (["models", "--params", "x.yaml"], "unrecognized arguments: --params"),
    ],
)
def test_what_argparse_would_drop_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "--champion", "evaluation"], "--champion: only with --model"),
        (["evaluate", "--out", "x"], "--out: only with --model"),
        (["evaluate", "--model", "m", "--champion", "nowhere"], "nowhere/predictions: no predictions"),
        (["evaluate", "--benchmarks", "gqa,gqa"], "evaluate.benchmarks names gqa twice"),
        (["evaluate", "--benchmarks", "gqa", "--set", "evaluate.benchmarks=[pope]"], "is set already"),
        (["evaluate", "--set", "evaluate.limit=1", "--set", "evaluate.limit=2"], "is set already"),
        (["score", "gqa", "--answers", "params.yaml", "--judge-replies", "params.yaml"], "its own metric"),
        (["params", "--schema", "--set", "seed=1"], "leave --set and --params out"),
        (["params", "--schema", "--params", "params.yaml"], "leave --set and --params out"),
        (["plan", "--samples", "pretrain=1,1,1", "--samples", "pretrain=2,2,2"], "given twice"),
        (["plan", "--samples", "pretrain=0,0,0"], "pretrain needs at least one sample"),
        (["plan", "--samples", "pretrain=99999999999999999999,0,0"], "at most 1,000,000,000,000"),
        (["plan", "--gpus", "0"], "--gpus 0: at least 1"),
        (["plan", "--gpus", "999999999999999999999999"], "at most 1,000,000"),
        (["plan", "--mfu", "nan"], "--mfu nan: a share of the peak"),
        (["plan", "--gpu", "K80"], "--gpu K80: not known; it may be A100"),
        (["plan", "--price", "-1"], "--price -1.0: what a GPU costs an hour, 0 or more"),
        (["plan", "--price", "inf"], "--price inf: what a GPU costs an hour"),
        (["plan", "--link", "0"], "--link 0.0: more than 0"),
        (["plan", "--network", "-5"], "--network -5.0: more than 0"),
        (["plan", "--gpus-per-node", "0"], "--gpus-per-node 0: at least 1"),
        (["plan", "--scale", "--worth", "1.5"], "--worth 1.5: a share of what a GPU-hour does at best"),
        (["plan", "--scale", "--gpus", "1"], "--scale needs hours: name a kind with --gpu"),
        (["plan", "--mfu", "2"], "--mfu 2.0: a share of the peak"),
        (["evaluate", "--benchmarks", ",,"], "--benchmarks ,,: write names with a comma between"),
        (["evaluate", "--benchmarks", "a]b"], "write names with a comma between"),
        (["plan", "--samples", "finetune=1,1,1"], "data/index has the finetune split"),
        (["--local_rank", "1", "models"], "--local_rank 1, but LOCAL_RANK is 0"),
    ],
)
def test_what_our_commands_would_drop_is_refused(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    (tmp_path / "data/index/splits").mkdir(parents=True)
    (tmp_path / "data/index/splits/finetune.arrow").touch()
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["judge", "msvd", "--answers", "a", "--out", "file"], "file: no folder; name one"),
        (["judge", "msvd", "--answers", "a", "--out", "file/below/it"], "file: no folder; name one"),
        (["judge", "msvd", "--answers", "a", "--out", "broken"], "broken: no folder; name one"),
        (["evaluate", "--model", "m", "--out", "file"], "file: no folder; name one"),
        (["convert", "m", "file"], "file: no folder; name one"),
        (["merge", "m", "file"], "file: no folder; name one"),
        (["submission", "vqav2", "--questions", "q", "--answers", "a", "--out", "folder"], "name a file"),
    ],
)
def test_places_that_cannot_be_written_are_told_before_any_work(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("broken").symlink_to("nowhere")
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert says in capsys.readouterr().err


def test_ranks_that_are_no_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    status, _, error = run(capsys, "finetune")
    assert (status, error) == (
        2,
        "videollava finetune: WORLD_SIZE is 'two' in the environment, not a number: unset it\n",
    )


def test_normalise_filters_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The Red Shapes.\nTwo\n"))
    _, out, _ = run(capsys, "normalise", "--rule", "vqa")
    assert out.splitlines() == ["red shapes", "2"]
