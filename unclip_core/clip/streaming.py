"""A large image tower run once, with one block of it in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..pages import drop_mapped_pages

_BLOCKS = "visual.transformer.resblocks"


def encode_streamed(network: nn.Module, read: Callable[..., dict[str, Tensor]], pixels: Tensor) -> Tensor:
    """What `network.encode_image(pixels)` gives, on the device and in the dtype of `pixels`.

    network: an open_clip model with a plain ViT, on the meta device, where it is left. read: `read(part=..., without=
    ...)` gives the weights of a submodule (see `assemble`). Slower than a loaded network by the reading alone.
    """
    network.eval()

    def load(module: nn.Module, state: dict[str, Tensor], strict: bool = True) -> None:
        moved = {name: value.to(pixels.device, pixels.dtype) for name, value in state.items()}
        module.load_state_dict(moved, strict=strict, assign=True)
        for value in state.values():
            drop_mapped_pages(value)

    def before(name: str) -> Callable[..., None]:
        return lambda block, inputs: load(block, read(part=name))

    def after(block: nn.Module, inputs: object, output: object) -> None:
        for parameter in block.parameters():
            drop_mapped_pages(parameter)
        block.to("meta")

    load(network.visual, read(part="visual", without=_BLOCKS), strict=False)
    hooks = []
    for index, block in enumerate(network.visual.transformer.resblocks):
        hooks += [block.register_forward_pre_hook(before(f"{_BLOCKS}.{index}")), block.register_forward_hook(after)]
    try:
        return network.encode_image(pixels)
    finally:
        for hook in hooks:
            hook.remove()
        network.to("meta")
