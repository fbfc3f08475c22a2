"""Runs trainings, several at a time, and goes on with those that were stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from benchmarks.records import (
    Facts,
    Record,
    facts_now,
    read_facts,
    read_record,
    write_facts,
    write_record,
)
from utils.errors import Terminated, UserError
from utils.record.log_csv import DATA_FILE, LOG_FILE, read_rows
from utils.run.runs import CONFIG_FILE, FINAL, ROOTS

ROOT = Path(__file__).parent.parent


def folder_flags(above: Path | str, below: str = "") -> list[str]:
    """Returns the flags of a run's folders: above/logs/below, and so on."""
    return [text for root in ROOTS for text in (f"--{root}_dir", str(Path(above, root, below)))]


def completed(*command: str, allowed: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a Python script; UserError if it ends with a code other than 0 and `allowed`."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode not in (0, allowed):
        raise UserError(
            f"{shlex.join(command)}: ended with code {done.returncode}; {done.stderr[-300:]}"
        )
    return done


CHILDREN: set[subprocess.Popen[bytes]] = set()  # the trainings that run
SECONDS = re.compile(r"(\d+\.\d) \((\d+\.\d)\)$", re.MULTILINE)


def seconds_of(text: str) -> list[tuple[float, float]]:
    """Returns the seconds of each epoch that a run printed, and those of its steps."""
    return [(float(all_of_it), float(steps)) for all_of_it, steps in SECONDS.findall(text)]


@dataclasses.dataclass(frozen=True)
class Training:
    """A run: where it is, and how it is repeated."""

    name: str
    script: str
    flags: str
    """{start} stands for the model that it starts from."""
    folder: str = "table"
    """Below logs, checkpoints and config."""
    after: str = ""
    """The training whose model it starts from."""
    start: str = "best.keras"
    """Which of its models."""

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python {self.script} {self.flags.format(start=self.begin())}"

    def begin(self) -> Path | None:
        """Returns the model that it starts from, if it is there."""
        before = dataclasses.replace(self, name=self.after)
        found = before.find("checkpoints", f"**/{self.start}") if self.after else None
        return found and found.relative_to(ROOT)

    def find(self, root: str, file: str) -> Path | None:
        """Returns a file of the run below logs/ or checkpoints/, if it is there."""
        return next(iter(sorted((ROOT / root / self.folder).rglob(f"{self.name}/{file}"))), None)

    @property
    def finished(self) -> bool:
        return self.find("checkpoints", FINAL) is not None

    def train(self, threads: int) -> None:
        """Trains to the end, from where it stopped if it was begun; on so many threads."""
        self.check()
        if self.finished:
            return
        start = self.begin()
        if self.after and start is None:
            raise UserError(f"{self.name}: starts from {self.after}, which has no {self.start}")
        begun = self.find("logs", CONFIG_FILE)
        flags = self.flags.format(start=start).split()
        flags = ["--resume", str(begun.parent)] if begun else [
            *flags, "--run_name", self.name, *folder_flags("", self.folder),
        ]  # fmt: skip
        environment = os.environ | {
            name: str(threads)
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        }
        output = self.facts_file.with_suffix(".txt")
        output.parent.mkdir(parents=True, exist_ok=True)
        if not begun:
            write_facts(self.facts_file, facts_now(self.command, self.flags))
        with output.open("a") as file, subprocess.Popen(
            [sys.executable, self.script, *flags],
            cwd=ROOT, env=environment, stdout=file, stderr=file,
        ) as child:  # fmt: skip
            CHILDREN.add(child)
            code = child.wait()
            CHILDREN.remove(child)
        if code:
            if self.find("logs", CONFIG_FILE) is None:  # it never began
                self.facts_file.unlink()
            told = output.read_text("utf-8", "replace").strip()[-300:]
            raise UserError(f"{self.name}: ended with code {code}; see {output}: {told}")

    def check(self) -> None:
        """Raises `UserError` if it was begun with other settings, or nobody knows with which."""
        before = self.facts()
        if before:
            wrong = not before.made_with(self.flags)
        else:
            wrong = self.finished or bool(self.find("logs", CONFIG_FILE))
        if wrong:
            raise UserError(
                f"{self.name}: was begun with {'other' if before else 'unknown'} settings; to "
                f"train it anew, remove its folders below logs/{self.folder}, "
                f"checkpoints/{self.folder} and config/{self.folder}, and "
                f"{self.facts_file.relative_to(ROOT)}"
            )

    @property
    def facts_file(self) -> Path:
        return ROOT / "logs" / self.folder / f"{self.name}.json"

    def facts(self) -> Facts | None:
        """Returns how it was begun, if it was."""
        return read_facts(self.facts_file) if self.facts_file.exists() else None

    def ended(self) -> Facts | None:
        """Returns how it was made, if it has ended here, with the settings that it has now."""
        facts = self.facts()
        return facts if facts and self.finished and facts.made_with(self.flags) else None

    def keep(self) -> Record | None:
        """Returns the record of this training; writes it first, if the training has just ended.

        None: it has not ended, or it was made with other settings.
        """
        there = read_record(self.name)
        if there and there.facts.made_with(self.flags):
            return there
        facts, last = self.ended(), self.find("logs", LOG_FILE)
        if facts is None or last is None:
            return None
        digests = json.loads((last.parent / DATA_FILE).read_text("utf-8"))
        stages = [read_rows(table) for table in (*last.parent.glob(f"*/{LOG_FILE}"), last)]
        write_record(self.name, dataclasses.replace(facts, data=digests), stages)
        return read_record(self.name)


def train_all(trainings: Sequence[Training], known: Sequence[Training], jobs: int) -> None:
    """Trains what is not finished, `jobs` at a time; what others start from comes first.

    Args:
        trainings: what is wanted.
        known: where those are that the wanted ones start from.
        jobs: how many at a time.

    Raises:
        UserError: some trainings failed; the others have ended.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: dict[str, Future[None]] = {}

    def train(training: Training) -> None:
        if training.after in running:
            running[training.after].result()
        training.train(threads)

    by_name = {training.name: training for training in known}
    ordered: dict[str, Training] = {}
    for wanted in trainings:
        chain = [wanted]
        while chain[0].after in by_name:
            chain.insert(0, by_name[chain[0].after])
        ordered |= {training.name: training for training in chain}
    for training in ordered.values():
        training.check()
    failures = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for name, training in ordered.items():
            running[name] = pool.submit(train, training)
        for future in tqdm(running.values(), desc="trainings", unit="run"):
            try:
                future.result()
            except UserError as error:
                failures.append(str(error))
    except Terminated:  # Ctrl-C reaches the trainings by itself
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(CHILDREN):
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise UserError("; ".join(dict.fromkeys(failures)))
