"""The plan, which is pure: what there is time for, and that it says why."""

from __future__ import annotations

from dataclasses import asdict, replace
from json import dumps, loads

from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.errors import SaveError, TransientError
from asyncckpt.events import Durable, Failed
from asyncckpt.preemption.plan import LEAST, SAFETY, Flight, Plan, Situation, hangs_in, plan, sentence
from asyncckpt.preemption.speed import Speed, Speedometer
from asyncckpt.preemption.stop import closable, plan_of, usable

MEGA = 1 << 20
SIZES = {"model": 100 * MEGA, "optimizer": 200 * MEGA, "rng": MEGA, "extra": 50 * MEGA}
SPEED = Speed(rate=10.0 * MEGA)


def decide(left: float, *flights: Flight, **more: object) -> Plan:
    return plan(Situation(9, left, SIZES, flights, **{"speed": SPEED, **more}))


def test_what_there_is_time_for_is_done_best_first() -> None:
    whole = SAFETY * 35.1
    assert decide(whole) == Plan("save", seconds=whole, fits=True)
    assert decide(whole - 1).action == "weights"
    assert decide(whole - 1).leaves_out == ("extra",)
    assert decide(SAFETY * 30.1 - 1).leaves_out == ("optimizer", "extra")
    assert decide(SAFETY * 10.1).leaves_out == ("optimizer", "extra")


def test_nothing_is_done_for_a_step_that_is_saved_and_a_save_of_it_is_waited_for() -> None:
    assert decide(100, saved=9).action == "nothing"
    assert decide(100, saved=9, asked=True).action == "save"
    assert decide(100, Flight(9, 351 * MEGA, 1.0)).action == "finish"
    assert decide(100, Flight(9, 351 * MEGA, 1.0), asked=True).action == "save"


def test_within_a_step_what_was_saved_of_it_is_older_and_better_than_a_part() -> None:
    under_way = Flight(9, 351 * MEGA, 40.0)
    assert decide(100, saved=9, within=True).action == "save"
    assert decide(100, under_way, within=True).action == "save"
    rest = SAFETY * 35.1 / 10
    assert decide(rest, under_way, within=True) == Plan("finish", seconds=rest, fits=True)
    assert decide(rest, under_way, asked=True).action != "finish"


def test_a_save_under_way_is_finished_before_given_up_for_or_preferred_to_a_part() -> None:
    begun, queued = Flight(7, 351 * MEGA, 40.0), Flight(8, 351 * MEGA)
    rest = SAFETY * 35.1 / 10
    whole = SAFETY * 35.1
    everything = decide(rest + 2 * whole, begun, queued)
    assert (everything.action, everything.takes_over, everything.gives_up) == ("save", False, False)
    after = decide(rest + whole, begun, queued)
    assert (after.action, after.takes_over, after.gives_up) == ("save", True, False)
    alone = decide(whole, begun, queued)
    assert (alone.action, alone.takes_over, alone.gives_up) == ("save", True, True)
    finish = decide(whole - 1, begun, queued)
    assert (finish.action, finish.takes_over, finish.gives_up, finish.fits) == ("finish", True, False, True)
    nearly = decide(rest, begun)
    assert (nearly.action, nearly.takes_over) == ("finish", False)
    part = decide(SAFETY * 10.1, Flight(7, 351 * MEGA, 0.0))
    assert (part.action, part.gives_up) == ("weights", True)


def test_what_is_written_may_keep_memory_until_it_hangs_or_there_would_be_no_time_left() -> None:
    whole = SAFETY * 35.1
    flight = Flight(7, 351 * MEGA, 40.0)
    after = decide(3 * whole, flight)
    assert (after.action, after.gives_up, after.waits) == ("save", False, 2 * whole)
    assert decide(100 * whole, flight).waits == 3 * whole - 40.0
    assert decide(100 * whole, flight, Flight(8, 351 * MEGA)).waits == 3 * whole - 40.0
    assert hangs_in([flight, Flight(8, MEGA, 0.5)], SPEED) == LEAST - 0.5
    for nobody in (decide(100 * whole), decide(100, flight, speed=None)):
        assert nobody.waits is None
    assert decide(100 * whole, replace(flight, is_near=True)).waits is None
    assert hangs_in([flight], None) is None


def test_what_was_not_heard_to_be_begun_may_keep_memory_as_if_it_began_now() -> None:
    whole = SAFETY * 35.1
    unheard, next_one = Flight(7, 351 * MEGA), Flight(8, MEGA)
    assert hangs_in([unheard, next_one], SPEED) == 3 * whole
    assert hangs_in([replace(unheard, is_near=True), next_one], SPEED) == LEAST
    assert decide(100 * whole, unheard).waits == 3 * whole
    assert decide(3 * whole, unheard).waits == 2 * whole


def test_a_save_that_hangs_is_not_taken_for_one_that_is_nearly_done() -> None:
    expected = SAFETY * 35.1
    late, hung = Flight(7, 351 * MEGA, 2.9 * expected), Flight(7, 351 * MEGA, 3.1 * expected)
    assert decide(0.2 * expected, late).action == "finish"
    for left in (0.2, 2, 200):
        given_up = decide(left * expected, hung)
        assert (given_up.action, given_up.gives_up, given_up.first) == ("save", True, ("optimizer", "extra"))
    assert given_up.reasons[1] == f"step 7 has been written for {hung.elapsed:.1f} s"
    assert sentence(given_up).endswith("and then the whole state, in place of what is being written")
    assert decide(4 * expected, replace(hung, step=9)).action == "finish"
    assert decide(3 * expected, replace(hung, step=9)).gives_up


def test_what_is_alone_takes_nobodys_place() -> None:
    assert not decide(SAFETY * 10.1).gives_up
    assert not decide(1, local=Speed(rate=1000.0 * MEGA)).gives_up
    assert "in place of" not in sentence(decide(0.5))


def test_a_nearer_tier_comes_before_a_part_and_after_an_older_whole_state() -> None:
    local = Speed(rate=1000.0 * MEGA)
    assert decide(1, local=local).action == "local"
    assert decide(40, Flight(7, 351 * MEGA, 40.0), local=local).action == "finish"


def test_a_nearer_tier_that_has_not_got_what_it_should_have_by_now_is_not_counted_on() -> None:
    local = Speed(rate=1000.0 * MEGA)
    late, landed = Flight(7, 351 * MEGA, 2.0), Flight(7, 351 * MEGA, 2.0, is_near=True)
    assert decide(1, landed, local=local).action == "local"
    assert decide(1, late, local=local).action == "weights"
    hung = Flight(7, 351 * MEGA, 3.1 * SAFETY * 35.1, is_near=True)
    assert not decide(30, hung, local=local).first
    assert decide(30, replace(hung, is_near=False), local=local).first


def test_where_nothing_fits_the_quickest_is_tried_and_that_is_said() -> None:
    found = decide(0.5)
    assert (found.action, found.leaves_out, found.fits) == ("weights", ("optimizer", "extra"), False)
    assert found.reasons[-1].startswith("nothing is in time; what takes least is tried")
    assert len(found.reasons) == 5
    assert found.reasons[0] == "10.5 MB/s and 0.0 s were measured, at worst, with 1 of the last saves"
    assert "takes 43.9 s: too long" in found.reasons[1]


def test_without_a_measurement_the_least_goes_first_and_then_the_whole_state() -> None:
    found = decide(0.1, Flight(7, 351 * MEGA), speed=None)
    assert (found.action, found.takes_over, found.gives_up, found.seconds, found.fits) == (
        "save",
        True,
        False,
        None,
        None,
    )
    assert (found.first, found.leaves_out) == (("optimizer", "extra"), ())
    assert found.reasons == ("nothing was measured yet", "what is worth most goes first")
    assert sentence(found) == "a part of the state is saved, without optimizer, extra, and then the whole state"
    assert decide(0.1, Flight(9, 351 * MEGA), speed=None).action == "finish"
    assert decide(0.1, speed=None, asked=True) == Plan("save", takes_over=True)
    small = plan(Situation(9, 30, {"model": 100 * MEGA, "rng": 5000}))
    assert (small, small.reasons[-1]) == (Plan("save", takes_over=True), "nothing can be left out")


def test_without_a_measurement_what_has_been_written_for_long_is_finished_and_else_followed() -> None:
    assert decide(20, Flight(7, 351 * MEGA, 19.0), speed=None).first
    finish = decide(20, Flight(7, 351 * MEGA, 21.0), Flight(8, 351 * MEGA), speed=None)
    assert finish == Plan("finish", takes_over=True)
    assert finish.reasons[1:] == (
        "step 7 has been written for 21.0 s",
        "whatever begins now would have less time than that has had",
    )


def test_what_was_measured_before_a_failure_is_not_counted_on() -> None:
    found = decide(1000, failed="the save of step 8 failed (write: no route)")
    assert (found.action, found.first, found.fits) == ("save", ("optimizer", "extra"), None)
    assert found.reasons[0] == (
        "the save of step 8 failed (write: no route): what was measured before that is not counted on"
    )


def test_what_the_local_tier_has_in_time_is_saved_whole_whatever_the_root_does() -> None:
    local = Speed(rate=1000.0 * MEGA)
    for unsure in ({"speed": None}, {"failed": "away"}):
        found = decide(1, local=local, **unsure)
        assert found == Plan("save", takes_over=True)
        assert found.reasons[-1] == "the local tier, from where it goes to the root, has the whole state in 0.4 s"
        assert decide(0.1, local=local, **unsure).first


def test_a_state_without_a_model_is_saved_whole_or_not_at_all() -> None:
    situation = Situation(9, 0.1, {"extra": 100 * MEGA, "rng": 1}, speed=SPEED)
    assert (plan(situation).action, plan(situation).fits) == ("save", False)


def test_what_was_measured_is_the_state_per_second_without_the_rests_and_the_slowest_counts() -> None:
    meter = Speedometer()
    assert (meter.speed, meter.saved) == (None, None)
    for step, seconds in enumerate([1.0, 4.0, 2.0], 1):
        phases = {"open": 9.0, "write": seconds + 5, "stage": 0.0, "report": 0.0, "commit": 0.25 * step}
        meter.on_event(Durable(step, step, 1000, 1.0, 0.0, {}, 10, phases, rested=5.0))
    assert meter.speed == Speed(rate=250.0, overhead=0.75)
    assert meter.speed.saves == 3
    meter.on_event(Durable(4, 4, 1000, 1.0, 0.0, {}, 10, {"write": 1.0}, partial=("optimizer",)))
    assert meter.saved == 3


def test_a_failure_of_the_store_counts_until_it_takes_a_save() -> None:
    meter = Speedometer()
    for phase in ("stage", "worker"):
        meter.on_event(Failed(1, phase, SaveError("torn")))
    assert meter.failed is None
    meter.on_event(Failed(2, "write", TransientError("no route")))
    assert meter.failed == "the save of step 2 failed (write: no route)"
    meter.on_event(Durable(3, 3, 1000, 1.0, 0.0))
    assert meter.failed is None


numbers = st.integers(0, 10**12)
seconds = st.floats(0, 1e6)
flights = st.lists(st.builds(Flight, st.integers(0, 9), numbers, st.none()), max_size=3)
begun = st.lists(st.builds(Flight, st.integers(0, 9), numbers, seconds), max_size=1)
speeds = st.none() | st.builds(Speed, st.floats(1, 1e12), st.floats(0, 100))
sizes = st.dictionaries(st.sampled_from(["model", "optimizer", "rng", "extra", "scheduler"]), numbers, min_size=1)
situations = st.builds(
    lambda left, sizes, one, more, speed, local, failed, saved, asked: Situation(
        9, left, sizes, [*one, *more], speed, local, failed, saved, asked
    ),
    *(seconds, sizes, begun, flights, speeds, speeds, st.none() | st.just("it failed")),
    *(st.none() | st.integers(0, 9), st.booleans()),
)


@given(situations)
def test_every_plan_is_in_time_or_says_that_it_is_not_and_leaves_nothing_out_without_need(now: Situation) -> None:
    found = plan(now)
    assert found.reasons
    assert (found.fits is None) == (found.seconds is None)
    if now.speed is None or now.failed:
        assert found.fits is None or found.action == "nothing"
    if found.first:
        assert found.action == "save"
        assert found.fits is None
        assert "model" not in found.first
        assert set(found.first) < set(now.sizes)
    if found.seconds is not None:
        assert found.fits == (found.seconds <= now.left)
    assert bool(found.leaves_out) == (found.action == "weights")
    assert "model" not in found.leaves_out
    assert set(found.leaves_out) < set(now.sizes)
    if now.asked:
        assert found.action in ("save", "weights", "local")
    if found.action == "weights" and found.fits and now.speed is not None:
        assert SAFETY * now.speed.seconds(sum(now.sizes.values())) > now.left
    if found.action == "finish":
        assert now.flights


@given(situations, st.floats(0, 1e6))
def test_more_time_never_makes_less_of_it(now: Situation, more: float) -> None:
    """What is a complete checkpoint of this step with little time is one with more."""
    found = plan(now)
    if found.action == "save" and found.fits:
        later = plan(replace(now, left=now.left + more))
        assert later.action in ("save", "finish")


@given(situations)
def test_a_plan_reaches_other_ranks_as_it_is(now: Situation) -> None:
    found = plan(now)
    there = plan_of(loads(dumps(asdict(found))))
    assert (there, there.reasons) == (found, found.reasons)


@given(st.floats(0, 1e9))
def test_some_of_the_time_is_left_to_end_in(left: float) -> None:
    assert 0 <= usable(left) <= left
    assert left - usable(left) <= 2.0000001 * max(1.0, left * 1e-9)
    assert left - usable(left) >= min(0.2 * left, 2.0) * 0.9999999
    assert usable(left) <= closable(left) <= left
