import time

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


def show_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")


def test_track_is_a_bar_on_a_terminal_also_where_the_first_item_takes_long(capsys, monkeypatch):
    show_a_terminal(monkeypatch)
    monkeypatch.setattr("embedscope.cli.console._SECONDS_UNTIL_BAR", 0.01)
    shown, until = "", time.monotonic() + 20
    for item in Talk().track([1, 2], "working", 2):
        while item == 1 and "0:00:00" not in shown and time.monotonic() < until:
            time.sleep(0.05)
            shown += capsys.readouterr().err
    assert "0/2" in shown
    assert "2/2" in capsys.readouterr().err


def test_short_work_shows_no_bar(capsys, monkeypatch):
    show_a_terminal(monkeypatch)
    assert list(Talk().track([1, 2], "working", 2)) == [1, 2]
    assert "working" not in capsys.readouterr().err


def test_a_bar_ends_where_the_work_fails(capsys, monkeypatch):
    show_a_terminal(monkeypatch)
    monkeypatch.setattr("embedscope.cli.console._SECONDS_UNTIL_BAR", 0)

    def work():
        time.sleep(0.3)  # until the bar is there
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(Talk().track(work(), "working", 2))
    assert "\x1b[?25h" in capsys.readouterr().err  # the cursor shows again


def test_quiet_says_nothing(capsys):
    talk = Talk(quiet=True)
    talk.say("a")
    talk.detail("b")
    assert list(talk.track([1], "c", 1)) == [1]
    assert capsys.readouterr() == ("", "")
