import json
import multiprocessing
import random
import shutil
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from fake_tracker import Clip, FakeTracker, UnsureTracker

import nbhelpers.models.load
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.prompts import Prompt, PromptLog
from nbhelpers.models.values import Prediction
from nbhelpers.rotoscoping import ClipJob, RotoSession, export_mattes, replay_clip, replay_clips
from nbhelpers.rotoscoping.batch import replay_log


def a_session(count=12, project=None, tracker=None, **how):
    return RotoSession(Clip(count, **how), tracker or FakeTracker(), project=project)


def followed(count=12, **how):
    session = a_session(count, **how)
    session.click(14, 20)
    assert list(session.propagate()) == list(range(1, count))
    return session


def states(session):
    return "".join(session.state(frame)[0] for frame in range(len(session.frames)))


def test_one_click_is_followed_through_the_clip():
    session = followed()
    assert states(session) == "p" + 11 * "t"
    for frame in range(12):
        assert iou(session.mask(frame), session.frames.truth(frame)) > 0.97


def test_each_frame_can_be_seen_as_soon_as_it_is_given_and_the_rest_comes_later():
    session = a_session()
    session.click(14, 20)
    seen = []
    for frame in session.propagate(on_frame=seen.append):
        assert session.mask(frame).any()
        if frame == 5:
            break
    assert seen == [1, 2, 3, 4, 5] and states(session) == "pttttteeeeee"
    assert list(session.propagate()) == list(range(6, 12))
    assert session.tracker.followed == list(range(1, 12))


def test_cancel_ends_with_the_frame_in_the_making():
    session = a_session()
    session.click(14, 20)
    assert list(session.propagate(on_frame=lambda frame: frame == 4 and session.cancel())) == [1, 2, 3, 4]


def test_a_propagation_that_comes_nowhere_is_forgotten(monkeypatch):
    session = a_session()
    session.click(14, 20)
    events = list(session.log.events)
    with monkeypatch.context() as patch:
        patch.setattr(Clip, "__getitem__", lambda *_: (_ for _ in ()).throw(NbHelpersError("it cannot be read")))
        with pytest.raises(NbHelpersError, match="cannot be read"):
            list(session.propagate())
    assert session.log.events == events
    assert list(session.propagate()) == list(range(1, 12))


def test_a_click_in_the_middle_ends_the_propagation():
    session = a_session()
    session.click(14, 20)
    running = session.propagate()
    assert [next(running), next(running)] == [1, 2]
    session.click(60, 47, frame=0)
    assert list(running) == [] and states(session)[:4] == "pooe"


def test_propagation_goes_backwards_over_a_range_and_by_single_steps():
    session = a_session()
    session.go(6)
    session.click(20, 20)
    assert list(session.propagate(6, 3, backwards=True)) == [5, 4, 3]
    assert list(session.propagate(6, 7)) == [7] and list(session.propagate(7, 8)) == [8]
    assert states(session) == "eeetttpttee" + "e"
    assert sorted(session.propagate_all()) == [0, 1, 2, 9, 10, 11]


@pytest.mark.parametrize(
    "arguments", [{"start": 12}, {"stop": -1}, {"start": 4, "stop": 2}, {"backwards": True, "stop": 2}]
)
def test_a_range_that_cannot_be_is_refused_at_once(arguments):
    session = a_session()
    session.click(14, 20)
    with pytest.raises(NbHelpersError):
        session.propagate(**arguments)


def test_nothing_can_be_followed_before_something_is_said():
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        a_session().propagate_all()


def test_a_correction_sticks_and_makes_stale_what_was_followed_from_there():
    session = followed()
    before = session.mask(3).copy()
    session.click(60, 47, frame=5)  # and the blue box
    assert session.mask(5)[47, 60] and session.mask(5)[20, 19]
    assert states(session) == "pttttpoooooo" and not session.mask(6)[47, 60]
    assert list(session.propagate_all()) == list(range(6, 12))
    assert states(session) == "pttttptttttt" and (session.mask(3) == before).all()
    corrected = session.mask(5).copy()
    list(session.propagate(0))
    assert (session.mask(5) == corrected).all()


def test_a_correction_can_be_carried_backwards_up_to_the_prompt_before():
    session = followed()
    session.go(8)
    session.click(60, 47)
    session.click(22, 20, frame=4)
    list(session.propagate_all())
    assert list(session.propagate(8, backwards=True)) == [7, 6, 5]


def test_an_excluding_click_corrects_what_was_tracked_on_that_frame():
    session = followed()
    session.click(1, float(session.mask(7)[:, 0].argmax()), label=0, frame=7)
    assert not session.mask(7)[:, :3].any() and session.mask(7)[20, 21]


def test_undo_and_redo_go_over_everything_and_what_was_followed_is_good_again():
    session = followed()
    masks = [session.mask(frame).copy() for frame in range(12)]
    session.click(60, 47, frame=5)
    session.stroke([(5, 5), (30, 5)], 2, frame=5)
    session.set_matte(MatteSettings(feather=4))
    session.add_object("box")
    session.set_box((50, 40, 70, 55), frame=2)
    session.rename_object("box", "crate")
    session.remove_object("object 1")
    after = session.log.entries()
    while session.undo():
        pass
    assert not session.can_undo and session.objects == ("object 1",) and states(session) == 12 * "e"
    assert session.redo() and states(session) == "p" + 11 * "t"
    assert all((session.mask(frame) == mask).all() for frame, mask in enumerate(masks))
    while session.redo():
        pass
    assert session.log.entries() == after and session.objects == ("crate",)


def test_a_stroke_is_painted_on_the_mask_and_undone():
    session = followed()
    before = session.mask(4).copy()
    session.stroke([(5, 50), (40, 50)], 3, frame=4)
    painted = session.mask(4)
    assert painted[48:53, 5:41].all() and not painted[45].any() and painted[20, 18]
    session.stroke([(18, 20)], 4, erase=True, frame=4)
    assert not session.mask(4)[20, 18] and session.mask(4)[20, 11]
    assert session.undo() and (session.mask(4) == painted).all()
    assert session.undo() and (session.mask(4) == before).all() and session.state(4) == "tracked"


def test_a_stroke_stays_on_top_of_later_clicks():
    session = a_session()
    session.click(14, 20)
    session.stroke([(60, 10)], 3)
    session.click(60, 47)
    mask = session.mask()
    assert mask[10, 60] and mask[47, 60] and mask[20, 14]
    session.remove(1)
    assert session.mask()[10, 60] and not session.mask()[47, 60]


def test_a_painted_mask_is_what_is_followed():
    session = a_session()
    session.stroke([(14, 20)], 7)
    list(session.propagate(0, 2))
    prompt = session._sync.state.prompts[1][0]
    assert (prompt.mask == session.mask(0)).all() and not len(prompt.points)


def test_an_imported_mask_is_taken_as_it_is():
    session = a_session()
    session.set_mask(session.frames.truth(3), frame=3)
    assert (session.mask(3) == session.frames.truth(3)).all()
    with pytest.raises(NbHelpersError, match="another size"):
        session.set_mask(np.ones((3, 3), bool), frame=4)


def test_clear_shows_again_what_was_tracked():
    session = followed()
    before = session.mask(5).copy()
    session.set_box((50, 40, 70, 55), frame=5)
    assert states(session)[5:] == "poooooo"
    session.clear(frame=5)
    assert states(session) == "p" + 11 * "t" and (session.mask(5) == before).all()


def test_points_are_moved_and_removed():
    session = a_session()
    session.click(14, 20)
    disc = session.mask().copy()
    session.click(60, 47)
    session.move(1, 55, 45)
    assert session.prompts().points == ((14, 20), (55, 45))
    assert np.array_equal(session.remove(1).best, disc)


@pytest.mark.parametrize("x, y", [(80, 20), (14, 60), (-2, 5), (float("nan"), 3)])
def test_a_click_outside_is_refused_and_changes_nothing(x, y):
    session = a_session()
    session.click(14, 20)
    before, mask = session.log.to_json(), session.mask().copy()
    with pytest.raises(NbHelpersError):
        session.click(x, y)
    assert session.log.to_json() == before and (session.mask() == mask).all()


def test_a_frame_or_object_that_is_not_there_is_named():
    session = a_session()
    with pytest.raises(NbHelpersError, match="no such frame"):
        session.click(14, 20, frame=12)
    with pytest.raises(NbHelpersError, match="no such object"):
        session.mask(0, "cat")
    assert session.go(99) == 11 and session.go(-1) == 0


def test_objects_are_followed_together_and_a_new_one_does_not_touch_the_others():
    session = followed()
    session.add_object("box")
    session.click(60, 47, frame=6)
    disc = [session.mask(frame, "object 1").copy() for frame in range(12)]
    assert session.active == "box" and session.state(3) == "empty"
    assert sorted(session.propagate_all()) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert all((session.mask(frame, "object 1") == mask).all() for frame, mask in enumerate(disc))
    assert session.mask(0)[47, 60] and not session.mask(0)[20, 14]
    assert set(session.masks(3)) == {"object 1", "box"}


def test_a_new_object_never_takes_over_the_masks_of_one_that_was_undone():
    session = a_session()
    session.add_object("box")
    session.click(60, 47)
    list(session.propagate())
    for _ in range(2):
        session.undo()
    session.add_object("disc")
    session.click(14, 20)
    assert session.state(5) == "empty" and not session.mask(5).any()


def test_an_object_that_is_gone_is_said_to_be_and_comes_back():
    session = followed(gone=(4, 5), count=10)
    assert states(session) == "pttt" + "gg" + "tttt"
    assert not session.mask(4).any() and session.has_mask(4) and session.drift(4).is_doubtful
    assert "vanishes" in session.drift(4).why and session.drift(5).why == "the object is gone"
    session.click(19, 20, frame=5)
    assert session.prompts(frame=5).base_rle is None


def test_drift_tells_a_mask_that_jumps():
    session = followed()
    assert session.next_doubtful(0) is None and session.drift(3).score < 0.5
    assert session.drift(0).why == "predicted from prompts on this frame"
    record = session._project.full(6, 1)
    other = cv2.dilate(session.mask(6).astype(np.uint8), np.ones((25, 25))).astype(bool)
    from nbhelpers.rotoscoping.schedule import drift_score, flow_agreement, to_small_grey

    here, there = to_small_grey(session.image(6)), to_small_grey(session.image(5))
    lost = drift_score(0.95, *flow_agreement(other, here, session.mask(5), there))
    good = drift_score(0.95, *flow_agreement(session.mask(6), here, session.mask(5), there))
    assert lost.is_doubtful and lost.area_jump > 2 and not good.is_doubtful and good.flow_overlap > 0.9
    assert record.tracked.overlap == pytest.approx(good.flow_overlap)


def test_optical_flow_that_follows_the_background_of_thin_parts_says_nothing(monkeypatch):
    from nbhelpers.rotoscoping import schedule

    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 600)).astype(np.uint8), (0, 0), 3)
    noise = cv2.normalize(noise, None, 40, 215, cv2.NORM_MINMAX)

    def frame(shift, x):
        grey, mask = noise[:, 100 - shift : 520 - shift].copy(), np.zeros((300, 420), bool)
        for bar in range(4):
            mask[60:240, x + 22 * bar : x + 22 * bar + 2] = True
        grey[mask] = 250
        return schedule.to_small_grey(np.repeat(grey[:, :, None], 3, 2)), mask

    (there, before), (here, mask) = frame(0, 150), frame(-8, 162)
    other = np.zeros_like(mask)
    other[20:120, 300:380] = True
    assert schedule.flow_agreement(mask, here, before, there) == (None, None)
    assert schedule.flow_agreement(other, here, before, there)[0] == 0.0
    monkeypatch.setattr(schedule, "box_of", lambda mask: None)
    assert schedule.flow_agreement(mask, here, before, there)[0] < 0.5


class Ambiguous(FakeTracker):
    """A click may mean the disc, or a part of it."""

    def candidates(self, state, frame, point):
        whole, _ = self._answer(state.frames[frame], Prompt([point]))
        part = whole & (np.arange(whole.shape[0]) < point[1])[:, None]
        return Prediction(np.where(np.stack([part, whole]), 10, -10).astype(np.float32), np.array([0.8, 0.95], np.float32),
                          whole.shape, whole.shape, choice=1)  # fmt: skip


def test_what_a_click_means_can_be_chosen_and_corrected(tmp_path):
    session = RotoSession(Clip(), Ambiguous(), project=tmp_path / "p")
    assert session.candidates() is None
    with pytest.raises(NbHelpersError, match="no candidate"):
        session.next_candidate()
    whole = session.click(14, 20).best
    assert len(session.candidates()) == 2
    assert session.next_candidate() == 0
    part = session.mask()
    assert part.sum() < whole.sum() and np.array_equal(part, session.candidates().mask(0))
    assert list(session.propagate()) == list(range(1, 12))
    assert RotoSession(Clip(), Ambiguous(), project=tmp_path / "p").state(11) == "tracked"  # it is saved
    again = RotoSession(Clip(), Ambiguous(), project=tmp_path / "p")
    assert np.array_equal(again.mask(0), part)
    assert again.undo() and np.array_equal(again.mask(0), whole)
    assert again.redo() and np.array_equal(again.mask(0), part)
    wider = again.click(60, 47)  # adds the box to the part
    assert wider.best[part].all() and wider.best[45, 60]
    assert again.candidates() is None
    with pytest.raises(NbHelpersError, match="no such candidate"):
        again.choose_candidate(0)


def test_another_candidate_makes_a_frame_doubtful_and_can_be_taken(tmp_path):
    session = RotoSession(Clip(), UnsureTracker(), project=tmp_path / "p")
    session.click(14, 20)
    assert list(session.propagate()) == list(range(1, 12))
    assert session.next_doubtful(0) == 5 and "looks the same may be the object (30%)" in session.drift(5).why
    other = session.other_candidate(5)
    assert np.array_equal(other, np.roll(session.mask(5), 12, 0))
    assert session.other_candidate(4) is None
    with pytest.raises(NbHelpersError, match="no other candidate"):
        session.take_other(4)
    again = RotoSession(Clip(), UnsureTracker(), project=tmp_path / "p")  # a reopened project knows it
    assert again.next_doubtful(0) == 5
    assert np.array_equal(again.take_other(5).best, other)
    assert again.state(5) == "prompted" and np.array_equal(again.mask(5), other)
    assert again.state(6) == "outdated" and not again.drift(5).is_doubtful
    assert again.other_candidate(5) is None


def test_a_draft_is_a_quick_look_and_tracked_again_for_the_full_quality(tmp_path, caplog):
    tracker = FakeTracker()
    session = RotoSession(Clip(), tracker, project=tmp_path / "p", quality="draft")
    session.click(14, 20)
    assert list(session.propagate()) == list(range(1, 12))
    assert tracker.followed == [0, 3, 6, 9, 11]  # those between are interpolated
    assert all(session.is_draft(frame) for frame in range(1, 12)) and not session.is_draft(0)
    assert all(iou(session.mask(frame), Clip().truth(frame)) > 0.85 for frame in range(12))
    assert list(session.propagate_all()) == []  # a draft is good enough for a draft
    session.export(tmp_path / "e", ["mattes"])
    assert "11 of 12 frames are drafts, the first is 1" in caplog.text
    del session
    again = RotoSession(Clip(), FakeTracker(), project=tmp_path / "p")  # full, and the project knows what is a draft
    assert again.quality == "full" and again.is_draft(4) and again.state(4) == "tracked"
    assert list(again.propagate(3, 5)) == [3, 4, 5]
    assert [frame for frame in range(12) if again.is_draft(frame)] == [1, 2, *range(6, 12)]
    again.quality = "draft"
    assert list(again.propagate_all()) == []  # what is better than a draft stays
    again.quality = "full"
    assert list(again.propagate_all()) == [1, 2, *range(6, 12)] and not any(map(again.is_draft, range(12)))
    straight = RotoSession(Clip(), FakeTracker())
    straight.click(14, 20)
    list(straight.propagate())
    assert all((again.mask(frame) == straight.mask(frame)).all() for frame in range(3))
    with pytest.raises(NbHelpersError, match=r"(?s)unknown quality.*full or draft"):
        again.quality = "rough"


def test_a_draft_ends_and_goes_on_at_any_frame_and_goes_backwards():
    session = RotoSession(Clip(), FakeTracker(), quality="draft")
    session.click(24, 20, frame=10)
    running = session.propagate(10, 0, backwards=True)
    assert [next(running) for _ in range(4)] == [9, 8, 7, 6]  # 7 and 4 are tracked
    running.close()
    assert states(session)[:6] == "eeeeee"
    assert list(session.propagate(10, 0, backwards=True)) == [5, 4, 3, 2, 1, 0] and list(session.propagate()) == [11]
    assert all(iou(session.mask(frame), Clip().truth(frame)) > 0.8 for frame in range(12))
    session.click(14, 20, frame=4)  # corrected: up to there frames are outdated
    assert list(session.propagate_all()) == [3, 2, 1, 0] and all(map(session.is_draft, range(4)))


def test_a_draft_replays_as_one_and_a_full_replay_tracks_it_again(tmp_path):
    session = RotoSession(Clip(), FakeTracker(), project=tmp_path / "p", quality="draft")
    session.click(14, 20)
    list(session.propagate(0, 7))
    log = PromptLog.open(session.project / "prompts.json")
    trackers = {quality: FakeTracker() for quality in ("draft", "full")}
    for quality, tracker in trackers.items():
        replay_clip(Clip(), log, tmp_path / quality, tracker=tracker, quality=quality)
    draft, full = (RotoSession(Clip(), FakeTracker(), project=tmp_path / each / "project") for each in trackers)
    assert all((draft.mask(frame) == session.mask(frame)).all() for frame in range(8))
    assert all(map(draft.is_draft, range(1, 12))) and not any(map(full.is_draft, range(12)))
    assert len(trackers["draft"].followed) < len(trackers["full"].followed)


def test_the_next_doubtful_frame_is_found_round_the_end():
    session = followed(gone=(4, 5), count=10)
    assert session.next_doubtful(0) == 4 and session.next_doubtful(4) == 4 and session.next_doubtful(8) == 4


def test_mattes_are_adjusted_after_the_fact_and_each_object_on_its_own():
    session = followed(count=4)
    hard = session.matte(2)
    assert set(np.unique(hard)) == {0, 255}
    session.set_matte(MatteSettings(grow=2, feather=4))
    assert session.matte(2).sum() > hard.sum() and len(np.unique(session.matte(2))) > 3
    session.add_object("box")
    session.set_box((50, 40, 70, 55))
    assert set(session.mattes().make_each(0)) == {"object 1", "box"}
    assert session.mattes().make(0)[47, 60] == 255 and session.matte(0, "object 1")[47, 60] == 0
    assert session.undo() and session.undo() and session.undo() and session.matte_settings() == MatteSettings()


def test_listeners_hear_of_steps_until_they_stop():
    session, heard = a_session(), []
    stop = session.on_change(lambda: heard.append(session.frame))
    session.go(3)
    session.click(17, 20)
    stop()
    session.go(4)
    assert heard == [3, 3]


def test_a_clip_of_one_frame_has_a_mask_and_nothing_to_follow(tmp_path):
    session = a_session(1)
    session.click(14, 20)
    assert list(session.propagate()) == [] and list(session.propagate_all()) == []
    assert [str(report) for report in session.export(tmp_path, ["mattes"])]


def test_a_project_is_gone_on_with(tmp_path):
    session = followed(project=tmp_path / "disc")
    session.click(60, 47, frame=5)
    masks = [session.mask(frame).copy() for frame in range(12)]
    again = a_session(project=tmp_path / "disc")
    assert states(again) == "pttttpoooooo" and all((again.mask(i) == mask).all() for i, mask in enumerate(masks))
    assert again.tracker.added == [] and list(again.propagate_all()) == list(range(6, 12))
    assert again.undo() and again.undo() and not again.can_undo
    assert (tmp_path / "disc" / "prompts.json").exists()


def test_a_project_without_a_folder_leaves_nothing_behind():
    session = followed(4)
    folder = session.project
    assert (folder / "prompts.json").exists()
    del session
    import gc

    gc.collect()
    assert not folder.exists()


def test_a_project_or_log_of_another_clip_or_model_is_refused(tmp_path):
    followed(project=tmp_path / "disc")
    log = tmp_path / "disc" / "prompts.json"
    with pytest.raises(NbHelpersError, match="another clip"):
        a_session(13, project=tmp_path / "disc")
    with pytest.raises(NbHelpersError, match="another clip"):
        replay_clip(Clip(12, gone=(3,)), log, tmp_path / "out", tracker=FakeTracker())
    with pytest.raises(NbHelpersError, match="another model"):
        a_session(project=tmp_path / "disc", tracker=FakeTracker(name="other"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    with pytest.raises(NbHelpersError, match="other files"):
        a_session(project=tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("file, text", [("project.json", "{"), ("prompts.json", "[]"), ("masks/00003.json", "{}")])
def test_a_damaged_project_is_one_clear_error(file, text, tmp_path):
    followed(project=tmp_path / "disc")
    (tmp_path / "disc" / file).write_text(text)
    with pytest.raises(NbHelpersError):
        a_session(project=tmp_path / "disc")


def test_a_damaged_memory_costs_only_some_following(tmp_path):
    session = a_session(project=tmp_path / "disc")
    session.click(14, 20)
    list(session.propagate(0, 6))
    for path in (tmp_path / "disc" / "memory").iterdir():
        path.write_bytes(b"torn")
    again = a_session(project=tmp_path / "disc")
    assert list(again.propagate_all()) == [7, 8, 9, 10, 11]
    assert again.tracker.added == [(1, 0)] and again.tracker.followed == list(range(1, 12))


def test_a_tracker_that_cannot_be_saved_follows_a_few_frames_again():
    session = a_session(40, tracker=FakeTracker(saves=False))
    session.click(14, 20)
    list(session.propagate(0, 30))
    session.tracker.followed.clear()
    session._sync._memory.clear()
    assert list(session.propagate_all()) == list(range(31, 40))
    assert session.tracker.followed == list(range(15, 40))


def a_log(tmp_path, count=60):
    """A log with two objects, a correction and a stroke between propagations, and the masks that came of it."""
    session = a_session(count, project=tmp_path / "by hand")
    session.click(14, 20)
    list(session.propagate(0, count // 2))
    session.add_object("box")
    session.set_box((50, 40, 70, 55), frame=3)
    list(session.propagate(3, count // 3))
    session.click(60, 47, name="object 1", frame=count // 4)
    session.click(3, 3)
    session.undo()
    list(session.propagate_all())
    session.stroke([(40, 5)], 2, name="object 1", frame=count - 10)
    list(session.propagate_all())
    return session


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "masks").iterdir())}


def test_a_log_replays_to_the_same_masks(tmp_path):
    session = a_log(tmp_path, 20)
    outcome = replay_clip(
        Clip(20), session.project / "prompts.json", tmp_path / "out", ["colmap", "coco"], tracker=FakeTracker()
    )
    again = RotoSession(Clip(20), FakeTracker(), project=tmp_path / "out" / "project")
    for name in session.objects:
        for frame in range(20):
            assert (again.mask(frame, name) == session.mask(frame, name)).all() and again.state(
                frame, name
            ) != "outdated"
    assert len(outcome.reports) == 2 and all("all good" in report for report in outcome.reports)
    assert len(list((tmp_path / "out" / "colmap").glob("*.png"))) == 20
    second = replay_clip(
        Clip(20), session.project / "prompts.json", tmp_path / "out", ["colmap"], tracker=FakeTracker()
    )
    assert second.tracked == 0


def test_a_log_without_propagations_is_followed_all_the_same(tmp_path):
    log = PromptLog(followed(8).log.image, "fake-tracker")
    log.append("object.add", object="disc")
    log.append("point.add", object="disc", frame=2, x=16, y=20, label=1)
    assert replay_clip(Clip(8), log, tmp_path / "out", tracker=FakeTracker()).tracked == 7


class TwoShots(Clip):
    """Half way through, another picture altogether."""

    def __getitem__(self, index):
        if index < self.count // 2:
            return super().__getitem__(index)
        rows, columns = np.mgrid[:60, :80]
        return np.stack([columns * 3, 255 - rows * 4, (rows * columns) % 255], axis=2).astype(np.uint8)


def test_a_cut_in_the_clip_is_told_with_where_to_split(tmp_path, caplog):
    clip = TwoShots(24)
    session = RotoSession(clip, FakeTracker())
    session.click(14, 20)
    assert session.cuts() == [12]
    outcome = replay_clip(clip, session.log, tmp_path / "out", tracker=FakeTracker())
    assert 12 in outcome.doubtful["object 1"] and "split the clip there: start=12" in caplog.text


def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch):
    session = followed(6, project=tmp_path / "disc")
    before = session.log.to_json()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(NbHelpersError, match="cannot be written"):
            session.click(60, 47, frame=3)
        assert session.log.to_json() == before
        with pytest.raises(NbHelpersError, match="cannot be written"):
            session.undo()
        assert session.log.to_json() == before and states(session) == "pttttt"
    session.click(60, 47, frame=3)
    assert states(session) == "pttpoo" and states(a_session(6, project=tmp_path / "disc")) == "pttpoo"


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ({"op": "point.add", "object": "object 1", "x": 14.0, "y": 20.0, "label": 1}, "names no frame"),
        ({"op": "candidate.set", "object": "object 1", "frame": 0, "index": 0}, "there are none"),
    ],
)
def test_a_log_with_a_step_that_cannot_be_is_one_clear_error(step, match):
    session = a_session()
    session.click(14, 20)
    with pytest.raises(NbHelpersError, match=match):
        list(a_session().replay([*session.log.events, step]))


def test_a_replay_into_a_project_with_other_prompts_is_refused(tmp_path):
    log = followed(8).log
    other = a_session(8, project=tmp_path / "out" / "project")
    other.click(60, 47)
    with pytest.raises(NbHelpersError, match="already has other prompts"):
        replay_clip(Clip(8), log, tmp_path / "out", tracker=FakeTracker())
    empty = a_session(8).log
    with pytest.raises(NbHelpersError, match="no prompts"):
        replay_clip(Clip(8), empty, tmp_path / "out2", tracker=FakeTracker())


class Noting(FakeTracker):
    """Notes in a file which frame it follows, so that what a killed process did is known."""

    def __init__(self, notes):
        super().__init__(seconds=0.004)
        self.notes = notes

    def _track(self, state, frame, step):
        tracked = super()._track(state, frame, step)
        with self.notes.open("a") as file:
            file.write(f"{frame} {sorted(state.prompts[1])} {sorted(state.prompts.get(2, ()))} {step}\n")
        return tracked


def work(project, log, notes):
    session = RotoSession(Clip(60), Noting(notes), project=project)
    for _ in replay_log(session, PromptLog.open(log)):
        pass


def test_twenty_kills_tear_nothing_and_cost_one_frame_each(tmp_path):
    log = a_log(tmp_path).project / "prompts.json"
    work(tmp_path / "undisturbed", log, tmp_path / "undisturbed.txt")
    usual = Counter((tmp_path / "undisturbed.txt").read_text().splitlines())
    right = contents(tmp_path / "undisturbed")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_rotoscoping", "torch", "pycocotools.mask"])
    chance, kills, project, notes = random.Random(4), 0, tmp_path / "killed", tmp_path / "killed.txt"
    lost = 0
    while True:
        child = context.Process(target=work, args=(project, log, notes))
        child.start()
        while not (project / "prompts.json").exists() and child.is_alive():
            time.sleep(0.002)
        child.join(chance.uniform(0.02, 0.3) if kills < 20 else 60)
        if child.is_alive():
            child.kill()
            child.join()
            kills += 1
            lost += 1
            PromptLog.open(project / "prompts.json")
            for path in (project / "masks").glob("[0-9]*.json"):
                json.loads(path.read_text())
            continue
        assert child.exitcode == 0
        assert contents(project) == right
        again = Counter(notes.read_text().splitlines()) - usual
        assert sum(again.values()) <= lost, again
        if kills >= 20:
            break
        shutil.rmtree(project)
        notes.unlink()
        lost = 0


def a_folder(path, clip):
    path.mkdir()
    for index in range(len(clip)):
        cv2.imwrite(str(path / f"IMG_{index + 1}.png"), clip[index][:, :, ::-1])
    return path


def test_an_export_beside_the_originals_leaves_them_and_the_clip_as_they_were(tmp_path):
    folder = a_folder(tmp_path / "footage", Clip(3))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    session = RotoSession(folder, FakeTracker(), project=tmp_path / "project")
    session.click(14, 20)
    list(session.propagate())
    reports = session.export(formats="postshot")
    assert reports[0].ok and (folder / "IMG_2_matte.png").exists()
    assert all(path.read_bytes() == data for path, data in before.items())
    again = RotoSession(folder, FakeTracker(), project=tmp_path / "project")
    assert len(again.frames) == 3 and again.state(2) == "tracked"


def test_an_export_of_another_clip_goes_into_a_folder_of_its_own(tmp_path, caplog):
    first, second = followed(4), followed(5)
    first.export(tmp_path, ["mattes", "coco"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    second.export(tmp_path, ["mattes", "coco"], replace=True)
    assert all(path.read_bytes() == data for path, data in before.items()) and "mattes-2" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"mattes", "mattes-2", "coco", "coco-2"}
    assert len(list((tmp_path / "mattes-2").glob("*.png"))) == 5
    second.export(tmp_path, ["mattes"])
    assert not (tmp_path / "mattes-3").exists()


def test_exports_are_verified_and_nothing_of_other_origin_is_overwritten(tmp_path):
    session = followed(4)
    session.add_object("box")
    session.set_box((50, 40, 70, 55))
    list(session.propagate_all())
    kinds = ["postshot", "colmap", "nerfstudio", "mattes", "rgba", "coco", "overlay"]
    reports = session.export(tmp_path / "out", kinds)
    assert [report.ok for report in reports] == 7 * [True]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(kinds)
    apart = session.export(formats={"mattes": tmp_path / "apart"}, apart=True)
    assert len(apart) == 2 and {path.name for path in (tmp_path / "apart").iterdir()} == {"object-1", "box"}
    with pytest.raises(NbHelpersError, match="other masks"):
        session.set_matte(MatteSettings(grow=3))
        session.export(tmp_path / "out", ["mattes"])
    assert session.export(tmp_path / "out", ["mattes"], replace=True)[0].ok
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000001.png").write_bytes(b"mine")
    with pytest.raises(NbHelpersError, match="did not write"):
        session.export(formats={"mattes": tmp_path / "mine"})
    assert (tmp_path / "mine" / "000001.png").read_bytes() == b"mine"


def test_an_export_that_cannot_be_is_told_at_once(tmp_path, caplog):
    session = a_session(4)
    nameless = Mattes(session.frames, lambda _: np.ones((60, 80), bool))
    with pytest.raises(NbHelpersError, match="name no objects"):
        export_mattes(nameless, tmp_path, ["mattes"], {"name": "drawn", "signature": "1"}, apart=True)
    with pytest.raises(NbHelpersError, match="no mask"):
        session.export(tmp_path, ["colmap"])
    session.click(14, 20)
    with pytest.raises(NbHelpersError, match="unknown export format"):
        session.export(tmp_path, ["polaroid"])
    with pytest.raises(NbHelpersError, match="folder"):
        session.export(formats=["colmap"])
    session.export(tmp_path, ["mattes"])
    assert "3 of 4 frames" in caplog.text


def test_many_clips_are_worked_through_and_one_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(nbhelpers.models.load, "load", lambda *_: FakeTracker())
    jobs = []
    for name in ("a", "b"):
        folder = a_folder(tmp_path / name, Clip(4))
        session = RotoSession(folder, FakeTracker(), project=tmp_path / f"{name} by hand")
        session.click(14, 20)
        jobs.append(ClipJob(folder, session.project / "prompts.json", tmp_path / "out" / name))
    (tmp_path / "b" / "IMG_4.png").unlink()
    done = []
    outcomes = replay_clips(jobs, ["colmap"], on_done=done.append)
    assert done == outcomes and outcomes[0].tracked == 3 and outcomes[0].error == ""
    assert "another clip" in outcomes[1].error
    with pytest.raises(NbHelpersError, match="same output folder"):
        replay_clips([jobs[0], jobs[0]])


@pytest.mark.filterwarnings("ignore")  # Dask's own, and pycocotools in its threads
def test_many_clips_are_worked_through_by_dask(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(nbhelpers.models.load, "load", lambda *_: FakeTracker())
    jobs = []
    for name in ("a", "b", "c"):
        session = RotoSession(a_folder(tmp_path / name, Clip(4)), FakeTracker(), project=tmp_path / f"{name} by hand")
        session.click(14, 20)
        jobs.append(ClipJob(tmp_path / name, session.project / "prompts.json", tmp_path / "out" / name))
    local = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    done = []
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        outcomes = replay_clips(jobs, ["mattes"], client=client, on_done=done.append)
    assert [outcome.tracked for outcome in outcomes] == [3, 3, 3] and len(done) == 3
    assert [outcome.clip for outcome in outcomes] == [str(job.clip) for job in jobs]
    assert all("all good" in outcome.reports[0] for outcome in outcomes)


def test_commands_extract_and_run(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    import nbhelpers.models.load
    from nbhelpers.cli import rotoscoping_app as app

    monkeypatch.setattr(nbhelpers.models.load, "load", lambda *_: FakeTracker())
    folder = a_folder(tmp_path / "footage", Clip(6))
    runner = CliRunner()
    result = runner.invoke(app, ["extract", str(folder), "--output", str(tmp_path / "few"), "--every", "2"])
    assert result.exit_code == 0 and "3 frames" in result.output and len(list((tmp_path / "few").glob("*.png"))) == 3
    session = RotoSession(tmp_path / "few", FakeTracker(), project=tmp_path / "by hand")
    session.click(14, 20)
    arguments = ["run", str(tmp_path / "few"), "--prompts", str(tmp_path / "by hand" / "prompts.json")]
    result = runner.invoke(app, [*arguments, "--export", "postshot,colmap", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0 and "2 tracked now" in result.output and result.output.count("all good") == 2
    result = runner.invoke(app, [*arguments, "--quality", "draft", "--output", str(tmp_path / "quick")])
    assert result.exit_code == 0 and "a draft: run it again with --quality full" in result.output
    result = runner.invoke(app, [*arguments, "--export", "polaroid", "--output", str(tmp_path / "out")])
    assert isinstance(result.exception, NbHelpersError)


def sam2(photo):
    from moving_photo import MovingPhoto
    from test_sam2_video import small

    return MovingPhoto(photo, 12), small("2.1")


def lite(_):
    from test_label_propagation import Clip, ColourSegmenter

    from nbhelpers.models.label_propagation import LabelPropagation

    return Clip(hidden=(8,)), LabelPropagation(ColourSegmenter())


@pytest.mark.parametrize("make", [sam2, lite])
def test_a_session_that_is_opened_anew_for_each_step_ends_with_the_same_masks(make, tmp_path, photo):
    clip, tracker = make(photo)
    steps = [
        lambda session: session.click(24, 30),
        lambda session: list(session.propagate(0, 3)),
        lambda session: list(session.propagate(0, 6)),
        lambda session: session.click(60, 75, frame=4),
        lambda session: list(session.propagate(4, 7)),
        lambda session: session.add_object("box"),
        lambda session: session.set_box((40, 60, 80, 88), frame=2),
        lambda session: list(session.propagate(4, 2, backwards=True)),
        lambda session: next(session.propagate_all()),
        lambda session: session.stroke([(20, 60), (30, 60)], 4, frame=9, name="box"),
        lambda session: list(session.propagate_all()),
    ]
    if make is lite:  # remembers all that it followed
        steps[5:5] = [lambda session: session.click(36, 30, label=0, frame=3), lambda session: session.undo()]
    session = RotoSession(clip, tracker, project=tmp_path / "at once")
    for number, step in enumerate(steps):
        step(session)
        step(RotoSession(clip, tracker, project=tmp_path / "anew"))
        assert contents(tmp_path / "anew") == contents(tmp_path / "at once"), number
    assert states(session) == states(RotoSession(clip, tracker, project=tmp_path / "anew"))


def test_points_of_the_command_line_are_a_prompt_log(tmp_path):
    from nbhelpers.rotoscoping.batch import log_of_points, replay_clip

    clip = Clip()
    log = log_of_points(clip, FakeTracker().name, [(None, 14.0, 20.0, 1), (0, 60.0, 47.0, 0)])
    assert replay_clip(clip, log, tmp_path, tracker=FakeTracker()).tracked > 0
    with pytest.raises(NbHelpersError, match="no such frame"):
        log_of_points(clip, "fake", [(99, 1.0, 1.0, 1)])
    with pytest.raises(NbHelpersError, match="outside"):
        log_of_points(clip, "fake", [(0, 999.0, 1.0, 1)])
