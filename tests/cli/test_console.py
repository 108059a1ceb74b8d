import pytest

from embedscope.cli.console import Talk, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0000"),
        (0.12345, "0.1235"),
        (-0.5, "-0.5000"),
        (17.0, "17"),
        (1234.0, "1,234"),
        (1.0, "1"),
        (1e-6, "1.0e-06"),
        (-1e-7, "-1.0e-07"),
        (1234.5, "1,234.5000"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_track_is_plain_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("embedscope.cli.console._SECONDS_BETWEEN_LINES", 0)
    assert list(Talk().track([1, 2], "working", 2)) == [1, 2]
    assert capsys.readouterr().err == "working: 1/2\nworking: 2/2\n"


def test_short_work_has_no_lines(capsys):
    assert list(Talk().track([1, 2], "working", 2)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_track_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(Talk().track([1, 2], "working", 2)) == [1, 2]
    assert "2/2" in capsys.readouterr().err


def test_quiet_says_nothing(capsys):
    talk = Talk(quiet=True)
    talk.say("a")
    talk.detail("b")
    assert list(talk.track([1], "c", 1)) == [1]
    assert capsys.readouterr() == ("", "")
