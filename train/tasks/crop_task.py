"""What the tasks that train on crops have in common."""

from __future__ import annotations

import contextlib
from typing import Any

from triforce.train.data.base import Crops
from triforce.train.data.crop_stream import streaming
from triforce.train.tasks.base import Task


class CropTask(Task):
    """A task whose batches are crops of clips, which other processes may read ahead."""

    config: Any
    crops: Crops

    def read_ahead(self) -> contextlib.AbstractContextManager[None]:
        config = self.config
        return streaming(self.crops.streamed, config, config.part_size, config.max_steps * config.accumulation)
