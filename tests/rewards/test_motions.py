import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.motions import NAMES, PRIMITIVES, confusable, fidelity, observation, opposite, stated_motion


def test_every_motion_has_its_own_observation():
    assert len(PRIMITIVES) == len(NAMES) == len({observation(motion) for motion in PRIMITIVES}) == 15
    for motion in PRIMITIVES:
        assert stated_motion(observation(motion)) == motion


def test_opposite_and_confusable_go_both_ways():
    for motion in set(PRIMITIVES) - {"static"}:
        assert opposite(opposite(motion)) == confusable(confusable(motion)) == motion
        assert motion not in (opposite(motion), confusable(motion))
    assert opposite("static") is confusable("static") is None
    assert confusable("pan_left") == "truck_left"
    assert confusable("dolly_out") == "zoom_out"
    assert confusable("roll_cw") == opposite("roll_cw") == "roll_ccw"


def test_look_alikes_differ_by_parallax_alone():
    for motion in ("pan_left", "tilt_up", "zoom_in"):
        one, other = observation(motion), observation(confusable(motion))
        assert one.split(",")[0] == other.split(",")[0]


def test_stated_motion_reads_through_case_space_and_other_words():
    assert stated_motion("It seems the PICTURE slides\n right; near  more than far!") == "truck_left"
    assert stated_motion("turns counterclockwise") == "roll_cw"


def test_stated_motion_takes_no_contradiction_and_no_half_statement():
    for text in (
        "",
        "A red box.",
        "The picture slides right.",
        "The picture slides right and slides left, near and far alike.",
        "The picture grows, near and far alike, near more than far.",
        "The picture stays still, near and far alike.",
        "The picture landslides right, near and far alike.",
    ):
        assert stated_motion(text) is None, text


@given(st.text())
def test_stated_motion_takes_any_text(text):
    assert stated_motion(text) in (None, *PRIMITIVES)


def test_fidelity_is_whole_for_the_true_observation_alone():
    for motion in PRIMITIVES:
        for said in PRIMITIVES:
            assert (fidelity(observation(said), motion) == 1) == (said == motion)
            assert fidelity(observation(said, terse=True), motion) in (0, 0.5, 1)


@given(st.lists(st.sampled_from([*map(observation, PRIMITIVES), "A red box.", "near and far alike"]), max_size=3))
def test_fidelity_is_one_where_the_text_states_the_motion(said):
    text = " ".join(said)
    for motion in PRIMITIVES:
        assert (fidelity(text, motion) == 1) == (stated_motion(text) == motion)


def test_a_clause_is_true_where_nothing_else_is_stated():
    assert fidelity("It slides right.", "truck_left") == 0.5
    assert fidelity("It slides right, near and far alike.", "truck_left") == 0.5
    assert fidelity("It slides right, near and far alike, near more than far.", "truck_left") == 0.5
    assert fidelity("It slides right and left: slides left, near more than far.", "truck_left") == 0.5
    assert fidelity("It stays still, near and far alike.", "static") == 0.5
    assert fidelity("", "truck_left") == fidelity("", "static") == 0
    with pytest.raises(ValueError, match="choose from static"):
        fidelity("It grows.", "zoom")
