import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from fake_words import COLOURS, FakeDetector, FakeTextEncoder, FloodSegmenter, scene

from nbhelpers import ClickSession, NbHelpersError
from nbhelpers.clip_guided import ClipGuidedSession, ClipGuidedSettings, diagnose, pipeline, run, segment
from nbhelpers.clip_guided.placement import ClassGrid, add_uncovered, place
from nbhelpers.clip_guided.selection import (
    MaskProposal,
    MergedInstance,
    assign_pixels,
    blur_surroundings,
    describe,
    merge,
    reassign,
    remove_specks,
)
from nbhelpers.clip_guided.values import CropVerification
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import decode_rle, iou, tight_box
from nbhelpers.models.values import ClassMap

WORDS = ["ball", "box", "lid", "lawn", "sky"]


def ask(image=None, words=WORDS, target=None, encoder=None, segmenter=None, **settings):
    image = scene() if image is None else image
    encoder, segmenter = encoder or FakeTextEncoder(), segmenter or FloodSegmenter()
    return segment(
        image, words, target, settings=ClipGuidedSettings(**settings), segmenter=segmenter, text_encoder=encoder
    )


@pytest.fixture(scope="module")
def result():
    return ask()


def colour_mask(image, at):
    return (image == image[at[1], at[0]]).all(2)


def test_things_stay_apart_and_stuff_comes_together(result):
    assert sorted(result.names) == ["ball 1", "ball 2", "box", "lawn", "lid", "sky"]
    left, right = result.mask("ball 1"), result.mask("ball 2")
    both = colour_mask(result.image, (60, 160))
    assert not (left & right).any() and iou(left | right, both) > 0.95
    assert (result.mask("ball") == (left | right)).all()
    lawn = colour_mask(result.image, (10, 230))
    assert iou(result.mask("lawn"), lawn) > 0.95


def test_stuff_in_two_places_is_one_region():
    image = scene()
    image[:, 100:104] = (0, 0, 0)
    image[120:] = np.where((image[120:] == (60, 160, 60)).all(2)[..., None], image[120:], image[120:])
    found = ask(image, ["ball", "sky", "lawn"])
    assert list(found.names).count("sky") == 1
    assert found.mask("sky")[50, 20] and found.mask("sky")[50, 300]
    apart = ask(image, ["ball", "sky", "lawn"], stuff=("lawn",))
    assert "sky 2" in apart.names


def test_every_point_lies_in_a_place_of_its_word(result):
    for prompt in result.prompts:
        x, y = map(round, prompt.point)
        assert result.class_map.names[prompt.class_id] == result.vocabulary[prompt.class_id]
        assert result.labels[y, x] == prompt.class_id


def test_instances_and_label_map_agree_and_are_exclusive(result):
    detections = result.instances
    assert detections.mask.sum(0).max() == 1
    for index, mask in enumerate(detections.mask):
        assert (mask == (result.instance_map == index)).all()
        ys, xs = np.nonzero(mask)
        assert detections.xyxy[index].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert detections.data["class_name"][index] == result.vocabulary[detections.class_id[index]]
    assert ((result.labels >= 0) == (result.instance_map >= 0)).all()
    assert ((detections.confidence > 0) & (detections.confidence <= 1)).all()


def test_the_budget_counts_prompts_and_seconds(result):
    budget = result.budget
    assert len(result.prompts) < budget.prompts <= 100 and budget.saved == 4096 / budget.prompts
    assert all(seconds >= 0 for seconds in (budget.text, budget.image, budget.decoder, budget.merge))
    assert "times fewer than a grid of 4096" in str(budget)


def test_all_points_are_asked_on_one_embedding():
    segmenter = FloodSegmenter()
    ask(segmenter=segmenter)
    assert segmenter.encoded == 1 and len(segmenter.asked) == 1


def test_the_candidate_that_agrees_with_the_class_map_is_taken():
    # by its own scores the segmenter prefers everything of one colour, both balls at once
    found = ask(segmenter=FloodSegmenter(scores=(0.5, 0.9, 0.95)), stuff=())
    balls = [prompt for prompt in found.prompts if prompt.class_id == 0]
    assert {prompt.candidate for prompt in balls} == {2}
    assert "ball 2" in found.names


class StripeSegmenter(FloodSegmenter):
    """A box selects all in it that is not lawn, a point one stripe only."""

    def predict(self, embedding, prompt):
        found = super().predict(embedding, prompt)
        if prompt.box is None:
            return found
        scale = self.side / np.array(embedding.size[::-1])
        x0, y0, x1, y1 = (np.reshape(prompt.box, (2, 2)) * scale).round().astype(int).ravel()
        mask = np.abs(embedding.tensors["small"].astype(int) - COLOURS["lawn"]).max(2) > 60
        inside = np.zeros_like(mask)
        inside[y0 : y1 + 1, x0 : x1 + 1] = True
        return replace(found, logits=np.where(mask & inside, 8, -8).astype(np.float32)[None].repeat(4, 0), choice=0)


def test_the_box_of_a_region_selects_an_object_of_many_parts():
    image = np.full((240, 320, 3), COLOURS["lawn"], np.uint8)
    for row in range(60, 180, 20):
        image[row : row + 20, 60:240] = COLOURS["ball"] if row % 40 else (190, 70, 30)
    found = ask(image, ["ball", "lawn"], segmenter=StripeSegmenter())
    assert found.names == ("ball", "lawn") and iou(found.mask("ball"), ~colour_mask(image, (5, 5))) > 0.95
    assert [prompt.candidate for prompt in found.prompts if prompt.fate == "kept" and not prompt.class_id] == [0]
    parts = ask(image, ["ball", "lawn"])  # without a better mask for the box the points decide
    assert "ball 6" in parts.names


def test_a_target_selects_and_changes_nothing(result):
    found = ask(target="Ball")
    assert found.target == "ball" and (found.mask() == result.mask("ball")).all()
    assert set(found.masks()) == {"ball 1", "ball 2"}
    assert (result.mask() == (result.instance_map >= 0)).all()
    with pytest.raises(NbHelpersError, match="no such class or instance"):
        result.mask("dragon")


def test_excluded_words_win_their_places_and_are_not_segmented():
    found = ask(words=["ball", "sky", "lawn"], exclude=("box", "lid"))
    assert "box" not in found.vocabulary and not found.mask()[200, 230]
    listed = ask(exclude=("sky",))
    assert "sky" in listed.vocabulary and "sky" not in listed.names


def test_a_lowered_confidence_is_told(caplog):
    unsure = FakeTextEncoder(flat=0.6)
    found = ask(encoder=unsure)
    assert len(found) and any("lowered to" in note for note in found.notes) and "lowered to" in caplog.text
    assert all(level < 0.7 for level in found.confidence_used.values())
    kept = ask(encoder=unsure, lower=False)
    assert len(kept) == 0 and not kept.confidence_used
    sure = ask()
    assert not sure.notes and not sure.confidence_used


def test_a_target_that_found_nothing_is_lowered_alone():
    image = scene()
    image[140:165, 240:280] = (150, 120, 120)  # the lid, between colours
    found = ask(image, target="lid")
    assert set(found.confidence_used) <= {"lid"} and (not found.confidence_used or "lowered" in found.notes[0])


def test_no_more_prompts_than_allowed():
    for most in (6, 3):
        found = ask(max_prompts=most)
        assert len(found.prompts) <= most and found.budget.prompts <= 2 * most  # at most one box for each region


def test_smaller_regions_are_left_out():
    assert "lid" not in ask(min_region_size=3000).names


@pytest.mark.parametrize("placement", ["centroid", "regular", "grid"])
def test_other_placements_find_the_same_scene(placement, result):
    found = ask(placement=placement)
    assert set(found.names) >= {"ball 1", "ball 2", "box", "sky"}
    # the centre of gravity of a lawn may be a ball
    assert ("lawn" in found.names) == (placement != "centroid")
    assert iou(found.mask("box"), result.mask("box")) > 0.95
    if placement == "grid":
        assert found.budget.prompts == 4096


def proposal(mask, class_id=0, score=0.9, agreement=1.0):
    return MaskProposal(np.where(mask, 8, -8).astype(np.float16), class_id, 2, score, agreement)


def square(x0, y0, x1, y1, size=64):
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_merging_tells_the_fate_of_each_mask():
    whole, twin, part = square(0, 0, 40, 40), square(0, 0, 40, 39), square(5, 5, 15, 15)
    proposals = [
        proposal(whole),
        proposal(twin, score=0.8),
        proposal(part),
        proposal(square(50, 50, 51, 51)),
        proposal(square(44, 0, 60, 20), agreement=0.3),
    ]
    found, fates = merge(proposals, {0: False}, ClipGuidedSettings(min_region_size=4), cell=1.0)
    assert fates == ["kept", "duplicate", "part", "small", "disagrees"]
    assert [item.members for item in found] == [(0, 1, 2)]


def test_a_larger_mask_takes_a_part_only_if_what_it_adds_is_of_the_class():
    animal, with_wall = square(0, 0, 20, 20), square(0, 0, 40, 40)
    head = square(5, 5, 15, 15)
    found, fates = merge(
        [proposal(with_wall, agreement=0.51), proposal(animal, agreement=0.9), proposal(head, agreement=0.95)],
        {0: False},
        ClipGuidedSettings(min_region_size=4),
        cell=1.0,
    )
    assert fates == ["disagrees", "kept", "part"] and [item.members for item in found] == [(1, 2)]


def test_a_mask_that_disagrees_with_a_part_is_no_part_itself():
    head, head_and_wall, animal = square(5, 5, 15, 15), square(5, 5, 15, 25), square(0, 0, 40, 40)
    found, fates = merge(
        [proposal(head), proposal(head_and_wall, agreement=0.6), proposal(animal, agreement=0.9)],
        {0: False},
        ClipGuidedSettings(min_region_size=4),
        cell=1.0,
    )
    assert fates == ["part", "disagrees", "kept"] and [item.members for item in found] == [(2, 0)]


def test_unwanted_classes_compete_together_where_a_mask_is_judged():
    wall = np.full((4, 4), 0.3)
    wall[:2] = 0.9
    planes = np.stack([wall, *np.repeat((1 - wall)[None] / 7, 7, 0)]).astype(np.float32)
    class_map = ClassMap(planes, ("ball", *"abcdefg"), (4, 4), "x")
    assert ClassGrid(class_map, (4, 4)).relative(0)[3, 0] == 1  # against each of them
    together = ClassGrid(class_map, (4, 4), {0}).relative(0)
    np.testing.assert_allclose(together, np.where(wall > 0.5, 1, 0.3 / 0.9), atol=1e-6)


def test_a_conflict_is_decided_by_confidence_at_the_place_and_explained():
    table, cup = square(0, 0, 60, 60), square(20, 20, 40, 40)
    probabilities = np.where(cup, 0.1, 0.9)
    class_map = ClassMap(
        np.stack([probabilities, 1 - probabilities]).astype(np.float32), ("table", "cup"), (64, 64), "x"
    )
    found, _ = merge([proposal(table), proposal(cup, 1, 0.7)], {0: False, 1: False}, ClipGuidedSettings(), 1.0)
    order, covered, conflicts = assign_pixels(found, ClassGrid(class_map, (64, 64)), class_map.names, 1.0, 10, {0, 1})
    assert order == [0, 1] and covered == []
    (conflict,) = conflicts
    assert conflict.names == ("cup", "table") and conflict.pixels == 400
    assert conflict.confidence == pytest.approx((0.7, 0.9 * 0.1 / 0.9), abs=1e-3)
    assert str(conflict) == "400 pixels: cup (0.70) over table (0.10)"


@pytest.mark.parametrize(
    ("tie", "boxes", "wanted", "shown"),
    [
        (square(28, 20, 36, 44), True, {0, 1}, True),
        (square(28, 20, 36, 44), True, {0}, False),  # nobody asked for it
        (square(28, 20, 36, 44), False, {0, 1}, False),  # found by points: a part of what surrounds it
        (square(2, 2, 58, 60), True, {0, 1}, False),  # nearly as large: the same object
        (square(50, 20, 64, 44), True, {0, 1}, False),  # beside it rather than in front
    ],
)
def test_a_small_detection_inside_a_larger_one_is_in_front_of_it(tie, boxes, wanted, shown):
    person = square(0, 0, 60, 64)
    box = (0.0, 0.0, 60.0, 64.0) if boxes else None
    class_map = ClassMap(
        np.stack([np.full((64, 64), 0.7), np.full((64, 64), 0.3)]).astype(np.float32), ("person", "tie"), (64, 64), "x"
    )
    both = [replace(proposal(person), box=box), replace(proposal(tie, 1, 0.8, 0.6), box=box)]
    found, _ = merge(both, {0: False, 1: False}, ClipGuidedSettings(), 1.0)
    _, _, (conflict,) = assign_pixels(found, ClassGrid(class_map, (64, 64)), class_map.names, 1.0, 10, wanted)
    assert (conflict.names == ("tie", "person")) == conflict.in_front == shown
    assert ("tie (0.34) over person (0.90), since it is in front" in str(conflict)) == shown


def test_an_instance_that_loses_nearly_all_is_covered():
    one, two = square(0, 0, 40, 40), square(1, 1, 40, 40)
    class_map = ClassMap(
        np.stack([np.full((64, 64), 0.8), np.full((64, 64), 0.2)]).astype(np.float32), ("a", "b"), (64, 64), "x"
    )
    found, _ = merge([proposal(one), proposal(two, 1)], {0: False, 1: False}, ClipGuidedSettings(), 1.0)
    assert assign_pixels(found, ClassGrid(class_map, (64, 64)), ("a", "b"), 1.0, 100, {0, 1})[:2] == ([0], [1])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the vocabulary is empty"),
        ("ball", "one string"),
        (["ball", " "], "is empty"),
        (["ball", "x" * 500], "too long"),
        (["background"], "no class to segment"),
    ],
)
def test_bad_vocabularies_are_refused(words, says):
    segmenter = FloodSegmenter()
    with pytest.raises(NbHelpersError, match=says):
        ask(words=words, segmenter=segmenter)
    assert segmenter.encoded == 0


def test_a_target_that_is_not_in_the_vocabulary_is_refused():
    with pytest.raises(NbHelpersError, match="not in the vocabulary"):
        ask(target="dragon")


@pytest.mark.parametrize(
    "bad", [{"min_confidence": 2}, {"iou_threshold": -1}, {"max_prompts": 0}, {"placement": "random"}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(NbHelpersError):
        ClipGuidedSettings(**bad)


def test_one_word_gets_something_to_compete_with():
    encoder = FakeTextEncoder()
    found = ask(words=["ball"], encoder=encoder)
    assert found.vocabulary == ("ball",) and ("sky", "cloud") in encoder.asked[0]
    assert found.mask().mean() < 0.2 and "ball 2" in found.names
    bare = ask(words=["ball"], encoder=FakeTextEncoder(), surroundings=False)
    assert "single class" in bare.notes[0] and bare.class_map.names == ("ball", "background")


def test_surroundings_compete_unless_they_are_named():
    encoder = FakeTextEncoder()
    ask(words=["ball", "wet lawn", "sky"], encoder=encoder, exclude=("forest",))
    asked = [name for group in encoder.asked[0] for name in group]
    assert "wall" in asked and asked.count("sky") == 1
    assert not {"cloud", "grass", "meadow", "tree"} & set(asked)
    plain = FakeTextEncoder()
    ask(words=["ball", "box"], encoder=plain, surroundings=False)
    assert plain.asked[0] == [("ball",), ("box",)]


def test_a_single_word_that_is_not_there_finds_nothing_and_says_so():
    found = ask(words=["猫"], image=scene()[:100])
    assert not found.mask().any() and "nothing was found" in found.notes[-1] and "猫" in found.notes[-1]


def test_background_competes_without_words_that_are_asked():
    encoder = FakeTextEncoder()
    found = ask(words=["ball", "sky", "Background"], encoder=encoder)
    assert "sky" not in encoder.asked[0][2] and "grass" in encoder.asked[0][2]
    assert "Background" not in found.names
    assert "Background" in ask(words=["ball", "sky", "Background"], target="background").names


def test_five_hundred_words():
    encoder = FakeTextEncoder(side=32)
    found = ask(words=[*WORDS, *(f"thing {i}" for i in range(495))], encoder=encoder, min_confidence=0.1)
    assert len(found.vocabulary) == 500 and "ball 2" in found.names


def test_duplicate_and_near_duplicate_words():
    found = ask(words=[*WORDS, "BALL", "a ball", "balls"])
    assert found.vocabulary == (*WORDS, "a ball", "balls") and "twice" in found.notes[0]
    assert ("ball", "balls") in diagnose(found).near_duplicates and ("ball", "a ball") in diagnose(
        found
    ).near_duplicates


def test_words_in_other_scripts():
    found = ask(words=["猫", "небо", "sky", "box", "lawn", "lid"])
    assert "猫 2" in found.names and found.summary()["instances"]["небо"] == 0


def test_nothing_found_is_an_empty_result():
    found = ask(np.full((60, 80, 3), 128, np.uint8), ["ball", "box"], min_region_size=10_000)
    assert len(found) == 0 and (found.labels == -1).all() and found.mask("ball").sum() == 0
    assert found.names == () and found.masks() == {} and "nothing was found" in found.notes[-1]


def test_everything_found():
    found = ask(np.full((60, 80, 3), (150, 200, 240), np.uint8), ["sky", "ball"])
    assert found.mask("sky").all()


def test_a_photo_of_sixteen_pixels():
    image = np.full((16, 16, 3), (60, 160, 60), np.uint8)
    image[4:12, 4:12] = (220, 40, 30)
    found = ask(image, ["ball", "lawn"], min_region_size=9)
    assert found.mask("ball")[8, 8] and found.mask("lawn")[0, 0]


def test_a_large_photo_in_bounded_memory(monkeypatch):
    import tracemalloc

    monkeypatch.setattr("nbhelpers.clip_guided.selection.MAX_DENSE_BYTES", 1 << 24)
    image = scene(2000, 2800)
    tracemalloc.start()
    found = ask(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2000 * 2800  # six dense masks, logits at photo size and the map are more
    assert sorted(found.names) == ["ball 1", "ball 2", "box", "lawn", "lid", "sky"]
    assert type(found.instances.mask).__name__ == "CompactMask"
    assert iou(np.asarray(found.instances.mask[0]), found.instance_map == 0) == 1


def test_a_class_map_can_be_used_again_and_must_fit(result):
    encoder = FakeTextEncoder()
    given = {"text_encoder": encoder, "class_map": result.text_map, "settings": ClipGuidedSettings(verify_crops=False)}
    again = segment(scene(), WORDS, segmenter=FloodSegmenter(), **given)
    assert not encoder.asked and (again.labels == result.labels).all()
    with pytest.raises(NbHelpersError, match="another photo or vocabulary"):
        segment(scene(), ["ball"], segmenter=FloodSegmenter(), class_map=result.text_map)


def test_the_doctor_tells_what_won_and_why_not():
    found = ask(words=[*WORDS, "grass", "dragon", "background"])
    sheet = diagnose(found, FakeTextEncoder())
    assert sheet.background == ()
    words = {word.name: word for word in sheet.words}
    assert words["ball"].instances == 2 and not words["ball"].reason
    assert words["ball"].coverage == pytest.approx((found.image == (220, 40, 30)).all(2).mean(), abs=0.02)
    assert "nowhere the most probable" in words["dragon"].reason and "only competes" in words["background"].reason
    assert any({a, b} == {"lawn", "grass"} and ratio > 0.9 for a, b, ratio in sheet.rivals)
    assert '"lawn" and "grass" compete' in str(sheet) and "dragon found nothing" in str(sheet)


def test_the_doctor_suggests_background_words_that_would_win():
    found = ask(words=["ball", "box", "lid"], min_confidence=0.99, lower=False, surroundings=False)
    assert diagnose(found, FakeTextEncoder()).background[0][0] in ("sky", "grass")
    every = dict(diagnose(found).background)
    assert every["sky"] == -1 and "ball" not in every


@pytest.fixture
def clicked(result):
    clicks = ClickSession(result.image, FloodSegmenter())
    return ClipGuidedSession(result, clicks), clicks


def test_a_session_starts_from_the_result(clicked, result):
    session, clicks = clicked
    assert clicks.objects == result.names
    assert (session.result.labels == result.labels).all() and session.result.names == result.names


def test_a_click_removes_a_region_and_undo_brings_it_back(clicked, result):
    session, clicks = clicked
    changes = []
    session.on_change(lambda: changes.append(len(session.result)))
    name = session.remove(250, 200)
    assert name == "box" and "box" not in session.result.names and session.result.labels[200, 250] == -1
    clicks.undo()
    assert (session.result.labels == result.labels).all() and changes == [5, 6]
    with pytest.raises(NbHelpersError, match="no instance"):
        session.remove(9999, 0)


def test_a_click_adds_a_region_of_a_class(result):
    start = ask(words=["ball", "lawn", "sky"], exclude=("box", "lid"))
    session = ClipGuidedSession(start, ClickSession(start.image, FloodSegmenter()))
    assert session.add(230, 210, "crate") == "crate"
    added = session.result
    assert added.vocabulary[-1] == "crate" and added.mask("crate")[210, 230]
    session.add(60, 160, "ball")
    assert session.result.mask("ball")[160, 60]
    assert [word.name for word in diagnose(session.result).words] == ["ball", "lawn", "sky"]
    nameless = session.add(260, 150)
    assert nameless.startswith("object") and len(session.result) == len(added) + 1


def test_an_instance_that_its_click_does_not_reproduce_is_prompted_with_its_mask_and_box(result):
    number, changed = result.names.index("box"), result.instance_map.copy()
    left = np.arange(changed.shape[1]) < 260
    changed[(changed == number) & left] = -1
    clicks = ClickSession(result.image, FloodSegmenter())
    ClipGuidedSession(replace(result, instance_map=changed), clicks)
    prompts = clicks.prompts("box")
    assert prompts.box == tight_box(changed == number) and prompts.box[0] == 260
    assert (decode_rle(prompts.mask_rle) == (changed == number)).all()
    assert clicks.prompts("ball 1").mask_rle is None and clicks.prompts("ball 1").box is None


def test_a_session_on_another_photo_or_a_used_one_is_refused(result):
    with pytest.raises(NbHelpersError, match="another photo"):
        ClipGuidedSession(result, ClickSession(scene()[:100], FloodSegmenter()))
    used = ClickSession(result.image, FloodSegmenter())
    used.click(5, 5)
    with pytest.raises(NbHelpersError, match="already has prompts"):
        ClipGuidedSession(result, used)


def test_saving(result, tmp_path):
    paths = result.save(tmp_path, "garden")
    names = {path.name for path in paths}
    assert {"garden_labels.png", "garden.json", "garden.coco.json", "garden_ball-1_mask.png"} <= names
    about = json.loads((tmp_path / "garden.json").read_text())
    assert about["instances"]["ball"] == 2 and about["prompts"] == result.budget.prompts


def models():
    return {"segmenter": FloodSegmenter(), "text_encoder": FakeTextEncoder()}


@pytest.fixture
def folder(tmp_path):
    for name in ("b10.png", "b9.png"):
        save_image(tmp_path / "in" / name, scene())
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "in"


def test_a_folder_is_worked_through_and_resumed(folder, tmp_path):
    first = models()
    records = run(folder, WORDS, tmp_path / "out", "ball", **first)
    assert [record["photo"] for record in records] == ["b9.png", "b10.png", "broken.jpg"]
    assert records[0]["found"] == 2 and "cannot be read" in records[2]["status"]
    table = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert len(table) == 4 and table[1].startswith("b9.png,done,ball: 2")
    (tmp_path / "out" / "b9.json").unlink()
    save_image(folder / "broken.jpg", scene())
    second = models()
    again = run(folder, WORDS, tmp_path / "out", "ball", **second)
    assert second["segmenter"].encoded == 2 and all(record["status"] == "done" for record in again)


def test_another_run_in_the_same_folder_is_refused(folder, tmp_path):
    run(folder, WORDS, tmp_path / "out", **models())
    with pytest.raises(NbHelpersError, match="another run"):
        run(folder, WORDS[:3], tmp_path / "out", **models())


def test_results_of_another_photo_of_the_same_name_stay(folder, tmp_path, caplog):
    run(folder / "b9.png", WORDS, tmp_path / "out", **models())
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("b9.*")}
    save_image(tmp_path / "other" / "b9.tif", scene()[::-1].copy())
    (record,) = run(tmp_path / "other" / "b9.tif", WORDS, tmp_path / "out", **models())
    assert record["file"] == "b9-2.png" and (tmp_path / "out" / "b9-2.coco.json").is_file()
    assert all(path.read_bytes() == data for path, data in before.items()) and "b9-2" in caplog.text
    again = models()
    (record,) = run(tmp_path / "other" / "b9.tif", WORDS, tmp_path / "out", **again)
    assert record["file"] == "b9-2.png" and again["segmenter"].encoded == 0, "and are found again"


def test_one_picture_does_not_replace_another(folder, tmp_path):
    before = (folder / "b9.png").read_bytes()
    (record,) = run(folder / "b9.png", WORDS, folder / "b9.png", **models())
    assert record["file"] == "b9-2.png" and (folder / "b9.png").read_bytes() == before
    save_image(tmp_path / "c.png", scene()[::-1].copy())
    (record,) = run(tmp_path / "c.png", WORDS, folder / "b9-2.png", **models())
    assert record["file"] == "b9-2-2.png"
    (record,) = run(folder / "b9.png", WORDS, folder / "b9-2.png", **models())
    assert record["file"] == "b9-2.png", "the same photo may be done again"


def test_results_among_the_photos_are_refused(folder):
    with pytest.raises(NbHelpersError, match="among the photos"):
        run(folder, WORDS, folder, **models())


def test_saved_results_of_another_photo_stay(result, tmp_path):
    first = result.save(tmp_path, "garden")
    before = {path: path.read_bytes() for path in first}
    other = ask(scene()[::-1].copy())
    paths = other.save(tmp_path, "garden")
    assert not set(paths) & set(first) and {path.name for path in paths} >= {"garden-2.json", "garden-2_labels.png"}
    assert all(path.read_bytes() == data for path, data in before.items())
    assert result.save(tmp_path, "garden") == first


def test_a_full_disk_stops_a_run_at_once_and_it_goes_on(folder, tmp_path, monkeypatch):
    def fails(path, image):
        raise NbHelpersError("the file cannot be written") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first = models()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "save_image", fails)
        with pytest.raises(NbHelpersError, match="cannot be written"):
            run(folder, WORDS, tmp_path / "out", **first)
    assert first["segmenter"].encoded == 1, "the other photos are not computed in vain"
    records = run(folder, WORDS, tmp_path / "out", **models())
    assert [record.get("file") for record in records] == ["b9.png", "b10.png", None]


def test_a_run_that_was_interrupted_between_two_files_goes_on_under_the_same_name(folder, tmp_path, monkeypatch):
    def interrupted(path, image):
        batch_save(path, image)
        raise KeyboardInterrupt

    batch_save = pipeline.save_image
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "save_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder, WORDS, tmp_path / "out", **models())
    records = run(folder, WORDS, tmp_path / "out", **models())
    assert [record.get("file") for record in records] == ["b9.png", "b10.png", None]


def test_one_photo_becomes_one_picture(folder, tmp_path):
    out = tmp_path / "seen.png"
    (record,) = run(folder / "b9.png", WORDS, out, **models())
    assert out.is_file() and out.with_suffix(".json").is_file() and record["found"] == 6
    with pytest.raises(NbHelpersError, match="need a folder"):
        run(folder, WORDS, out, **models())


def test_pictures_are_found_by_name_folder_and_glob(folder):
    assert [path.name for path in pipeline.photos(folder)] == ["b9.png", "b10.png", "broken.jpg"]
    assert len(pipeline.photos(f"{folder}/b*.png")) == 2
    with pytest.raises(NbHelpersError, match="no such picture"):
        pipeline.photos(folder / "none")


@pytest.fixture
def command(monkeypatch, folder, tmp_path):
    from typer.testing import CliRunner

    from nbhelpers import cli

    loaded = {"segmenter": FloodSegmenter(), "text_encoder": FakeTextEncoder()}
    loaded["detector"] = FakeDetector({"ball": 0.9})
    monkeypatch.setattr("nbhelpers.models.load.load", lambda task, *_: loaded[task])
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, ["clip-guided", "--image", "in/b9.png", *words])


def test_the_command_takes_several_words_after_one_flag(command, tmp_path):
    done = command("--vocabulary", "ball", "box", "lawn", "sky", "lid", "--prompt", "ball", "--output", "o.png", "-v")
    assert done.exit_code == 0, done.output
    assert "2 ball" in done.output and "models: fake-words, flood" in done.output
    assert json.loads((tmp_path / "o.json").read_text())["target"] == "ball"
    done = command("--vocabulary", *WORDS, "--output", "o", "-v", "--detector", "fake-detector")
    assert done.exit_code == 0 and "models: fake-words, flood, fake-detector" in done.output
    assert json.loads((tmp_path / "o" / "run.json").read_text())["models"][2] == "fake-detector"


@pytest.mark.parametrize(
    ("edit", "inside", "outside"), [("remove", (0, 0, 0), None), ("replace", (255, 255, 255), (0, 0, 0))]
)
def test_the_command_edits(command, tmp_path, edit, inside, outside):
    from nbhelpers import load_image

    done = command("--vocabulary", *WORDS, "--target", "box", "--edit", edit, "--output", "o.png")
    assert done.exit_code == 0, done.output
    made = load_image(tmp_path / "o.png")
    assert tuple(made[200, 230]) == inside
    assert tuple(made[20, 20]) == (outside or tuple(scene()[20, 20]))


def test_an_edit_of_nothing_leaves_the_photo_and_is_told(command, tmp_path):
    from nbhelpers import load_image

    done = command("--vocabulary", *WORDS, "dragon", "--target", "dragon", "--edit", "remove", "--output", "o.png")
    assert done.exit_code == 0 and "no dragon was found" in done.output
    assert (load_image(tmp_path / "o.png") == scene()).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--edit", "paint"), "unknown edit"),
        (("--edit", "restyle"), "needs a text prompt"),
        (("--checkpoint", "sam2_hiera_large.pt"), "checkpoint does not exist"),
        (("--min-confidence", "3"), "out of range"),
        (("--target", "dragon"), "not in the vocabulary"),
    ],
)
def test_the_command_tells_what_is_wrong(command, words, says):
    done = command("--vocabulary", *WORDS, *words)
    assert isinstance(done.exception, NbHelpersError) and says in str(done.exception)


@pytest.mark.weights("sam2-hiera-tiny-lite", "conse-lite", "yolox-nano-lite")
def test_on_real_weights_the_cat_is_found():
    from nbhelpers import load, load_image, sample

    image = load_image(sample("chelsea"))
    segmenter, encoder = load("segmenter", "sam2-hiera-tiny-lite", "cpu"), load("text_encoder", "conse-lite", "cpu")
    found = segment(image, ["cat", "background"], "cat", segmenter=segmenter, text_encoder=encoder)
    assert found.mask()[150, 200] and found.budget.saved >= 40


class FarSighted(FakeTextEncoder):
    """Takes the lid for a part of the box, and is not too sure of it, unless it is shown by itself."""

    def dense(self, image, names):
        self.flat = 0.2 if image.shape[0] >= 240 else 0
        if image.shape[0] >= 240:
            image = np.where((image == COLOURS["lid"]).all(2, keepdims=True), COLOURS["box"], image).astype(np.uint8)
        return super().dense(image, names)


def test_a_second_look_corrects_a_word_and_says_so():
    asked = {"segmenter": FloodSegmenter(), "text_encoder": FarSighted()}
    once = segment(scene(), WORDS, settings=ClipGuidedSettings(verify_crops=False), **asked)
    assert "lid" not in once.names and not once.verifications
    twice = segment(scene(), WORDS, **asked)
    lid = twice.names.index("lid")
    assert twice.mask("lid")[150, 260] and not twice.mask("lid")[200, 260] and twice.mask("box")[200, 260]
    verification = twice.verifications[lid]
    assert (
        verification.changed
        and WORDS[verification.prompted_id] == "box"
        and WORDS[verification.class_id] == "lid"
        and verification.probability > 0.9
    )
    assert verification.in_photo < 0.2 and verification.in_crop > 0.9
    assert "crop verification changed 1 of box to lid" in twice.notes
    assert twice.instances.confidence[lid] == pytest.approx(0.9 * verification.probability, abs=0.01)


def test_what_a_second_look_finds_unwanted_is_left_out():
    settings = ClipGuidedSettings(exclude=("lid",))
    asked = {"segmenter": FloodSegmenter(), "text_encoder": FarSighted()}
    result = segment(scene(), ["ball", "box", "lawn", "sky"], settings=settings, **asked)
    assert result.instance_map[150, 260] == -1 and result.mask("box")[200, 260]
    assert "crop verification changed 1 of box to lid" in result.notes


def test_what_surrounds_an_instance_is_blurred_before_it_is_read():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (120, 200, 3), np.uint8)
    mask = np.zeros((120, 200), bool)
    mask[30:90, 60:140] = True
    shown = blur_surroundings(picture, mask)
    assert (shown[40:80, 70:130] == picture[40:80, 70:130]).all()
    assert shown[:15].std() < 0.2 * picture[:15].std()
    assert max(blur_surroundings(np.zeros((10, 3000, 3), np.uint8), np.ones((10, 3000), bool)).shape) == 1024


def test_what_fills_the_photo_is_not_read_again():
    encoder = FakeTextEncoder()
    picture = np.full((120, 160, 3), COLOURS["ball"], np.uint8)
    result = segment(picture, ["ball", "box"], segmenter=FloodSegmenter(), text_encoder=encoder)
    assert result.names == ("ball",) and not result.verifications and len(encoder.asked) == 1


def test_uncovered_places_are_asked_again_within_the_budget():
    everywhere = ClassMap(np.ones((1, 60, 80), np.float32), ("wall",), (480, 640), "fake")
    first = place(everywhere, (0,), ClipGuidedSettings(max_prompts=40))
    assert 0 < len(first.points) <= 20, "half of the points are kept back"
    half = np.zeros((30, 40), bool)
    half[:, :20] = True
    more = add_uncovered(first, half, ClipGuidedSettings(max_prompts=40))
    added = more.points[len(first.points) :]
    assert len(added) and (added[:, 0] > 310).all() and len(more.points) <= 40
    assert len(more.class_ids) == len(more.region_ids) == len(more.points)
    distance = np.linalg.norm(added[:, None] - first.points[None], axis=2)
    assert distance.min() > 640 / 12 / 2 - 3, "places near an asked point are known"
    assert add_uncovered(first, ~half | half, ClipGuidedSettings(max_prompts=40)) is first
    assert add_uncovered(first, half, ClipGuidedSettings(max_prompts=len(first.points))) is first


def test_what_is_too_unsure_at_a_second_look_is_left_out():
    one = MergedInstance(np.ones((4, 4), np.float16), 0, 0.9, 0.9, (0,))
    painted = np.array([[0, 0, 1, 1]], np.int16)
    verifications = {0: CropVerification(0, 0, 0.8, 0.3, 0.6), 1: CropVerification(0, 0, 0.8, 0.9, 0.9)}
    found, dropped = reassign([one, one], painted, verifications, {0: False}, {0: 0.7})
    assert painted.tolist() == [[-1, -1, 1, 1]] and dropped == [verifications[0]] and len(found) == 2
    assert describe([verifications[1]], dropped, ["cat"]) == ["crop verification removed 1 of cat: probability too low"]


def test_parts_of_a_stuff_that_a_second_look_finds_come_together():
    one = MergedInstance(np.ones((4, 4), np.float16), 0, 0.9, 0.9, (0,))
    painted = np.array([[0, 0, 1, 1, -1]], np.int16)
    verifications = {0: CropVerification(0, 1, 0.1, 0.9, 0.8), 1: CropVerification(0, 1, 0.1, 0.9, 0.5)}
    found, dropped = reassign([one, one], painted, verifications, {0: False, 1: True}, {0: 0.7, 1: 0.7})
    assert painted.tolist() == [[0, 0, 0, 0, -1]] and not dropped
    assert found[0].class_id == 1 and found[0].confidence == pytest.approx(0.9 * 0.8)


def test_specks_are_taken_off_but_a_small_instance_stays():
    painted = np.full((40, 40), -1, np.int16)
    painted[5:25, 5:25] = 0
    painted[30:32, 30:32] = 0
    painted[35:37, 2:4] = 1
    remove_specks(painted, 10)
    assert (painted == 0).sum() == 400 and (painted[30:32, 30:32] == -1).all() and (painted == 1).sum() == 4


def detect(words, scores, image=None, encoder=None, synonyms=None, **settings):
    return segment(
        scene() if image is None else image,
        words,
        settings=ClipGuidedSettings(**settings),
        segmenter=FloodSegmenter(),
        text_encoder=encoder or FakeTextEncoder(),
        detector=FakeDetector(scores, synonyms),
    )


class BlindTextEncoder(FakeTextEncoder):
    """Knows nothing but the sky: all other words are as probable as each other."""

    def _near(self, small, name):
        return super()._near(small, name if name == "sky" else "unknown")


def test_a_box_finds_what_the_text_encoder_does_not_know():
    found = detect(["ball", "box"], {"ball": 0.9}, encoder=BlindTextEncoder())
    assert found.names == ("ball 1", "ball 2")
    assert iou(found.mask("ball"), colour_mask(scene(), (60, 160))) > 0.9
    assert set(found.instances.data["evidence"]) == {"detector"}
    boxes = [prompt for prompt in found.prompts if prompt.box is not None]
    assert len(boxes) == 2 and all(prompt.candidate == 0 and prompt.region == -1 for prompt in boxes)
    assert found.summary()["evidence"] == {"detector": 2} and found.models[-1] == "fake-detector"
    assert not detect(["ball", "box"], {"ball": 0.12}, encoder=BlindTextEncoder()).mask("ball").any()
    assert detect(["ball"], {"ball": 0.12}, encoder=BlindTextEncoder()).names == ("ball 1", "ball 2")
    assert not detect(["ball"], {"ball": 0.09}, encoder=BlindTextEncoder()).names


class Sure(FakeDetector):
    """Its boxes have the given scores in turn."""

    def __init__(self, scores, turns):
        super().__init__(scores)
        self.turns = turns

    def detect(self, image, names, min_score=0.1):
        found = super().detect(image, names, min_score)
        found.confidence = np.array([self.turns[own].pop(0) for own in found.data["detected"]], np.float32)
        return found


@pytest.mark.parametrize(("turns", "count"), [([0.3, 0.28], 2), ([0.3, 0.16], 1), ([0.9, 0.4], 1), ([0.9, 0.6], 2)])
def test_a_word_without_a_sure_box_takes_the_best_ones(turns, count):
    detector = Sure({"ball": 1.0}, {"ball": list(turns)})
    found = segment(
        scene(), ["ball", "box"], segmenter=FloodSegmenter(), text_encoder=BlindTextEncoder(), detector=detector
    )
    assert sum(name.startswith("ball") for name in found.names) == count
    assert ('"ball" is uncertain: its best box has a probability of 30%' in found.notes) == (max(turns) < 0.5)


def test_a_word_that_is_asked_for_comes_before_one_that_is_not():
    class Both(FakeDetector):
        """Takes each ball for a box as well, and more so."""

        def detect(self, image, names, min_score=0.1):
            ball = super().detect(image, names, min_score)
            box = ball[:]
            box.confidence, box.class_id = ball.confidence + np.float32(0.2), np.full(len(ball), -1)
            box.data = {key: np.full(len(ball), "box") for key in ball.data}
            import supervision

            return supervision.Detections.merge([box, ball])

    def names(words):
        detector = Both({"ball": 0.6})
        detector.classes = lambda asked: [
            tuple({name} & {"ball", "box"}) for name in (each if isinstance(each, str) else each[0] for each in asked)
        ]
        return segment(
            scene(), words, segmenter=FloodSegmenter(), text_encoder=BlindTextEncoder(), detector=detector
        ).names

    assert names(["ball"]) == ("ball 1", "ball 2")
    assert names(["ball", "box"]) == ("box 1", "box 2")


def test_each_instance_tells_what_found_it():
    found = detect(WORDS, {"ball": 0.9})
    evidence = dict(zip(found.names, found.instances.data["evidence"], strict=True))
    assert evidence["ball 1"] == "both" and evidence["box"] == "text"


def test_boxes_save_points():
    assert detect(WORDS, {"ball": 0.9, "box": 0.9}).budget.prompts < ask().budget.prompts


def test_a_synonym_is_said():
    found = detect(["bauble"], {"ball": 0.9}, synonyms={"bauble": "ball"})
    assert found.names == ("bauble 1", "bauble 2")
    assert 'the detector knows "bauble" as ball' in found.notes


def test_two_words_with_one_meaning_are_said():
    found = detect(["ball", "bauble"], {"ball": 0.9}, synonyms={"bauble": "ball"})
    assert any('merge as "ball|bauble"' in note for note in found.notes)
    joined = detect(["ball|bauble"], {"ball": 0.9}, synonyms={"bauble": "ball"})
    assert joined.mask("ball").any() and not any("join" in note for note in joined.notes)


def test_what_the_detector_sees_and_nobody_asked_for_competes():
    class Generous(FakeTextEncoder):
        """Takes the box's colour for a ball as well."""

        def _near(self, small, name):
            near = super()._near(small, name)
            return np.maximum(near, super()._near(small, "box")) if name == "ball" else near

    alone = detect(["ball"], {"ball": 0.9}, encoder=Generous())
    assert alone.mask("ball")[200, 230]
    found = detect(["ball"], {"ball": 0.9, "box": 0.9}, encoder=Generous())
    assert found.names == ("ball 1", "ball 2") and not found.mask("ball")[200, 230]
    assert found.class_map.names[-1] == "box" and found.vocabulary == ("ball",)


class SpecialistTextEncoder(FakeTextEncoder):
    """Knows crates, and not that they are boxes; what it does not know is nowhere."""

    def _near(self, small, name):
        return super()._near(small, {"crate": "box", "box": "unknown", "person": "unknown"}.get(name, name))


def test_a_kind_that_the_detector_calls_by_its_general_name_is_found():
    found = detect(["crate"], {"box": 0.9}, encoder=SpecialistTextEncoder())
    assert found.class_map.names[-1] == "box", "nobody asked for it, so it competes"
    assert found.names == ("crate",) and iou(found.mask("crate"), colour_mask(scene(), (260, 200))) > 0.8
    assert found.instances.data["evidence"].tolist() == ["both"]
    unlike = detect(["barrel"], {"box": 0.9}, encoder=SpecialistTextEncoder())
    assert not unlike.mask("barrel").any() and unlike.class_map.names[-1] == "box"
    both = detect(["crate", "box"], {"box": 0.9}, encoder=SpecialistTextEncoder())
    assert both.mask("box").any() and not both.mask("crate").any(), "a class that is asked for stands by its score"


def test_who_wears_a_thing_is_not_the_thing(monkeypatch):
    monkeypatch.setitem(COLOURS, "person", COLOURS["box"])
    worn = detect(["crate"], {"person": 0.9}, encoder=SpecialistTextEncoder())
    assert worn.class_map.names[-1] == "person" and not worn.mask("crate").any()
    monkeypatch.setattr("nbhelpers.clip_guided.detection.WEARERS", ())
    assert detect(["crate"], {"person": 0.9}, encoder=SpecialistTextEncoder()).mask("crate").any()


def test_the_text_encoder_decides_between_boxes_of_one_object():
    class Confused(FakeDetector):
        def detect(self, image, names, min_score=0.1):
            found = super().detect(image, names, min_score)
            found.data["detected"] = np.where(found.confidence == np.float32(0.8), "box", found.data["detected"])
            return found

    detector = Confused({"ball": 0.7, "box": 0.6})
    twice = detector.detect(scene(), ["ball", "box"])
    ball = twice[twice.data["detected"] == "ball"]
    wrong = ball[:]
    wrong.confidence, wrong.data["detected"] = wrong.confidence + np.float32(0.1), np.array(["box"] * len(ball))
    import supervision

    detector.detect = lambda *_: supervision.Detections.merge([wrong, ball])
    found = segment(
        scene(), ["ball", "box"], segmenter=FloodSegmenter(), text_encoder=FakeTextEncoder(), detector=detector
    )
    assert found.mask("ball")[160, 60] and not found.mask("box")[160, 60]


def test_elsewhere_a_class_of_the_detector_is_less_probable():
    found = detect(["ball", "box"], {"ball": 0.9})
    ball = found.vocabulary.index("ball")
    assert found.class_map.probabilities[ball].max() > 0.8
    assert found.class_map.probabilities[ball, -1, -1] <= found.text_map.probabilities[ball, -1, -1]
    assert np.allclose(found.class_map.probabilities.sum(0), 1, atol=1e-5)


def test_a_detector_that_cannot_be_had_is_said_once_and_done_without(monkeypatch):
    from nbhelpers.models import load as loading

    def missing(task, *_, **__):
        raise NbHelpersError("the file cannot be fetched")

    monkeypatch.setattr(loading, "load", missing)
    encoder = FakeTextEncoder()
    encoder.name = "conse-lite"
    encoder.nearest = lambda name: [("thing", 1.0)]
    encoder.min_similarity = 0.3
    found = ask(encoder=encoder)
    assert sum("without a detector" in note for note in found.notes) == 1 and "ball 1" in found.names
    assert not any("detector" in note for note in ask(encoder=encoder, detect=False).notes)


def test_an_unknown_word_is_said_to_be_unknown_and_not_searched():
    encoder = FakeTextEncoder()
    encoder.min_similarity = 0.3
    encoder.nearest = lambda name: [("thing", 0.9 if name in COLOURS else 0.1), ("other", 0.1)]
    found = detect(["ball", "zorgblat"], {"box": 0.9}, encoder=encoder)
    (note,) = (note for note in found.notes if "unknown" in note)
    assert '"zorgblat"' in note and "thing" in note and "box" in note
    assert not found.mask("zorgblat").any() and found.mask("ball").any()


def test_a_session_starts_from_boxes_too():
    found = detect(["ball", "box"], {"ball": 0.9}, encoder=BlindTextEncoder())
    clicks = ClickSession(found.image, FloodSegmenter())
    session = ClipGuidedSession(found, clicks)
    assert clicks.objects == ("ball 1", "ball 2") and session.result.names == found.names
    assert set(session.result.instances.data["evidence"]) == {"detector"}
    session.remove(60, 160)
    session.add(260, 200, "box")
    assert dict(zip(session.result.names, session.result.instances.data["evidence"], strict=True))["box"] == "click"
