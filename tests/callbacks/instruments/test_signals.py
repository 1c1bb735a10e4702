"""Signals that ask a command to stop; where a training stops is tests/callbacks/test_checkpoint.py's."""

import os
import signal

import pytest

from callbacks.instruments.signals import Interrupted, answered_at_once, watched


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_at_once_by_the_shell_s_code_and_gives_the_handlers_back(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as ended, answered_at_once():
        os.kill(os.getpid(), signum)
        signal.pause()
    assert ended.value.code == 128 + signum
    assert signal.getsignal(signum) is before


def test_what_listens_to_a_scheduler_s_signal_hears_it_once_the_run_has_stopped():
    """As submitit does, which has the job started again."""
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: heard.append((signum, list(stopped))))
    stopped = []
    try:
        with pytest.raises(Interrupted), answered_at_once():
            try:
                os.kill(os.getpid(), signal.SIGUSR2)
                signal.pause()
            finally:
                stopped.append(True)
        assert heard == [(signal.SIGUSR2, [True])]
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert signal.SIGUSR2 not in watched()


@pytest.mark.parametrize(
    ("code", "said"), [(0, "is put back into the queue"), (1, "could not be put back into the queue (busy)")]
)
def test_slurm_s_job_is_put_back_by_its_first_process(tmp_path, monkeypatch, capsys, code, said):
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho busy >&2\nexit {code}\n')
    command.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        with pytest.raises(Interrupted) as ended, answered_at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.pause()
        assert ended.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 12\n"
    assert capsys.readouterr().err == f"SLURM's job 12 {said}.\n"
