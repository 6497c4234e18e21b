"""Retrieval and classification figures on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from videollava.embedding.classification import (
    average_precisions,
    class_ranks,
    class_vectors,
    draw_average_precisions,
)
from videollava.embedding.retrieval import Ranks, rank_all, summarise
from videollava.embedding.templates import ACTION, PHOTO, templates_for
from videollava.errors import InputError


def rank_table(table: np.ndarray, owners: list[int], block: int = 1 << 20) -> Ranks:
    """Ranks of a table of similarities (texts, media): texts are its rows, media the axes."""
    return rank_all(np.asarray(table, np.float32), np.eye(table.shape[1], dtype=np.float32), owners, block)


def test_ranks_of_one_caption_a_medium() -> None:
    # Rows are texts, columns media. Text 0: its own 0.9 is first. Text 1: 0.5 is behind 0.7. Text 2: behind both.
    table = np.array([[0.9, 0.1, 0.2], [0.7, 0.5, 0.3], [0.8, 0.6, 0.4]])
    ranks = rank_table(table, [0, 1, 2])
    assert ranks.text_to_media.tolist() == [1, 2, 3]
    # Medium 0: 0.9 of 0.9, 0.7, 0.8. Medium 1: 0.5 behind 0.6. Medium 2: 0.4 before 0.3 and 0.2.
    assert ranks.media_to_text.tolist() == [1, 2, 1]
    assert ranks.media_to_caption.tolist() == [1, 2, 1]
    assert summarise(ranks.text_to_media) == {
        "r1": pytest.approx(100 / 3),
        "r5": 100,
        "r10": 100,
        "median_rank": 2,
        "mean_rank": 2,
    }


def test_ties_count_against_the_right_one() -> None:
    # A model that gives every pair one similarity finds nothing, whatever the order of the rows.
    ranks = rank_table(np.full((4, 4), 0.5), [0, 1, 2, 3])
    assert ranks.text_to_media.tolist() == [4] * 4
    assert ranks.media_to_text.tolist() == [4] * 4
    assert summarise(ranks.text_to_media)["r1"] == 0
    # A model that gives every medium one vector, of numbers that no sum of is exact.
    same = np.tile(np.random.default_rng(0).standard_normal(768).astype(np.float32), (301, 1))
    same /= np.linalg.norm(same[0])
    assert set(rank_all(same, same, list(range(301))).text_to_media.tolist()) == {301}
    # One other is as similar: second.
    assert rank_table(np.array([[0.5, 0.5], [0.1, 0.9]]), [0, 1]).text_to_media.tolist() == [2, 1]


def test_several_captions_a_medium() -> None:
    # Medium 0 has captions 0 and 2, medium 1 has 1, 3 and 4, in no order.
    table = np.array([[0.9, 0.2], [0.6, 0.7], [0.3, 0.5], [0.8, 0.1], [0.2, 0.4]])
    ranks = rank_table(table, [0, 1, 0, 1, 1])
    assert ranks.text_to_media.tolist() == [1, 1, 2, 2, 1]
    # By the most similar caption of each: medium 0 sees 0.9 against 0.8, medium 1 sees 0.7 against 0.5.
    assert ranks.media_to_text.tolist() == [1, 1]
    assert ranks.media_to_caption.tolist() == [1, 1]
    # Medium 1's best is 0.6 now; medium 0's captions have 0.65 and 0.61 to it: one group, and two captions before it.
    table[:, 1] = [0.65, 0.6, 0.61, 0.1, 0.4]
    ranks = rank_table(table, [0, 1, 0, 1, 1])
    assert ranks.media_to_text.tolist() == [1, 2]
    assert ranks.media_to_caption.tolist() == [1, 3]


def test_the_scripts_way_of_several_captions() -> None:
    """tensor_video_to_text_sim and compute_metrics of CLIP4Clip, where nothing ties."""
    random = np.random.default_rng(3)
    owners = np.repeat(np.arange(12), random.integers(1, 6, 12))
    table = random.standard_normal((len(owners), 12))
    shuffled = random.permutation(len(owners))
    owners, table = owners[shuffled], table[shuffled]
    ranks = rank_table(table, owners.tolist())
    for block in (1, 40):  # in pieces the same
        pieces = rank_table(table, owners.tolist(), block)
        assert all((a == b).all() for a, b in zip(vars(ranks).values(), vars(pieces).values(), strict=True))
    grouped = np.stack([table[owners == number].max(0) for number in range(12)])  # (captions of j, media)
    by_medium = np.sort(-grouped.T, axis=1) - np.diag(-grouped)[:, None]
    assert (np.where(by_medium == 0)[1] + 1).tolist() == ranks.media_to_text.tolist()
    by_text = np.argsort(np.argsort(-table, axis=1), axis=1)[np.arange(len(owners)), owners] + 1
    assert by_text.tolist() == ranks.text_to_media.tolist()


def test_median_of_an_even_number_and_what_is_refused() -> None:
    assert summarise(np.array([1, 2, 7, 20]))["median_rank"] == 4.5
    assert summarise(np.array([1, 2, 7, 20]))["r5"] == 50
    with pytest.raises(InputError, match="no numbers"):
        rank_table(np.array([[np.nan, 0.0], [0.0, 1.0]]), [0, 1])
    with pytest.raises(InputError, match="some have no caption"):
        rank_table(np.eye(2), [0, 0])


def test_class_ranks() -> None:
    scores = np.array([[0.1, 0.9, 0.3], [0.5, 0.5, 0.2], [0.4, 0.1, 0.2]], np.float32)
    assert class_ranks(scores, [1, 0, 1]).tolist() == [1, 2, 3]


def test_average_precision_by_hand() -> None:
    # Order of scores: yes, no, yes, no. Precision 1/1 at recall 1/2, 2/3 at recall 1: (1 + 2/3) / 2.
    scores = np.array([[0.9], [0.8], [0.7], [0.1]], np.float32)
    relevant = np.array([[True], [False], [True], [False]])
    assert average_precisions(scores, relevant)[0] == pytest.approx((1 + 2 / 3) / 2)
    # The first two tie: they pass together, precision 1/2 at recall 1/2; then 2/3 at recall 1.
    tied = np.array([[0.9], [0.9], [0.7], [0.1]], np.float32)
    assert average_precisions(tied, relevant)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # All tie: the share of right ones. None right: no number.
    assert average_precisions(np.zeros((4, 1), np.float32), relevant)[0] == pytest.approx(0.5)
    assert np.isnan(average_precisions(scores, np.zeros((4, 1), bool))[0])


def test_average_precision_of_draws_is_that_of_the_drawn_media() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (20, 3)).astype(np.float32)  # with ties
    relevant = random.random((20, 3)) < 0.4
    drawn = random.integers(0, 20, (5, 20))
    weights = np.stack([np.bincount(draw, minlength=20) for draw in drawn]).astype(float)
    expected = np.stack([average_precisions(scores[draw], relevant[draw]) for draw in drawn])
    np.testing.assert_allclose(draw_average_precisions(scores, relevant, weights), expected)


def test_templates_are_clips_and_languagebinds() -> None:
    assert (len(PHOTO), len(set(PHOTO)), len(ACTION), len(set(ACTION))) == (80, 80, 28, 28)
    assert all(template.count("{}") == 1 for template in (*PHOTO, *ACTION))
    assert templates_for("depth")[0] == "a bad depth photo of a {}."
    assert templates_for("audio")[-1] == "a tattoo of the {}."
    assert templates_for("thermal") == templates_for("image") == PHOTO
    assert "a demonstration of a person practicing {}." in templates_for("video")


def test_a_class_is_the_normalised_mean_of_its_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"a dog.": [1, 0], "the dog.": [0, 1], "a cat.": [0.6, 0.8], "the cat.": [0.6, 0.8]}
    monkeypatch.setattr(
        "videollava.embedding.classification.embed",
        lambda encoders, texts: np.array([said[text] for text in texts], np.float32),
    )
    found = class_vectors(None, ["dog", "cat"], ["a {}.", "the {}."])  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], atol=1e-6)
    with pytest.raises(InputError, match=r"has no \{\}"):
        class_vectors(None, ["dog"], ["a dog"])  # type: ignore[arg-type]
