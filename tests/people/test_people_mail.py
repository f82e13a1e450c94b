from __future__ import annotations

import email
import email.policy
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ktriage.bisect.log import LogWriter
from ktriage.bisect.types import Answer, Candidate, End, Run, Start
from ktriage.cli import main
from ktriage.people.mail import Finding, as_text, body, draft
from ktriage.people.recipients import Recipient, Recipients, commit_recipients
from ktriage.people.trailers import Trailer, fixes, message_id, parse_trailers, patch_message_id
from ktriage.words import OutcomeKind

MESSAGE = """tcp, ulp: fix leftover icsk_ulp_ops preventing sock from reattach

I found that in programs: this is prose, not a trailer.

Fixes: 1aa12bdf1bfb ("bpf: sockmap, add sock close() hook to remove socks")
Reported-by: Ben Reporter <ben@reporter.org>
Closes: https://lore.kernel.org/netdev/report@reporter.org/
Cc: stable@vger.kernel.org # 4.19+
Cc: "Doe, Jane" <jane@doe.org>
Signed-off-by: Dana Author <dana@author.org>
[moved a brace]
Reviewed-and-tested-by: Rita <rita@review.org>
Acked-by: Somebody without an address
Reported-by: robot <noreply@robot.org>
Link: https://lore.kernel.org/r/discussion@author.org
Link: https://patch.msgid.link/20180816194909.1234-2-dana@author.org
Link: https://bugzilla.kernel.org/show_bug.cgi?id=1
Signed-off-by: Max Maintainer <max@maintainer.org>
"""

FINDING = Finding(
    title="WARNING in module_put",
    commit="0123456789abcdef0123456789abcdef01234567",
    subject="ulp: move the reference to where a child is first used",
    author="Dana Author <dana@author.org>",
    date="2026-03-04T10:11:12+01:00",
    probability="99.93%",
    runs=62,
    revisions=9,
    commits=33,
    range="aaaaaaaaaaaa..bbbbbbbbbbbb",
    crash_rate="55%",
    report=" tcp_cleanup_ulp+0x1e/0x40\n" + " " + "x" * 100,
    reproduce="insmod ulp.ko\n./server & kill $!",
)
WHEN = datetime(2026, 3, 4, 10, 11, 12, tzinfo=UTC)


def test_trailers_of_a_kernel_commit():
    trailers = parse_trailers(MESSAGE)
    assert [t.key for t in trailers][:3] == ["Fixes", "Reported-by", "Closes"]
    assert len(trailers) == 13
    assert fixes(trailers) == ("1aa12bdf1bfb",)
    assert patch_message_id(trailers) == "20180816194909.1234-2-dana@author.org"


def test_trailers_in_several_paragraphs_and_folded():
    message = 's\n\nprose\nmore\n\nFixes: 0123456789ab ("a\n long subject")\n\nSigned-off-by: A <a@b.org>\n'
    assert parse_trailers(message) == (
        Trailer("Fixes", '0123456789ab ("a long subject")'),
        Trailer("Signed-off-by", "A <a@b.org>"),
    )


@pytest.mark.parametrize(
    "message", ["", "subject: only", "net: fix it\n\nAll of this: is prose\nand so is this\nand this."]
)
def test_no_trailers(message):
    assert parse_trailers(message) == ()


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("https://lore.kernel.org/r/a.b@c.org", "a.b@c.org"),
        ("https://lore.kernel.org/all/a%2Bb@c.org/T/#u", "a+b@c.org"),
        ("https://lkml.kernel.org/r/1@c", "1@c"),
        ("https://lore.kernel.org/netdev/", None),
        ("https://example.org/r/a@b", None),
        ("https://[broken", None),
        ("https://lore.kernel.org/r/a%0d%0aBcc:%20x@y", None),
    ],
)
def test_message_id_of_a_link(link, found):
    assert message_id(link) == found


def test_recipients_of_a_commit():
    found = commit_recipients(("Dana Author", "dana@author.org"), MESSAGE)
    assert {r.address: (r.field, r.reasons) for r in found.all()} == {
        "dana@author.org": ("to", ("wrote the commit", "signed it off")),
        "max@maintainer.org": ("to", ("signed it off",)),
        "ben@reporter.org": ("cc", ("reported what it mends",)),
        "jane@doe.org": ("cc", ("was copied on it",)),
        "rita@review.org": ("cc", ("reviewed it", "tested it")),
    }
    assert {left.address for left in found.left_out} == {"stable@vger.kernel.org", "noreply@robot.org"}


def test_who_asked_to_be_left_out_is():
    found = commit_recipients(("Dana", "dana@author.org"), MESSAGE, into=Recipients(["DANA@author.org"]))
    assert "dana@author.org" not in {r.address for r in found.all()}
    assert found.left_out[0].reason == "asked to be left out"


def test_mail_would_pass_on_a_list():
    people = [
        Recipient("Dæna Authör", "dana@author.org", "to", ()),
        Recipient("", "netdev@vger.kernel.org", "cc", ()),
    ]
    text = as_text(
        draft(FINDING, people, sender=("Me", "me@here.org"), date=WHEN, in_reply_to="a@b", regzbot=True)
    )
    parsed = email.message_from_string(text, policy=email.policy.default)
    assert parsed["Subject"] == "[bisected] WARNING in module_put"
    assert parsed["To"].addresses[0].display_name == "Dæna Authör"
    assert parsed["In-Reply-To"] == parsed["References"] == "<a@b>"
    assert parsed.get_content_type() == "text/plain"
    assert parsed["Content-Transfer-Encoding"] in {"7bit", "8bit"}
    assert not parsed.defects
    said = parsed.get_content()
    assert "\n#regzbot introduced: 0123456789ab\n" in said
    assert "x" * 100 in said
    prose = [line for line in said.splitlines() if not line.startswith(" ") and "regzbot" not in line]
    assert max(map(len, prose)) <= 72
    assert text.split("\n\n")[0].isascii()


def test_text_beyond_ascii_is_8bit_utf8_and_not_encoded():
    finding = replace(FINDING, subject="ulp: zażółć", report="\x1b[31mred\x00\udcff ą")
    text = as_text(draft(finding, [], sender=("Me", "me@here.org"), date=WHEN))
    parsed = email.message_from_bytes(text.encode(), policy=email.policy.default)
    assert parsed["Content-Transfer-Encoding"] == "8bit"
    assert "zażółć" in parsed.get_content()
    assert "\x1b" not in text
    assert "\x00" not in text


def test_a_title_cannot_add_headers():
    finding = replace(FINDING, title="x\r\nBcc: all@lists.org\r\n\r\nbody", author="a\nb", subject="c\nd")
    text = as_text(draft(finding, [], sender=("Me\nBcc: z@z", "me@here.org"), date=WHEN))
    parsed = email.message_from_string(text, policy=email.policy.default)
    assert parsed["Bcc"] is None
    assert parsed["Subject"] == "[bisected] x Bcc: all@lists.org body"


def test_a_report_of_any_length_is_cut():
    said = body(replace(FINDING, report="line\n" * 10_000 + "y" * 5000))
    assert len(said.splitlines()) < 500
    assert "more lines]" in said


@pytest.fixture
def bisected(tmp_path):
    """A repository of three commits and the finished log of a bisection that named the second."""
    repo = tmp_path / "repo"
    repo.mkdir()

    def git(*args):
        done = subprocess.run(
            ["git", "-c", "user.name=Dana", "-c", "user.email=dana@author.org", "-C", repo, *args],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "-q")
    hashes = []
    for place in range(3):
        (repo / "file").write_text(f"{place}\n")
        git("add", "file")
        git("commit", "-q", "-m", MESSAGE if place == 1 else f"commit {place}")
        hashes.append(git("rev-parse", "HEAD"))
    git("config", "user.name", "Sender")
    git("config", "user.email", "sender@here.org")
    answer = Answer(
        culprit=hashes[1], probability=0.9991,
        candidates=(Candidate(hashes[1], 0.9991), Candidate(hashes[2], 0.0009)),
        runs=9, revisions=2, builds=2, outcomes={"crashed": 4, "ok": 5}, seconds=12.0, verdict="culprit",
        crash_rate=0.8, crash_interval=(0.5, 0.95),
    )  # fmt: skip
    start = Start(
        str(repo), hashes[0], hashes[2], 2, 0.998, 0, 0.0,
        commits=tuple(hashes[1:]), subjects=("culprit", "commit 2"), parents=((-1,), (0,)),
    )  # fmt: skip
    log = tmp_path / "bisection.jsonl"
    with LogWriter(log) as writer:
        writer.write(start)
        writer.write(Run("a1", hashes[1], 1.0, OutcomeKind.CRASHED, title="WARNING in module_put"))
        writer.write(End(answer, 12.0))
    return log


def test_command_writes_the_mail(bisected, tmp_path, capsys):
    out = tmp_path / "mail.eml"
    assert (
        main(["mail", "--log", str(bisected), "--cc", "netdev@vger.kernel.org", "--regzbot", "-o", str(out)])
        == 0
    )
    parsed = email.message_from_string(out.read_text(), policy=email.policy.default)
    assert parsed["From"] == "Sender <sender@here.org>"
    assert parsed["Subject"] == "[bisected] WARNING in module_put"
    assert "max@maintainer.org" in parsed["To"]
    assert "regressions@lists.linux.dev" in parsed["Cc"]
    assert parsed["In-Reply-To"] == "<20180816194909.1234-2-dana@author.org>"
    said = " ".join(parsed.get_content().split())
    assert "99.91%" in said
    assert "With it 80% (95% interval: 50% to 95%) of the runs crash" in said
    assert "(wrote the commit, signed it off)" in capsys.readouterr().err


def test_command_prints_json(bisected, capsys):
    assert main(["mail", "--log", str(bisected), "--json", "--from", "Me <me@x.org>"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["recipients"][0]["address"] == "dana@author.org"
    assert "From: Me <me@x.org>" in data["mail"]


def test_bad_input_is_one_line_and_exit_2(bisected, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.write_text("nothing\n")
    cases = [
        ["--log", str(tmp_path / "absent")],
        ["--log", str(tmp_path)],
        ["--log", str(empty)],
        ["--log", str(bisected), "--repo", str(tmp_path)],
        ["--log", str(bisected), "--report", str(empty)],
        ["--log", str(bisected), "--cc", "no address"],
        ["--log", str(bisected), "-o", str(tmp_path / "no" / "folder")],
    ]
    for case in cases:
        assert main(["mail", *case]) == 2, case
        captured = capsys.readouterr()
        assert captured.out == ""
        complaints = [line for line in captured.err.splitlines() if line.startswith("ktriage mail:")]
        assert len(complaints) == 1, captured.err


CONSOLE = b"""[    1.0] ------------[ cut here ]------------
[    1.0] WARNING: CPU: 0 PID: 83 at kernel/module/main.c:857 module_put+0x8b/0x90
[    1.0] RIP: 0010:module_put+0x8b/0x90
[    1.0] Call Trace:
[    1.0]  tcp_cleanup_ulp+0x33/0x50
[    1.0] ---[ end trace 0000000000000000 ]---
"""


def test_report_comes_from_any_log_and_the_log_from_standard_input(bisected, tmp_path):
    report = tmp_path / "console.log.gz"
    report.write_bytes(gzip.compress(CONSOLE))
    with bisected.open("rb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "ktriage", "mail", "--log", "-", "--report", report],
            stdin=log, capture_output=True, text=True, check=True,
        )  # fmt: skip
    said = email.message_from_string(done.stdout, policy=email.policy.default).get_content()
    assert " tcp_cleanup_ulp+0x33/0x50\n" in said
    assert said.index("------------[ cut here") > said.index("The crash")
