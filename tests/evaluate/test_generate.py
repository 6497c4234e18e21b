from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.evaluate.batches import Outline, Sample, outline, plan
from videollava.evaluate.generate import Sampling, generate, generate_each, stream
from videollava.model.config import language_config, model_config
from videollava.model.video_llava import ATTENTION, VideoLlavaForConditionalGeneration
from videollava.params import Encoder, Language, Model

NEW = 9
SHAPE = Model(
    image_size=16,
    patch_size=8,
    frames=4,
    vision=Encoder(width=32, layers=2, heads=2, mlp=48),
    language=Language(width=48, layers=2, heads=4, mlp=64, positions=256),
)
LETTERS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!:\n'-"]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(5)
    text = language_config(SHAPE.language, len(LETTERS), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = VideoLlavaForConditionalGeneration._from_config(
        model_config(SHAPE, text), attn_implementation=ATTENTION
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        model.lm_head.weight[2] *= 2  # so that some answers end early
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def samples(model: Any) -> list[Sample]:
    """Text, images shared and not, several, videos, both, and prompts that end with a medium."""
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 16, 16, generator=draw) for _ in range(4)]
    videos = [torch.randn(4, 3, 16, 16, generator=draw) for _ in range(2)]
    image, video = [model.config.image_token_id] * 4, [model.config.video_token_id] * 20

    def text(count: int) -> list[int]:
        return torch.randint(3, 60, (count,), generator=draw).tolist()

    system = text(6)
    made: list[Sample] = []
    for number in range(24):
        question = text(1 + number % 7)
        one, other = images[number % 4], images[(number + 1) % 4]
        made.append(
            [
                Sample(text(3) + question),
                Sample(system + image + question, [one]),
                Sample(system + image + question, [images[0]]),
                Sample(system + image + [5] + image + question, [one, other]),
                Sample(system + video + question, [], [videos[number % 2]]),
                Sample(system + video + [7] + image + question, [one], [videos[0]]),
                Sample(system + image, [one]),
                Sample(system + video + video + question, [], videos),
            ][number % 8]
        )
    return made


def test_a_mixed_batch_answers_as_each_alone(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    alone = [generate(model, tokenizer, [sample], NEW)[0] for sample in samples]
    assert len(set(alone)) > 8  # else equality would show little
    for budget in (60, 400, 100_000):
        assert generate(model, tokenizer, samples, NEW, batch_tokens=budget) == alone


def test_greedy_answers_are_those_of_transformers(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    found = dict(generate_each(model, tokenizer, samples, NEW))
    for number in (0, 1, 3, 4, 5, 6):
        sample = samples[number]
        media: dict[str, Tensor] = {}
        if sample.images:
            media["pixel_values_images"] = torch.stack(list(sample.images))
        if sample.videos:
            media["pixel_values_videos"] = torch.stack(list(sample.videos))
        ids = torch.tensor([list(sample.prompt_ids)])
        mask = torch.ones_like(ids)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, **media)
        assert found[number] == out[0, ids.shape[1] :].tolist()


def test_answers_stop_at_the_end_mark(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    answers = dict(generate_each(model, tokenizer, samples, NEW))
    ended = [ids for ids in answers.values() if 2 in ids]
    assert ended
    assert all(ids.index(2) == len(ids) - 1 for ids in ended)
    assert all(len(ids) == NEW for ids in answers.values() if 2 not in ids)


def test_plain_answers_stop_at_a_new_line(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    newline = LETTERS.index("\n")
    with torch.no_grad():
        kept = model.lm_head.weight[newline].clone()
        model.lm_head.weight[newline] *= 4
    try:
        answers = dict(generate_each(model, tokenizer, samples, NEW, template="plain"))
    finally:
        with torch.no_grad():
            model.lm_head.weight[newline] = kept
    said = [tokenizer.decode(ids).lstrip() for ids in answers.values()]
    assert any("\n" in text for text in said)
    assert all("\n" not in text[:-1] for text in said)


def test_sampling_depends_on_the_seed_and_not_on_batches(
    model: Any, tokenizer: Any, samples: list[Sample]
) -> None:
    how = Sampling(temperature=1.5, top_p=0.95, top_k=40, seed=3)
    answers = generate(model, tokenizer, samples, NEW, sampling=how)
    assert generate(model, tokenizer, samples, NEW, sampling=how, batch_tokens=150) == answers
    assert answers != generate(model, tokenizer, samples, NEW, sampling=Sampling(1.5, 0.95, 40, seed=4))
    assert answers != generate(model, tokenizer, samples, NEW)
    cold = Sampling(temperature=1.5, top_k=1)
    assert generate(model, tokenizer, samples, NEW, sampling=cold) == generate(model, tokenizer, samples, NEW)


def test_streamed_pieces_are_the_answer(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    for sample, answer in zip(samples[:8], generate(model, tokenizer, samples[:8], NEW), strict=True):
        pieces = list(stream(model, tokenizer, sample, NEW))
        assert "".join(pieces) == answer
        assert len(pieces) > 1 or len(answer) < 3


def test_a_medium_is_encoded_once_and_a_shared_prefix_runs_once(model: Any, tokenizer: Any) -> None:
    image = torch.randn(3, 16, 16)
    prefix = [1, 8, 9, *[model.config.image_token_id] * 4]
    questions = [Sample([*prefix, *range(10, 11 + n)], [image]) for n in range(6)]
    encoded: list[int] = []
    tokens: list[int] = []
    read: list[int] = []
    language = model.model.language_model
    hooks = [
        model.model.image_tower.register_forward_hook(lambda _, args, __: encoded.append(len(args[0]))),
        *(
            module.register_forward_pre_hook(lambda _, args, to=to: to.append(args[0].shape[:2].numel()))
            for module, to in ((language.layers[0], tokens), (language.norm, read))
        ),
    ]
    list(generate_each(model, tokenizer, questions, 1))
    for hook in hooks:
        hook.remove()
    assert encoded == [1]
    assert tokens == [7, 6 * 6]
    assert read == [1, 6]  # one token a row: the last layer works on no more


def test_features_may_be_given_for_pixels(model: Any, tokenizer: Any, samples: list[Sample]) -> None:
    with torch.no_grad():
        given = [
            Sample(
                sample.prompt_ids,
                [model.encode_images(image[None])[0] for image in sample.images],
                [model.encode_videos(video[None])[0] for video in sample.videos],
            )
            for sample in samples
        ]
    assert generate(model, tokenizer, given, NEW) == generate(model, tokenizer, samples, NEW)


def test_plans_hold_the_budget_and_every_row_once(model: Any, samples: list[Sample]) -> None:
    places = (model.config.image_token_id, model.config.video_token_id)
    outlines = [outline(sample, places) for sample in samples]
    assert outlines[0] == Outline(None, 0, len(samples[0].prompt_ids))
    assert (outlines[1].cut, outlines[1].rest) == (6 + 4, 2)
    assert outlines[6].cut == 0  # it ends with its medium
    batches = plan(outlines, 200, NEW)
    assert sorted(row for batch in batches for row in batch) == list(range(len(samples)))
    for batch in batches:
        assert len(batch) == 1 or _width([outlines[row] for row in batch]) * len(batch) <= 200
        assert len({outlines[row].cut > 0 for row in batch}) == 1
    assert sum(len(batch) > 1 for batch in batches) > 3


def test_a_prefix_is_split_only_where_it_fills_a_batch() -> None:
    """Groups of 1 to 23 rows in batches of 10: full ones of their own, and all of the rest together."""
    outlines = [Outline(group, 30, 5) for group in range(24) for _ in range(group)]
    batches = plan(outlines, 10 * 40, 5)
    of = [[outlines[row].prefix for row in batch] for batch in batches]
    for group in range(24):
        shares = sorted(batch.count(group) for batch in of if group in batch)
        assert shares == sorted([*[10] * (group // 10), *([group % 10] if group % 10 else [])])
    assert max(map(len, batches)) == 10
    assert plan(outlines, 10 * 40, 5) == batches
    assert plan([], 400, 5) == []


def _width(rows: list[Outline]) -> int:
    return max(row.cut for row in rows) + max(row.rest for row in rows) + NEW


def test_bad_samples_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="sample 1: its prompt is empty"):
        generate(model, tokenizer, [Sample([1]), Sample([])])
    with pytest.raises(InputError, match="sample 0: images hold tensors of 3 dimensions"):
        generate(model, tokenizer, [Sample([1], images=[torch.zeros(1, 3, 16, 16)])])
    with pytest.raises(InputError, match="placeholders in the ids"):
        generate(model, tokenizer, [Sample([1, 4], images=[torch.zeros(3, 16, 16)])])
    assert generate(model, tokenizer, []) == []


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": -1}, "temperature -1"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_k": 2.5}, "top_k 2.5"),
    ],
)
def test_numbers_that_no_sampling_has(choices: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Sampling(**choices)


@pytest.mark.parametrize("new", [0, -1, 1.5, True, None, "9"])
def test_an_answer_has_a_token_at_least(model: Any, tokenizer: Any, new: Any) -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        generate(model, tokenizer, [Sample([1, 5, 6])], new)


def test_a_temperature_near_nothing_takes_the_likeliest(model: Any, tokenizer: Any) -> None:
    samples = [Sample([1, 5, 6]), Sample([1, 9])]
    cold = generate(model, tokenizer, samples, NEW, sampling=Sampling(temperature=1e-45))
    assert cold == generate(model, tokenizer, samples, NEW)
