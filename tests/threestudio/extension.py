"""An extension of threestudio as its users write them, for a checkout's `custom` folder."""

from __future__ import annotations

from typing import Any

import threestudio
import torch
from threestudio.systems.dreamfusion import DreamFusion


@threestudio.register("busy-system")
class Busy(DreamFusion):
    """Reads its learning rate, scales gradients, remembers losses in plain attributes, and wakes late."""

    def configure(self) -> None:
        super().configure()
        self.warmth, self._losses, self.trace = 1.0, 0, torch.zeros(2)

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.warmth = 1.0 / (1 + self.trainer.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"] / self.optimizers().param_groups[1]["lr"]
        epoch = self.lr_schedulers().last_epoch
        scale = 1 + 0.01 * rate + 0.1 * epoch + self.warmth + self.trace.mean() * self._losses
        return {"loss": out["loss"] * scale, "scale": float(scale)}

    def on_after_backward(self) -> None:
        for parameter in self.geometry.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5 + self.warmth)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_value_(group["params"], 1e3 * group["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self._losses += 1
        if self._losses >= 4:
            self.trace = torch.stack([self.trace[1], torch.tanh(outputs["loss"] * outputs["scale"])])


@threestudio.register("warm-up-system")
class WarmUp(DreamFusion):
    """Lightning's documented warm-up of the learning rate."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 500.0) * 0.01


@threestudio.register("forgetful-system")
class Forgetful(DreamFusion):
    """Weighs a loss by how many there were, in a list that nobody can put back."""

    def configure(self) -> None:
        super().configure()
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        if self.true_global_step >= self.wakes:
            self.losses.append(float(out["loss"].detach()))
        return {"loss": out["loss"] * (1 + len(self.losses))}

    wakes = 0


@threestudio.register("sleepy-system")
class Sleepy(Forgetful):
    """The same from step 9 on."""

    wakes = 9
