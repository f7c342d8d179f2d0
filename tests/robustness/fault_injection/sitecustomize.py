"""Faults for a process that is to have one: Python imports this file first when its folder is in
PYTHONPATH.

FAULT=kill:N       SIGKILL in the middle of the Nth training step
FAULT=torn:N       SIGKILL in the middle of the Nth checkpoint
FAULT=hang:N       the Nth step takes ten minutes
FAULT=nan:N        the loss of the Nth step is not a number; inf:N, it is infinite
FAULT=slow         each step takes 50 ms longer
FAULT=short:N      memory is too short for the Nth step
FAULT=end:N        SIGTERM in the middle of the end of the Nth run
FAULT=flip:N       after the Nth checkpoint a bit of it flips, then SIGKILL
FAULT_RANK=R       only of the processes of a run that share its batches, the one of this rank

FAULT=kill:2@ONE;hang:1@OTHER  faults of processes whose command lines name ONE or OTHER
"""

import os
import signal
import sys
import time

faults = (fault.partition("@") for fault in os.environ.get("FAULT", "").split(";"))
own = next((fault for fault, _, name in faults if any(name in word for word in sys.orig_argv)), "")
kind, _, count = own.partition(":")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fault_in_step() -> None:
    from eyevsai.training.trainer import Trainer

    original, calls = Trainer._backward, []

    def backward(self, *arguments):
        calls.append(1)
        if kind == "slow":
            time.sleep(0.05)
        elif len(calls) == int(count) and kind == "kill":
            die()
        elif len(calls) == int(count) and kind == "hang":
            time.sleep(600)
        elif len(calls) == int(count) and kind == "short":
            raise MemoryError
        logits, loss = original(self, *arguments)
        return logits, loss * float(kind) if kind in ("nan", "inf") and len(calls) == int(
            count
        ) else loss

    Trainer._backward = backward


def fault_in_save() -> None:
    from eyevsai.training import checkpoint

    original, save, calls = checkpoint._write_tensors, checkpoint.Checkpoints.save, []

    def write(tensors, path):
        calls.append(1)
        original(tensors, path)
        if kind == "torn" and len(calls) == int(count):
            os.truncate(path, path.stat().st_size // 2)
            die()

    def save_and_flip(self, tensors, state):
        save(self, tensors, state)
        if kind == "flip" and len(calls) == int(count):
            path = max(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            die()

    checkpoint._write_tensors = write
    checkpoint.Checkpoints.save = save_and_flip


def fault_in_end() -> None:
    from eyevsai.tracking import run_lifecycle

    original, calls = run_lifecycle._end, []

    def end(*arguments):
        calls.append(1)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    run_lifecycle._end = end


if os.environ.get("FAULT_RANK", os.environ.get("RANK", "0")) != os.environ.get("RANK", "0"):
    kind = "none"
if kind and any(word.startswith(("eyevsai", "entrypoints")) for word in sys.orig_argv):
    if os.environ.get("FAULT_KEEP"):
        from eyevsai.store.run_dir import RunDir

        RunDir.delete = lambda self: None
    if kind in ("kill", "hang", "slow", "nan", "inf", "short"):
        fault_in_step()
    if kind in ("torn", "flip"):
        fault_in_save()
    if kind == "end":
        fault_in_end()
