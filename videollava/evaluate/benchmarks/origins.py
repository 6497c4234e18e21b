"""Where the official files of the benchmarks come from, as LLaVA's docs/Evaluation.md and Video-LLaVA's
TRAIN_AND_VALIDATE.md name them, and what a benchmark's folder has to hold.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Origin", "origin_of"]

EVAL_ZIP = "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy/view (LLaVA's eval.zip)"
VIDEO_QA = "https://github.com/PKU-YuanGroup/Video-LLaVA/blob/main/TRAIN_AND_VALIDATE.md"
VIDEO_CHATGPT = "https://github.com/mbzuai-oryx/Video-ChatGPT"


@dataclass(frozen=True)
class Origin:
    """`places`: addresses of files and of pages that lead to them. `holds`: what the folder needs, in words."""

    places: tuple[str, ...]
    holds: str


_VIDEO_QA = Origin((VIDEO_QA, VIDEO_CHATGPT), "test_q.json, test_a.json, a folder of videos")
_ORIGINS = {
    "vqav2": Origin(
        (EVAL_ZIP, "http://images.cocodataset.org/zips/test2015.zip"),
        "llava_vqav2_mscoco_test-dev2015.jsonl (or the official questions), test2015/",
    ),
    "gqa": Origin(
        (EVAL_ZIP, "https://cs.stanford.edu/people/dorarad/gqa/download.html"),
        "llava_gqa_testdev_balanced.jsonl, testdev_balanced_questions.json, images/",
    ),
    "vizwiz": Origin(
        (
            EVAL_ZIP,
            "https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip",
            "https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip",
        ),
        "llava_test.jsonl or test.json, test/",
    ),
    "scienceqa": Origin(
        (EVAL_ZIP, "https://github.com/lupantech/ScienceQA (data/scienceqa)"),
        "llava_test_CQM-A.json, pid_splits.json, problems.json, images/",
    ),
    "textvqa": Origin(
        (
            EVAL_ZIP,
            "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
            "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        ),
        "llava_textvqa_val_v051_ocr.jsonl, TextVQA_0.5.1_val.json, train_images/",
    ),
    "pope": Origin(
        (
            EVAL_ZIP,
            "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco",
        ),
        "llava_pope_test.jsonl, coco/*.json, val2014/ of COCO",
    ),
    "mmbench": Origin(
        ("https://download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_dev_20230712.tsv",),
        "mmbench_dev_20230712.tsv (the images are in it)",
    ),
    "llava-bench": Origin(
        ("https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",),
        "questions.jsonl, context.jsonl, answers_gpt4.jsonl, images/",
    ),
    "mm-vet": Origin(
        (EVAL_ZIP, "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip"),
        "mm-vet.json, images/",
    ),
    "mme": Origin(
        (
            EVAL_ZIP,
            "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
        ),
        "llava_mme.jsonl, MME_Benchmark_release_version/",
    ),
    "seed": Origin(
        (EVAL_ZIP, "https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md"),
        "SEED-Bench.json, SEED-Bench-image/, and the videos' middle frames in SEED-Bench-video-image/",
    ),
    "msvd": _VIDEO_QA,
    "msrvtt": _VIDEO_QA,
    "tgif": _VIDEO_QA,
    "activitynet": _VIDEO_QA,
    "activitynet-exact": Origin(
        ("https://github.com/MILVLG/activitynet-qa (dataset/)", VIDEO_QA),
        "test_q.json, test_a.json with types, a folder of videos",
    ),
    "video-choice": Origin((), "a JSON list of id, video, question, options, answer; a folder of videos"),
}
_JUDGED = Origin(
    (VIDEO_CHATGPT,), "generic_qa.json, temporal_qa.json or consistency_qa.json, a folder of videos"
)


def origin_of(benchmark: str) -> Origin | None:
    """Of a benchmark's official files; None where its questions are a split of one's own data."""
    return _JUDGED if benchmark.startswith("video-chatgpt-") else _ORIGINS.get(benchmark)
