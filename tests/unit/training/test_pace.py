"""Paces of a training: fixed, timed, recorded and shared between ranks."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.training.image_sizes import ImageSizes
from eyevsai.training.pace import Pace, RecordedPace, SharedPace, TimeBudget, TimedPace


class Machine:
    """Clock of a machine on which steps and evaluations take simulated seconds."""

    def __init__(self, step_s: float, evaluation_s: float, tail_s: float = 0.0) -> None:
        self.now = 1000.0
        self.step_s, self.evaluation_s, self.tail_s = step_s, evaluation_s, tail_s

    def clock(self) -> float:
        return self.now

    def train(
        self,
        pace: Pace,
        num_steps: int,
        on_step: Callable[[float], None] = lambda position: None,
        max_steps: int = 100_000,
    ) -> int:
        """Train as `Trainer.fit` does, with the evaluation of the best weights; return epochs."""
        epoch, steps = 1 + len(pace.positions), 0
        while not pace.is_over(epoch):
            for step in range(num_steps):
                position = pace.next_position(epoch, step, num_steps)
                if position is None:
                    break
                on_step(position)
                self.now += self.step_s * pace.cost_at(position)
                steps += 1
                if steps == max_steps:
                    return epoch
            self.now += self.evaluation_s
            pace.end_evaluation(self.evaluation_s)
            epoch += 1
        self.now += self.evaluation_s + self.tail_s
        return epoch - 1


def timed(machine: Machine, total_s: float, num_epochs: int, **options: float) -> TimedPace:
    budget = TimeBudget(total_s, machine.now, machine.tail_s, clock=machine.clock)
    pace = TimedPace(budget, machine.evaluation_s, **options)  # type: ignore[arg-type]
    pace.start(num_epochs)
    return pace


@given(
    step_s=st.floats(0.01, 0.5),
    evaluation_s=st.floats(0.01, 3.0),
    num_steps=st.integers(1, 200),
    tail_s=st.floats(0.0, 5.0),
    slowdown=st.floats(0.5, 4.0),
)
def test_timed_training_ends_on_time_when_the_speed_changes_half_way(
    step_s: float, evaluation_s: float, num_steps: int, tail_s: float, slowdown: float
) -> None:
    machine = Machine(step_s, evaluation_s, tail_s)
    pace = timed(machine, 200.0, 10)
    positions: list[float] = []

    def on_step(position: float) -> None:
        positions.append(position)
        if machine.now - 1000 > 100 and machine.step_s == step_s:
            machine.step_s *= slowdown
            machine.evaluation_s *= slowdown
            machine.tail_s *= slowdown

    machine.train(pace, num_steps, on_step)
    assert machine.now - 1000 == pytest.approx(200, rel=0.05)
    assert positions == sorted(positions)
    assert positions[-1] == pytest.approx(10, rel=0.15)
    assert [position for epoch in pace.positions for position in epoch] == positions


@given(
    step_s=st.floats(0.005, 0.05),
    every=st.integers(2, 30),
    pause_s=st.floats(0.02, 0.4),
    num_steps=st.integers(5, 50),
)
def test_single_slow_steps_do_not_end_a_timed_training_early(
    step_s: float, every: int, pause_s: float, num_steps: int
) -> None:
    machine = Machine(step_s, 4 * step_s, tail_s=6.0)
    pace = timed(machine, 60.0, 10)
    count = 0

    def on_step(position: float) -> None:
        nonlocal count
        count += 1
        machine.now += pause_s * (count % every == 0)  # time slices of another process

    machine.train(pace, num_steps, on_step)
    assert machine.now - 1000 == pytest.approx(60, rel=0.05)


def test_positions_follow_the_clock_and_not_the_steps() -> None:
    machine = Machine(1.0, 0.0)
    pace = timed(machine, 100.0, 4)
    assert machine.train(pace, 30) == 4
    assert [len(epoch) for epoch in pace.positions] == [30, 30, 30, 10]
    assert pace.positions[1][0] == pytest.approx(4 * 31 / 100, abs=0.05)
    assert pace.end_of(4) == pytest.approx(4)


def test_run_whose_budget_is_used_up_before_the_first_step_has_one_step() -> None:
    machine = Machine(1.0, 1.0)
    pace = timed(machine, 10.0, 4)
    machine.now += 20
    assert machine.train(pace, 30) == 1
    assert pace.positions == [[4.0]]


def test_untimed_epochs_come_before_the_window() -> None:
    machine = Machine(0.1, 0.0)
    pace = timed(machine, 100.0, 6, untimed_epochs=2)
    machine.train(pace, 10)
    assert pace.positions[0][-1] == 1
    assert pace.positions[1][-1] == 2
    assert [pace.phase(epoch) for epoch in (1, 2, 3)] == [1, 2, 3]
    assert pace.phase(len(pace.positions)) == 6
    assert machine.now - 1000 == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("has_features", [False, True])
def test_evaluations_of_cached_features_do_not_stand_for_those_of_the_network(
    has_features: bool,
) -> None:
    machine = Machine(0.5, 0.01)
    budget = TimeBudget(100.0, machine.now, clock=machine.clock)
    untimed_epochs = 0 if has_features else 2
    pace = TimedPace(budget, 10.0, untimed_epochs, has_features=has_features)
    pace.start(6)

    def on_step(position: float) -> None:
        if position > 2 and not has_features:
            machine.evaluation_s = 10.0

    machine.train(pace, 10, on_step)
    if has_features:
        machine.now += 10.0  # of the best weights, by the network
    assert machine.now - 1000 == pytest.approx(100, rel=0.05)


def test_resumed_training_has_what_is_left_of_the_budget() -> None:
    machine = Machine(1.0, 1.0)
    pace = timed(machine, 100.0, 4)
    machine.train(pace, 10, max_steps=40)
    state = json.loads(json.dumps(pace.state_dict()))
    used_s = machine.now - 1000
    machine.now += 5000  # nobody works on it
    resumed_at = machine.now
    resumed = timed(machine, 100.0, 4)
    resumed.load_state_dict(state)
    assert resumed.phase(5) == pace.phase(5)
    machine.train(resumed, 10)
    assert used_s + machine.now - resumed_at == pytest.approx(100, rel=0.03)
    positions = [position for epoch in resumed.positions for position in epoch]
    assert positions == sorted(positions)


def test_recorded_pace_repeats_positions_and_phases() -> None:
    machine = Machine(0.7, 0.5)
    pace = timed(machine, 60.0, 5, untimed_epochs=1)
    epochs = machine.train(pace, 9)
    record = json.loads(json.dumps(pace.positions))
    again = RecordedPace(record)
    again.start(5)
    assert Machine(0.1, 0.1).train(again, 9) == epochs
    assert again.positions == pace.positions
    numbers = range(1, epochs + 1)
    assert [again.phase(each) for each in numbers] == [pace.phase(each) for each in numbers]


@pytest.mark.parametrize("num_steps", [3, 5])
def test_record_of_other_data_is_refused(num_steps: int) -> None:
    pace = RecordedPace([[0.25, 0.5, 0.75, 1.0], [1.5]])
    pace.start(2)
    with pytest.raises(UserError, match=f"4 steps in epoch 1; .* has {num_steps}"):
        pace.next_position(1, 0, num_steps)


def test_ranks_share_the_positions_of_rank_0() -> None:
    machine = Machine(1.0, 1.0)
    sent: list[list[float]] = []

    def send(values: object) -> list[float]:
        sent.append(list(values))  # type: ignore[call-overload]
        return sent[-1]

    first = SharedPace(timed(machine, 50.0, 3), send)
    first.start(3)
    machine.train(first, 10)
    received = iter(sent)
    other = SharedPace(Pace(), lambda values: next(received))
    other.start(3)
    Machine(9.0, 9.0).train(other, 10)
    assert other.positions == first.positions
    assert first.is_late()
    assert next(received, None) is None
    assert [other.phase(each) for each in (1, 2, 3)] == [first.phase(each) for each in (1, 2, 3)]


def test_pace_without_a_budget_counts_steps() -> None:
    pace = Pace()
    pace.start(2)
    assert [pace.next_position(1, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert pace.next_position(2, 3, 4) == pace.end_of(2) == 2
    assert (pace.is_over(2), pace.is_over(3)) == (False, True)


@given(
    initial_scale=st.floats(0.25, 1.0), step_s=st.floats(0.01, 0.5), num_steps=st.integers(1, 99)
)
def test_timed_training_on_growing_images_ends_on_time(
    initial_scale: float, step_s: float, num_steps: int
) -> None:
    machine = Machine(step_s, evaluation_s=0.5)
    pace = timed(machine, 200.0, 10)
    pace.start(10, lambda position: ImageSizes(128, initial_scale).cost_at(position / 10))
    machine.train(pace, num_steps)
    assert 190 <= machine.now - 1000 <= 210
    assert pace.positions[-1][-1] == pytest.approx(10, abs=0.1)


def test_only_epochs_of_a_known_number_are_counted() -> None:
    pace = Pace()
    pace.start(3)
    assert pace.label(1) == "Epoch 1 of 3"
    assert timed(Machine(1.0, 1.0), 100.0, 3).label(4) == "Epoch 4"


def test_a_timed_run_is_late_when_only_its_end_fits() -> None:
    machine = Machine(1.0, 5.0, tail_s=10.0)
    pace = timed(machine, 100.0, 3)
    machine.now += 79.0
    assert not pace.is_late()
    machine.now += 1.5  # two evaluations and the tail take 20 s
    assert pace.is_late()
    assert not Pace().is_late()
    again = RecordedPace([[1.0]], pace.checks_in_time)
    assert [again.is_late() for _ in range(3)] == [False, True, True]
    assert again.checks_in_time == pace.checks_in_time == 1
    for original in (pace, again):
        resumed = SharedPace(RecordedPace([[1.0]]), list)
        resumed.load_state_dict(json.loads(json.dumps(original.state_dict())))
        assert resumed.state_dict()["checks_in_time"] == 1
    assert not RecordedPace([[1.0]]).is_late()  # a record of an earlier version
