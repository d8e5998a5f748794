"""Draws curves in TensorBoard of results that come late and out of order."""

import json
import logging
import zlib
from functools import partial

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from ..files.atomic import list_numbered, write_atomically
from ..files.run_directory import RunDirectory

logger = logging.getLogger(__name__)

NAME = "events.out.tfevents.{:010d}"


class Curves:
    """Writes event files from which TensorBoard draws each result at its iteration.

    They are in `evaluation/`: of several writers in one folder, as the training would be another,
    TensorBoard follows only the last (tensorboard#1011). It reads the files of a folder by name,
    each once, and draws points in the order in which they come. So every update is a new
    file, written atomically. Where a result is older than one that is drawn, the file makes
    TensorBoard forget all results first, and then has all of them.
    """

    def __init__(self, folder: RunDirectory):
        self.folder = folder

    def update(self):
        """Draws what is not drawn yet. Several processes may do it at once."""
        while True:
            number, drawn, is_known = self._last()
            results = self.folder.results()  # after that file is there: all it has are among them
            marks = {str(i): _mark(result) for i, result in results.items()}
            new = [int(i) for i, mark in marks.items() if drawn.get(i) != mark]
            if not new:
                return
            log = SessionLog(status=SessionLog.CHECKPOINT, msg=json.dumps(marks))
            if not is_known or (drawn and min(new) <= max(map(int, drawn))):
                log.status, new = SessionLog.START, results  # forget all from step 0 on
            events = [Event(file_version="brain.Event:2"), Event(session_log=log)]
            published = self.folder.published()
            for iteration in new:
                # By the trainer's clock, as the points of the training are.
                time = published.get(iteration, {}).get("time", 0)
                events += _scalars(iteration, time, results[iteration])
            path = self.folder.shared / NAME.format(number + 1)
            if write_atomically(path, partial(_write, events), exclusive=True):
                return

    def _last(self):
        """The number of the last file; what is drawn since: marks of results by iteration; and
        whether that is known, which it is not if the file is damaged.
        """
        files = list_numbered(self.folder.shared, r"events\.out\.tfevents\.(\d+)")
        if not files:
            return 0, {}, True
        path, (number,) = files[-1]
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                if event.HasField("session_log"):
                    return number, dict(json.loads(event.session_log.msg)), True
        except Exception as error:  # whatever its readers make of it
            logger.info("Curves are drawn anew: %s cannot be read (%s)", path, error)
        return number, {}, False


def _scalars(iteration, time, result):
    for name, value in result.items():
        if "/" in name:  # a metric
            yield Event(wall_time=time, step=iteration, summary=scalar(name, value))
            step = round(1000 * result["epoch"])
            yield Event(wall_time=time, step=step, summary=scalar(f"by_epoch/{name}", value))


def _mark(result):
    return zlib.crc32(json.dumps(result).encode())


def _write(events, file):
    records = RecordWriter(file)
    for event in events:
        records.write(event.SerializeToString())
