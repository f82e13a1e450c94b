from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktriage.case.lanes import lay_out


def test_a_line_takes_one_lane():
    lanes = lay_out([[1], [2], []])
    assert lanes.lane == [0, 0, 0]
    assert lanes.edges == [(0, 0, 0), (1, 0, 0)]


def test_a_branch_leaves_and_comes_back():
    # 0 merges 1 and 2; both come from 3.
    lanes = lay_out([[1, 2], [3], [3], []])
    assert lanes.lane == [0, 0, 1, 0]
    assert lanes.width == 2
    assert (0, 0, 0) in lanes.edges
    assert (0, 0, 1) in lanes.edges


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 30))
    return [
        sorted(draw(st.sets(st.integers(row + 1, size - 1), max_size=3))) if row + 1 < size else []
        for row in range(size)
    ]


@given(graphs())
def test_every_parent_is_reached_from_its_child(parents):
    lanes = lay_out(parents)
    assert len(lanes.lane) == len(parents)
    steps: dict[tuple[int, int], set[int]] = {}
    for row, start, end in lanes.edges:
        steps.setdefault((row, start), set()).add(end)
    for row, above in enumerate(parents):
        for parent in above:
            at = {lanes.lane[row]}
            for between in range(row, parent):
                at = {end for lane in at for end in steps.get((between, lane), ())}
            assert lanes.lane[parent] in at
