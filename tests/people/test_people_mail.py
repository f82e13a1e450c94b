from __future__ import annotations

import email
import email.policy
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ktriage.bisect.log import LogWriter
from ktriage.bisect.types import Answer, Candidate, End, Run, Start
from ktriage.cli import main
from ktriage.jobs.mail_parts import keyword_text
from ktriage.people.definitions import where_defined
from ktriage.people.mail import Finding, Sighting, as_text, body, draft
from ktriage.people.recipients import Recipient, Recipients, commit_recipients
from ktriage.people.trailers import Trailer, fixes, message_id, parse_trailers, patch_message_id
from ktriage.words import OutcomeKind

SOMEONE = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Me",
    "GIT_AUTHOR_EMAIL": "me@here.org",
    "GIT_COMMITTER_NAME": "Me",
    "GIT_COMMITTER_EMAIL": "me@here.org",
}
GIT_CORE = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()

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


def test_a_bug_is_called_so_once():
    mail = draft(Sighting("BUG: corrupted list in f"), [], sender=("Me", "me@here.org"), date=WHEN)
    assert mail["Subject"] == "[BUG] corrupted list in f"


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


def test_headers_are_folded_and_message_ids_are_not():
    people = [Recipient(f"Person Number {n} Ünïcode", f"p{n}@example.org", "to", ()) for n in range(40)]
    long_id = "x" * 120 + "@mail.example.org"
    text = as_text(draft(FINDING, people, sender=("Me", "me@here.org"), date=WHEN, in_reply_to=long_id))
    head = text.partition("\n\n")[0]
    assert f"\nIn-Reply-To: <{long_id}>\n" in head
    assert max(len(line) for line in head.splitlines() if long_id not in line) <= 78
    parsed = email.message_from_string(text, policy=email.policy.default)
    assert len(parsed["To"].addresses) == 40
    assert parsed["To"].addresses[7].display_name == "Person Number 7 Ünïcode"


@pytest.mark.parametrize("length", range(10, 60))
def test_addresses_are_folded_between_them_and_nowhere_else(length):
    people = [
        Recipient("Jürgen Sørensen", "j@x.org", "to", ()),
        Recipient("Doe, Jane", "jane@x.org", "to", ()),
        Recipient("A" * length, "a@x.org", "to", ()),
        Recipient("", "list@x.org", "to", ()),
    ]
    text = as_text(draft(FINDING, people, sender=("Zoë", "me@here.org"), date=WHEN))
    assert "=2C" not in text
    parsed = email.message_from_string(text, policy=email.policy.default)
    told = [(one.display_name, one.addr_spec) for one in parsed["To"].addresses]
    assert told == [(person.name, person.address) for person in people]
    assert parsed["From"].addresses[0].display_name == "Zoë"


@pytest.mark.skipif(not shutil.which("git-send-email", path=GIT_CORE), reason="git-email is not installed")
def test_git_send_email_takes_it(tmp_path):
    people = [Recipient("Dæna Authör", "dana@author.org", "to", ()), Recipient("", "l@lists.org", "cc", ())]
    finding = replace(FINDING, report="zażółć " * 30)
    mail = tmp_path / "mail.eml"
    mail.write_text(
        as_text(draft(finding, people, sender=("Me", "me@here.org"), date=WHEN, in_reply_to="a@b"))
    )
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    done = subprocess.run(
        ["git", "send-email", "--dry-run", "--confirm=never", "--smtp-server=/bin/true", mail],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **SOMEONE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dana@author.org" in done.stdout
    assert "Cc: l@lists.org" in done.stdout
    assert "In-Reply-To: <a@b>" in done.stdout
    assert "Subject: [bisected] WARNING in module_put" in done.stdout


@pytest.fixture
def tree(tmp_path):
    """A kernel's source, as far as the mail looks at it."""
    root = tmp_path / "linux"
    files = {
        "MAINTAINERS": "TCP\nM:\tEve Dunn <eve@net.org>\nL:\tnetdev@lists.org\nF:\tnet/ipv4/tcp*.c\n"
        "\nMODULES\nM:\tMo <mo@modules.org>\nF:\tkernel/module/\n",
        "net/ipv4/tcp_ulp.c": "void tcp_cleanup_ulp(struct sock *sk)\n{\n}\n",
        "net/ipv4/tcp.c": "\ttcp_cleanup_ulp(sk);\nvoid tcp_cleanup_ulp(struct sock *sk);\n",
        "kernel/module/main.c": "void module_put(struct module *module)\n{\n}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_mail_about_a_report_alone(tree, tmp_path, capsys):
    log = tmp_path / "console.log"
    log.write_bytes(CONSOLE)
    command = ["mail", "--report", str(log), "--tree", str(tree), "--from", "me@here.org"]
    assert main(command) == 0
    parsed = email.message_from_string(capsys.readouterr().out, policy=email.policy.default)
    assert parsed["Subject"] == "[BUG] WARNING in module_put"
    # module_put is where it shows; who called it is at home.
    assert parsed["To"] == "Eve Dunn <eve@net.org>"
    assert parsed["Cc"] == "netdev@lists.org"
    said = parsed.get_content()
    assert "points to net/ipv4/tcp_ulp.c" in " ".join(said.split())
    assert " tcp_cleanup_ulp+0x33/0x50\n" in said
    assert main([*command, "--file", "kernel/module/main.c"]) == 0
    assert "To: Mo <mo@modules.org>" in capsys.readouterr().out


def test_mail_about_a_report_in_a_repository(tree, tmp_path, capsys):
    log = tmp_path / "console.log"
    log.write_bytes(CONSOLE)
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=A", "-c", "user.email=a@b.org", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", "-C", tree, *words], check=True)
    for path in tree.rglob("*.c"):
        path.unlink()
    command = ["mail", "--report", str(log), "--tree", str(tree), "--rev", "HEAD", "--from", "me@here.org"]
    assert main(command) == 0
    assert "To: Eve Dunn <eve@net.org>" in capsys.readouterr().out


def test_bad_input_about_a_report_is_one_line_and_exit_2(bisected, tree, tmp_path, capsys):
    log = tmp_path / "console.log"
    log.write_bytes(CONSOLE)
    report = ["--report", str(log), "--from", "me@here.org"]
    cases = [
        [],
        ["--log", str(bisected), "--tree", str(tree)],
        ["--tree", str(tree)],
        [*report, "--tree", str(tmp_path / "absent")],
        [*report, "--tree", str(tmp_path)],
        [*report, "--tree", str(tree), "--file", "../console.log"],
        [*report, "--tree", str(tree), "--rev", "HEAD"],
        [*report, "--tree", str(tree), "--regzbot"],
    ]
    for case in cases:
        assert main(["mail", *case]) == 2, case
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len([line for line in captured.err.splitlines() if line.startswith("ktriage mail:")]) == 1, (
            case
        )


def test_where_functions_are_defined(tree):
    (tree / "arch/x86").mkdir(parents=True)
    (tree / "arch/arm").mkdir(parents=True)
    for name in ("arch/x86/a.c", "arch/arm/a.c"):
        (tree / name).write_text("static __init int setup(void)\n{\n")
    found = where_defined(tree, ["tcp_cleanup_ulp", "module_put", "setup", "nothing", "a b; rm"])
    assert found == {
        "tcp_cleanup_ulp": "net/ipv4/tcp_ulp.c",
        "module_put": "kernel/module/main.c",
        "setup": "arch/x86/a.c",
    }


def test_keywords_are_looked_for_in_what_changes():
    diff = (
        "--- a/net_device.c\n+++ b/net_device.c\n@@ -1,2 +1,2 @@ struct key *key_get\n refcount\n-old\n+new\n"
    )
    assert keyword_text("subject\n\nbody", diff) == b"subject\n\nbody\nold\nnew"


def test_a_bindings_maintainers_are_read_from_the_whole_file(repo, tmp_path):
    binding = "maintainers:\n  - Bea Inder <bea@bindings.org>\n" + "".join(f"line {n}\n" for n in range(20))
    good = repo.commit("add it", {"Documentation/x.yaml": binding})
    bad = repo.commit("change a line", {"Documentation/x.yaml": binding.replace("line 19", "line of 19")})
    answer = Answer(
        culprit=bad, probability=0.999, candidates=(Candidate(bad, 0.999),), runs=1, revisions=1, builds=1,
        outcomes={"crashed": 1}, seconds=1.0, verdict="culprit",
    )  # fmt: skip
    log = tmp_path / "bisection.jsonl"
    start = Start(
        str(repo.path), good, bad, 1, 0.998, 0, 0.0, commits=(bad,), subjects=("x",), parents=((-1,),)
    )
    with LogWriter(log) as writer:
        writer.write(start)
        writer.write(Run("a1", bad, 1.0, OutcomeKind.CRASHED, title="BUG"))
        writer.write(End(answer, 1.0))
    out = tmp_path / "mail.eml"
    assert main(["mail", "--log", str(log), "-o", str(out)]) == 0
    assert "Bea Inder <bea@bindings.org>" in out.read_text()
