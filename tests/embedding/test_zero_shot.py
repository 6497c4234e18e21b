"""Zero-shot benchmarks: their files as the sources lay them out, and the command from files to a table."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from videollava import cli, embed, load_encoders
from videollava.embedding.zero_shot import layouts
from videollava.embedding.zero_shot.sets import SETS, find_sets
from videollava.errors import InputError
from videollava.evaluate.answers import write_lines
from videollava.evaluate.zero_shot.figures import measure_classes, measure_retrieval, rows_of_classes
from videollava.evaluate.zero_shot.run import measure_sets
from videollava.gate import Gate, Rules, decide, read_pairs

Lay = Callable[[dict[str, str]], Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """A folder with these files; media may be empty here, since readers of layouts only look for them."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def names(found: layouts.Captioned | layouts.Labelled) -> list[str]:
    return [file.name for file in found.media]


def test_msrvtt_and_what_is_not_there(lay: Lay) -> None:
    text = 'key,vid_key,video_id,sentence\nret0,msr1,video1,a man sings\nret1,msr2,video2,"a dog, running"\n'
    folder = lay({"MSRVTT_JSFUSION_test.csv": text, "MSRVTT_Videos/video2.mp4": ""})
    found = layouts.msrvtt(folder)
    assert names(found) == ["video2.mp4"]
    assert found.captions == [["a dog, running"]]
    assert found.absent == ["video1"]
    lay({"MSRVTT_JSFUSION_test.csv": "video,sentence\n"})
    with pytest.raises(InputError, match="no column 'video_id'; it has video, sentence"):
        layouts.msrvtt(folder)


def test_msvd_reads_words_and_runs_nothing(lay: Lay) -> None:
    folder = lay({"test_list.txt": "a_1_2\n", "Videos/a_1_2.avi": ""})
    captions = {"a_1_2": [["a", "man"], ["he", "sings"]], "b": [["x"]]}
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
    found = layouts.msvd(folder)
    assert found.captions == [["a man", "he sings"]]

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder / "harm"),)

    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(InputError, match="no pickle of words alone"):
        layouts.msvd(folder)
    assert not (folder / "harm").exists()


def test_didemo_and_activitynet_join_a_clips_sentences(lay: Lay) -> None:
    rows = [
        {"video": "1@N00_2.avi", "description": "a cat jumps", "times": [[0, 1]]},
        {"video": "3.mov", "description": "not chosen", "times": [[0, 1]]},
        {"video": "1@N00_2.avi", "description": "it lands", "times": [[2, 2]]},
    ]
    spoken = {"v_ab": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["He runs.", " He falls."]}}
    folder = lay(
        {
            "test_data.json": json.dumps(rows),
            "test_list.txt": "1@N00_2.avi\n",
            "videos/1@N00_2.mp4": "",
            "val_1.json": json.dumps(spoken),
            "Activity_Videos/v_ab.mkv": "",
        }
    )
    assert layouts.didemo(folder).captions == [["a cat jumps it lands"]]
    assert names(layouts.didemo(folder)) == ["1@N00_2.mp4"]
    assert layouts.activitynet(folder).captions == [["He runs. He falls."]]
    assert names(layouts.activitynet(folder)) == ["v_ab.mkv"]


def test_clotho_and_audiocaps(lay: Lay) -> None:
    head = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6))
    caps = "audiocap_id,youtube_id,start_time,caption\n1,rq,130,a woman\n2,rq,130,she talks\n3,-x,20,bells\n"
    folder = lay(
        {
            "clotho_captions_evaluation.csv": f"{head}\nSanta Motor.wav,a,b,c,d,e\n",
            "evaluation/Santa Motor.wav": "",
            "test.csv": caps,
            "audio/rq_130.wav": "",
            "audio/Y-x.wav": "",
        }
    )
    assert layouts.clotho(folder).captions == [["a", "b", "c", "d", "e"]]
    assert layouts.audiocaps(folder).captions == [["a woman", "she talks"], ["bells"]]
    assert names(layouts.audiocaps(folder)) == ["rq_130.wav", "Y-x.wav"]


def test_classes_of_csv_files(lay: Lay) -> None:
    head = "filename,fold,target,category,esc10,src_file,take"
    esc = f"{head}\n1-1-A-0.wav,1,0,dog,True,1,A\n1-2-A-1.wav,1,1,sea_waves,False,2,A\n"
    folder = lay({"meta/esc50.csv": esc, "audio/1-1-A-0.wav": "", "audio/1-2-A-1.wav": ""})
    found = layouts.esc50(folder)
    assert (found.classes, found.labels) == (["dog", "sea waves"], [(0,), (1,)])
    folder = lay(
        {
            "vggsound.csv": 'ab,30,"bee, wasp, etc. buzzing",test\ncd,10,hail,train\nef,1,hail,test\n',
            "x/ab_000030.wav": "",
            "x/ef_000001.wav": "",
            "x/cd_000010.wav": "",
            "val.csv": "label,youtube_id,time_start,time_end,split\nabseiling,-3B,59,69,val\n",
            "k/-3B_000059_000069.mp4": "",
        }
    )
    found = layouts.vggsound(folder)
    assert (found.classes, names(found)) == (
        ["bee, wasp, etc. buzzing", "hail"],
        ["ab_000030.wav", "ef_000001.wav"],
    )
    assert names(layouts.kinetics(folder)) == ["-3B_000059_000069.mp4"]


def test_audioset_has_several_labels(lay: Lay) -> None:
    folder = lay(
        {
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
            '1,/m/05zppz,"Male speech, man"\n2,/m/0,Z\n',
            "eval_segments.csv": "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
            '-a, 30.000, 40.000, "/m/09x0r,/m/05zppz"\n',
            "eval_segments/Y-a.wav": "",
        }
    )
    found = layouts.audioset(folder)
    assert (found.multi, found.classes, found.labels) == (True, ["Speech", "Male speech, man", "Z"], [(0, 1)])


def test_a_folder_a_class_with_languagebinds_names(lay: Lay) -> None:
    folder = lay(
        {"val/person/1.jpg": "", "val/background/2.jpg": "", "val/background/3.jpg": "", "train/x/4.jpg": ""}
    )
    found = SETS["llvip"].read(folder)
    assert isinstance(found, layouts.Labelled)
    assert (found.classes, found.labels) == (["background", "people"], [(0,), (0,), (1,)])
    with pytest.raises(InputError, match="expected a folder a class"):
        layouts.by_folder(folder / "train")


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("didemo", "test_data.json", '[{"video": "1.mp4", "caption": "a cat"}]'),
        ("didemo", "test_data.json", '{"1.mp4": "a cat"}'),
        ("activitynet", "val_1.json", '{"v_a": {"timestamps": []}}'),
        ("activitynet", "val_1.json", "3"),
        ("audiocaps", "test.csv", "audiocap_id,youtube_id,start_time,caption\n1,a,0:30,bells\n"),
        ("kinetics-400", "val.csv", "label,youtube_id,time_start,time_end\nsailing,a,1.5s,9\n"),
        ("vggsound", "vggsound.csv", "a,soon,hail,test\n"),
    ],
)
def test_files_laid_out_otherwise_are_named(lay: Lay, name: str, file: str, text: str) -> None:
    folder = lay({file: text, "1.mp4": ""})
    chosen = find_sets([f"{name}={folder}"])
    with pytest.raises(InputError, match=rf"{SETS[name].title} is published|no such|{file}"):
        next(measure_sets(None, chosen, folder / "out"))  # type: ignore[arg-type]


def test_names_of_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"esc50: no zero-shot benchmark, .*there are msr-vtt"):
        find_sets(["esc50"])
    with pytest.raises(InputError, match=r"no such folder; esc-50 is meta/esc50.csv"):
        find_sets([f"esc-50={tmp_path / 'no'}"])
    assert find_sets([f"esc-50={tmp_path}"])[0].folder == tmp_path


def test_intervals_are_by_medium() -> None:
    """Captions of one medium are drawn together: ten copies of each tell no more than one does."""
    random = np.random.default_rng(0)
    media = random.standard_normal((40, 6)).astype(np.float32)
    texts = (media + 1.2 * random.standard_normal((40, 6))).astype(np.float32)
    once = measure_retrieval(texts, media, list(range(40)))
    tenfold = measure_retrieval(np.repeat(texts, 10, 0), media, np.repeat(np.arange(40), 10).tolist())
    assert 0 < once["text_to_media_r1"] < 100
    assert once["text_to_media_r1"] == pytest.approx(tenfold["text_to_media_r1"])
    width = [found["intervals"]["text_to_media_r1"] for found in (once, tenfold)]
    assert width[1][1] - width[1][0] == pytest.approx(width[0][1] - width[0][0], rel=0.25)
    low, high = width[0]
    assert low < once["text_to_media_r1"] < high
    assert "media_to_caption_r1" in tenfold
    assert "media_to_caption_r1" not in once


def test_figures_of_several_labels() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.1, 0.6], [0.2, 0.2]], np.float32)
    found = measure_classes(scores, [(0,), (1,), (0, 1), (1,)], multi=True)
    # Class 0: yes, no, no, yes: (1 + 2/4) / 2. Class 1: yes, yes, yes, no: 1.
    assert found["map"] == pytest.approx(100 * (0.75 + 1) / 2)
    low, high = found["intervals"]["map"]
    assert low <= found["map"] <= high


def test_media_of_several_labels_are_compared_by_their_average_precision(tmp_path: Path) -> None:
    """mAP alone would leave the gate without answers to compare: no version could follow a champion."""
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.7, 0.9], [0.1, 0.6, 0.2]], np.float32)
    labels = [(0,), (0, 1), (0,)]
    rows = rows_of_classes(scores, labels, ["a", "b", "c"], ["1", "2", "3"], ["x", "y", "z"], "audio")
    # Places of their own classes: 1st; 2nd and 3rd of three; 3rd.
    points = [1.0, (1 / 2 + 2 / 3) / 2, 1 / 3]
    assert [row["score"] for row in rows] == pytest.approx([100 * one for one in points])
    assert [row["correct"] for row in rows] == [True, False, False]
    assert rows[1]["answer"] == "a; b"
    metrics = {"audioset.zero_shot": measure_classes(scores, labels, multi=True)}
    for name in ("champion", "candidate"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        write_lines(rows, tmp_path / name / "predictions/audioset.zero_shot.jsonl")
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    pairs, unlike = read_pairs(tmp_path / "candidate", [tmp_path / "champion"])
    assert not unlike
    loose = Rules(Gate(rule="not_shown_worse"))  # three media exclude nothing
    decision = decide(metrics, metrics, loose, pairs, unlike)
    assert decision.passed, decision.reasons
    assert decision.rows[0].score == pytest.approx(metrics["audioset.zero_shot"]["map"])


def test_the_command_from_genuine_files_to_a_table(
    shared: Path,
    encoder_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    media = shared / "media"
    own, sorted_ = tmp_path / "own", tmp_path / "sorted"
    own.mkdir()
    captions = {
        "image_0.jpg": ["a parakeet climbs"],
        "image_1.jpg": ["a lion", "a tree"],
        "gone.jpg": ["nothing"],
    }
    lines = [json.dumps({"media": name, "captions": said}) for name, said in captions.items()]
    (own / "captions.jsonl").write_text("\n".join(lines))
    for name in ("image_0.jpg", "image_1.jpg"):
        shutil.copy(media / "image" / name, own)
    for number, name in enumerate(("bird", "lion")):
        (sorted_ / name).mkdir(parents=True)
        shutil.copy(media / f"depth/depth_{number}.png", sorted_ / name)
    monkeypatch.chdir(tmp_path)
    words = ["zero-shot", f"captions={own}", f"nyu-d={sorted_}", "--model", str(encoder_folders)]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "captions: 1 media lack or cannot be read" in said
    told = json.loads(Path("evaluation/zero_shot/metrics.json").read_text())
    assert sorted(told["model"]["encoders"]) == ["depth", "image"]
    retrieval, scenes = told["benchmarks"]["captions"], told["benchmarks"]["nyu-d"]
    assert (retrieval["texts"], retrieval["media"], retrieval["absent"]) == (3, 2, 1)
    encoders = load_encoders(encoder_folders)
    texts = embed(encoders, texts=["a parakeet climbs", "a lion", "a tree"])
    vectors = embed(encoders, files=[own / "image_0.jpg", own / "image_1.jpg"])
    table = texts @ vectors.T
    right = [table[0, 0] > table[0, 1], table[1, 1] > table[1, 0], table[2, 1] > table[2, 0]]
    assert retrieval["text_to_media_r1"] == pytest.approx(100 * np.mean(right))
    assert (scenes["paper"], scenes["templates"], scenes["top5"]) == (65.1, 80, 100)
    assert "| nyu-d | 2 | 2 | top-1 " in Path("evaluation/zero_shot/table.md").read_text()
    # A benchmark alone leaves what the same encoders had on others.
    assert cli.main([words[0], words[1], *words[3:]]) == 0
    assert json.loads(Path("evaluation/zero_shot/metrics.json").read_text()) == told
    # Another model's vectors are not taken for this one's.
    (tables,) = Path("evaluation/zero_shot/vectors").glob("captions.*")
    other = shared / "reference/languagebind_image"
    (tmp_path / "other").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(encoder_folders / "image" / name, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["visual_projection.weight"] = -weights["visual_projection.weight"]
    save_file(weights, tmp_path / "other/model.safetensors")
    assert cli.main([*words[:2], "--model", str(tmp_path / "other")]) == 0
    assert [file != tables for file in Path("evaluation/zero_shot/vectors").glob("captions.*")] == [True]
    told = json.loads(Path("evaluation/zero_shot/metrics.json").read_text())["benchmarks"]
    assert list(told) == ["captions"]
    turned = told["captions"]
    assert turned["text_to_media_r1"] == pytest.approx(100 - retrieval["text_to_media_r1"])
