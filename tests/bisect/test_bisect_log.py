from __future__ import annotations

import pytest

from ktriage.bisect.log import LogWriter, read_log
from ktriage.bisect.types import Answer, Belief, Candidate, Chosen, End, Run, Start, Verification
from ktriage.errors import UserError
from ktriage.words import OutcomeKind

START = Start(
    "/r", "g" * 40, "b" * 40, 2, 0.99, 7, 1.5, commits=("a", "b"), subjects=("x", "ü"), parents=((-1,), (0,))
)
RECORDS = [
    START,
    Chosen("r1-0", "a", 2.0, gain=0.5),
    Run(
        "r1-0", "a", 3.0, OutcomeKind.CRASHED, 1.0, 2.0, "WARNING in f", ("f", "g"), ("a.c",), "s", "n", "/w"
    ),
    Belief(1, 1, 1, 0.25, (Candidate("a", 0.9, "x"),), (0.9, 0.1), 0.0, 4.0, 0.5, 0.01, 3.0, None),
    Chosen("r2-0", "b", 5.0, patches=("diff",), purpose="verify"),
]
END = End(
    Answer(
        "a", 0.99, (Candidate("a", 0.99),), 1, 1, 1, {"crashed": 1}, 9.0, "culprit",
        crash_interval=(0.1, 0.9), verification=Verification(True, "gone", "crashes"),
    ),
    6.0,
)  # fmt: skip


def write(path, records, append=False):
    with LogWriter(path, append=append) as log:
        for record in records:
            log.write(record)


def test_log_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "log"
    write(path, [*RECORDS, END])
    log = read_log(path)
    assert list(log.records) == [*RECORDS, END]
    assert log.end == END.answer
    assert [lost.attempt for lost in log.lost] == ["r2-0"]
    assert [run.title for run in log.runs] == ["WARNING in f"]


def test_log_that_was_cut_anywhere_loses_one_record_at_most(tmp_path):
    path = tmp_path / "log"
    write(path, RECORDS)
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(first, len(data)):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert list(read_log(path).records) == RECORDS[:whole]
    write(path, [END], append=True)
    assert list(read_log(path).records) == [*RECORDS[:-1], END]


def test_log_is_never_overwritten(tmp_path):
    path = tmp_path / "log"
    write(path, RECORDS)
    with pytest.raises(UserError, match="resume"):
        LogWriter(path)


def test_a_log_that_was_not_begun_may_be_begun(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"repo":"/r')
    write(path, RECORDS)
    assert list(read_log(path).records) == RECORDS
    path.write_text("somebody's")
    with pytest.raises(UserError):
        LogWriter(path)
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize(
    "text", ["", "{}\n", "no json\n", '{"record":"chosen"}\n', '{"record":"start"}\n', "[" * 9999 + "\n"]
)
def test_other_files_are_refused_with_one_line(tmp_path, text):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_log(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_two_do_not_write_one_log(tmp_path):
    path = tmp_path / "log"
    with LogWriter(path) as log:
        log.write(START)
        for append in (False, True):
            with pytest.raises(UserError, match="just now"):
                LogWriter(path, append=append)
    LogWriter(path, append=True).close()
