import io

from rich.console import Console

from mpt_jax.training import progress
from mpt_jax.training.progress import TrainingProgress


def shown(*, terminal, done=0):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with TrainingProgress("teach", 4, done=done, console=console) as bar:
        for step in range(done + 1, 5):
            bar.update(step, f"loss 0.{step}")
        bar.note("validation [x] 0.9")
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    lines = shown(terminal=False, done=2).splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "teach: 3/4 loss 0.3",
        "teach: 4/4 loss 0.4",
        "teach: validation [x] 0.9",
    ]
    assert "left)" in lines[0]


def test_few_plain_lines():
    assert len(shown(terminal=False).splitlines()) == 2  # the last step and the note


def test_a_bar_in_a_terminal():
    text = shown(terminal=True)
    assert "4/4" in text and "loss 0.4" in text and "left" in text


def test_clock():
    assert [progress._clock(s) for s in (0, 59.6, 61, 3661)] == ["0:00", "1:00", "1:01", "1:01:01"]
