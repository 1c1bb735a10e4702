"""What is validated under DDP is one network, the one that a checkpoint keeps."""

import torch.distributed
from lightning import Callback, LightningModule, Trainer


class SharedStatistics(Callback):
    """Gives all ranks the first one's running statistics when a fit begins to validate.

    Each rank's batch norm gathers its own, and only the first one's are saved. Measured with those of whichever rank
    sees an example, a figure would change with the number of ranks and be none of the checkpoint's. Lightning does the
    same before a test. DDP's own ``broadcast_buffers`` would exchange them at every forward.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not torch.distributed.is_initialized():
            return
        for buffer in pl_module.buffers():
            if buffer.is_floating_point():  # counts are the same
                torch.distributed.broadcast(buffer, src=0)
