import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.metrics.counting.edits import edit_distances, edit_paths
from spdf_keras.metrics.counting.shifts import Shift, perform, shifted_distances

Words = tuple[int, ...]
TEXT = st.lists(st.integers(0, 4), max_size=9).map(tuple)


def slow_distance(first: Words, second: Words) -> int:
    row = [*range(len(second) + 1)]
    for i, one in enumerate(first, 1):
        before, row = row, [i]
        for j, other in enumerate(second):
            row.append(min(before[j] + (one != other), before[j + 1] + 1, row[j] + 1))
    return row[-1]


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_many_distances_are_those_of_each(pairs: list[tuple[Words, Words]]) -> None:
    expected = [slow_distance(*pair) for pair in pairs]
    assert edit_distances(pairs) == expected
    assert edit_distances(pairs, beam=20) == expected  # wider than these texts
    paths = edit_paths(pairs)
    assert [len(path) - path.count(" ") for path in paths] == expected


@settings(deadline=None)
@given(TEXT, TEXT)
def test_a_path_leads_from_one_text_to_the_other(first: Words, second: Words) -> None:
    (path,) = edit_paths([(first, second)])
    ours, theirs, made = iter(first), iter(second), []
    for step in path:
        word = None if step == "D" else next(ours)
        other = None if step == "I" else next(theirs)
        assert (word == other) == (step == " ")
        made.append(other)
    assert [word for word in made if word is not None] == [*second]
    assert next(ours, None) is None


def test_a_path_prefers_substitutions_to_insertions_to_deletions() -> None:
    assert edit_paths([((1, 2), (2, 3))]) == ["SS"]
    assert edit_paths([((1, 1), (1,))]) == ["I "]
    assert edit_paths([((1,), (1, 1))]) == ["D "]


def test_a_narrow_beam_finds_a_longer_path() -> None:
    first, second = (*range(20), 99), (*range(50, 60), *range(20))
    assert edit_distances([(first, second)]) == [11]
    (beamed,) = edit_distances([(first, second)], beam=2)
    assert beamed > 11


@settings(deadline=None)
@given(TEXT.filter(bool), TEXT, st.data())
def test_distances_after_shifts_are_those_of_the_shifted_texts(
    words: Words, reference: Words, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    size = data.draw(st.integers(1, len(words) - start))
    shifts = [Shift(start, size, place) for place in range(len(words) + 2)]
    expected = [slow_distance(perform(words, shift), reference) for shift in shifts]
    assert shifted_distances([(words, reference)], [shifts]) == [expected]


def test_a_reference_of_more_than_64_words_is_no_exception() -> None:
    words, shift = tuple(range(70)), Shift(69, 1, 0)
    for length in (63, 64, 65, 70):
        pair = words, (69, *range(length - 1))
        expected = slow_distance(perform(words, shift), pair[1])
        assert shifted_distances([pair], [[shift]]) == [[expected]]


def test_very_long_texts_are_counted_too() -> None:
    assert edit_distances([((1,) * 40_000, (1, 2))]) == [39_999]


@pytest.mark.parametrize(
    ("shift", "expected"),
    [((0, 1, 2), (1, 2, 0, 3)), ((2, 2, 0), (2, 3, 0, 1)), ((0, 2, 9), (2, 3, 0, 1))],
)
def test_a_shift_counts_the_other_words(
    shift: tuple[int, int, int], expected: Words
) -> None:
    assert perform((0, 1, 2, 3), Shift(*shift)) == expected
